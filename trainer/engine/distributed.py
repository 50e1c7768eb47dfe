"""The processes of a run: one, or as many as torchrun (or `vidprep train --gpus N`) started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from shards.errors import UserError
from trainer.engine.device import choose_device

T = TypeVar("T")


class SharedError(UserError):
    """An error that another rank raises as well, where it is shown."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank, world: number of this process and of all.
        device: its device.
        control: gloo group for what hosts agree on, so that it never waits for a GPU; None with one process.
    """

    rank: int
    world: int
    device: torch.device
    control: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share_of_cores(self, workers: int) -> int:
        """Cores for each of this rank's loader processes, when all ranks of this machine have as many."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.world > 1 else 1
        return max(1, cores // (max(1, workers) * local))

    def most(self, values: Sequence[int]) -> list[int]:
        """Element-wise maximum over ranks."""
        if self.control is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.control)
        return tensor.tolist()

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def on_all(self, call: Callable[[], T]) -> T:
        """The result of `call`, which every rank makes for itself. A UserError on any is raised on all, so that none
        waits for one that is gone, and told once: by the first rank that has it."""
        if self.control is None:
            return call()
        made: list[T] = []
        error: UserError | None = None
        try:
            made.append(call())
        except UserError as failed:
            error = failed
        told = self.gather(None if error is None else str(error))
        first = next((rank for rank, text in enumerate(told) if text is not None), None)
        if first is None:
            return made[0]
        if error is not None and first == self.rank:
            raise error
        raise SharedError(told[first])

    def on_main(self, call: Callable[[], T]) -> T:
        """The result of `call` on rank 0, on every rank; a UserError there is raised everywhere."""
        if self.control is None:
            return call()
        outcome: list[Any] = [None, None]
        error: UserError | None = None
        if self.is_main:
            try:
                outcome[0] = call()
            except UserError as failed:
                error, outcome[1] = failed, str(failed)
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        if error is not None:
            raise error
        if outcome[1] is not None:
            raise SharedError(outcome[1])
        result: T = outcome[0]
        return result


@contextmanager
def open_ranks(device: str) -> Iterator[Ranks]:
    """Join the other processes, if there are any (WORLD_SIZE), and leave them at the end.

    Args:
        device: as for `trainer.engine.device.choose_device`.
    """
    chosen = choose_device(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    own = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if own:
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set; start processes with "
                "vidprep train … --gpus N, or torchrun --nproc-per-node N -m cli.main train …"
            )
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        if dist.is_initialized() and dist.get_world_size() > 1:
            control = dist.new_group(backend="gloo")
            yield Ranks(dist.get_rank(), dist.get_world_size(), chosen, control)
        else:
            yield Ranks(0, 1, chosen)
    finally:
        if own:
            dist.destroy_process_group()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step of one rank, so that dropout and the like depend on nothing else."""
    state = np.random.SeedSequence((seed, step, rank)).generate_state(2, np.uint32)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))
