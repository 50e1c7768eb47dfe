"""`train`: from a recipe and a data set to a run folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shards.dataset import Dataset
from shards.errors import UserError
from shards.mixture import Mixture, open_data
from shards.receipts import package_versions
from trainer.config import Recipe, load_recipe
from trainer.data.loader import Loader
from trainer.engine.build import held_out, loader_of, task_of
from trainer.engine.checkpoint import Checkpoint, read_checkpoint
from trainer.engine.device import describe_device
from trainer.engine.distributed import Ranks, open_ranks
from trainer.engine.loop import Notify, Parts, Trainer, precision
from trainer.engine.runs import (
    INFO,
    RECIPE,
    check_free,
    default_out,
    describe_data,
    left_out,
    locked,
    resume_point,
    sources_of,
    stale_notes,
    write_text,
)
from trainer.engine.schedule import Length
from trainer.engine.sinks import Sink, check_sinks, open_sinks
from trainer.engine.skips import Skips
from trainer.engine.stop import Stop, parse_duration
from trainer.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        run: the run folder.
        data: the data set, of several the first.
        step, total: steps done and to be done.
        epoch: epochs done.
        stopped: "" at the end, else "max-time", "SIGINT", "SIGTERM" or "launcher".
        log: the last log line: loss, the task's scalars, lr, clips_per_s, data_wait, memory_mb; empty if nothing was
            left to do.
        resume_command: the command line that goes on.
        skipped: steps that were left out, counted from 1; see `train`'s `skip_nan`.
    """

    run: Path
    data: str
    step: int
    total: int
    epoch: float
    stopped: str
    log: Mapping[str, float]
    resume_command: str
    skipped: tuple[int, ...] = ()

    @property
    def finished(self) -> bool:
        return self.step >= self.total


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    data: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    max_time: float | str | None = None,
    log: Sequence[str] = ("csv",),
    skip_nan: int = 0,
    on_event: Notify | None = None,
) -> RunResult:
    """Train by a recipe on a packed data set. Needs no main guard; under torchrun it is one of the processes.

    A run that is stopped and resumed ends with the bytes of one that was not, for an equal number of torch threads on
    the CPU and an equal number of processes; kernels of a GPU may round differently from run to run.

    Args:
        recipe, overrides: as for `trainer.config.load_recipe`.
        data: the data set; or several, "DEST" or "DEST=WEIGHT" (`shards.mixture.open_data`, docs/order.md).
        out: run folder; default runs/RECIPE-DATASET.
        resume: go on from the newest checkpoint of `out`, if there is one.
        init: run folder or weights file the backbone starts from; overrides the recipe's `init`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        max_time: seconds, or text such as "2h"; then save and stop.
        log: sinks, of "csv" (always on), "tensorboard", "wandb".
        skip_nan: so many steps of the whole run, resumed or not, are left out if their loss is not finite; the next
            one ends the run. While any are left, every step waits for its loss and keeps a copy of the task's buffers.
        on_event: called on rank 0 with dicts: "event" and plain values.

    Raises:
        UserError: anything that the caller can mend, with how.
    """
    resolved = load_recipe(recipe, overrides)
    if init is not None:
        resolved = resolved.model_copy(update={"init": str(init)})
    check_sinks(log)
    Skips(skip_nan)  # refused before anything is built
    stop = Stop(None if max_time is None else parse_duration(max_time))
    with ExitStack() as stack:
        ranks = stack.enter_context(open_ranks(device))
        gpus = [ranks.device] if ranks.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=gpus))  # the caller's generators stay as they were
        benchmark = torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)
        stack.enter_context(benchmark)
        stack.enter_context(stop.listening())
        notify = on_event if on_event is not None and ranks.is_main else _silent
        start = _Start(
            resolved, Path(out) if out is not None else None, resume, device, ranks, stop, tuple(log), skip_nan, notify
        )
        return start.train(data, stack)


@dataclass(frozen=True)
class _Start:
    """The arguments of `train`, checked."""

    recipe: Recipe
    out: Path | None
    resume: bool
    device: str
    ranks: Ranks
    stop: Stop
    log: tuple[str, ...]
    skip_nan: int
    notify: Notify

    def train(self, data: str | Path | Sequence[str | Path], stack: ExitStack) -> RunResult:
        recipe, ranks = self.recipe, self.ranks
        dataset = open_data(data)
        run = self.out or default_out(recipe, dataset)
        precision(recipe.train.precision, ranks.device)  # refused before there is a run folder
        ranks.on_main(lambda: check_free(run, resume=self.resume))
        torch.manual_seed(recipe.train.seed)
        task, loader = ranks.on_all(lambda: self._task_and_loader(dataset))
        stack.enter_context(loader)
        length = Length.of(recipe, samples=len(loader.samples))
        described = describe_data(loader.dataset, loader.samples)

        def open_run() -> tuple[Path | None, list[str]]:
            stack.enter_context(locked(run))
            return resume_point(run, recipe, data=described, length=length)

        path, changed = ranks.on_main(open_run)
        checkpoint = read_checkpoint(path) if path is not None else None
        if checkpoint is None and recipe.init is not None:
            from trainer.api import init_backbone  # noqa: PLC0415 (it imports this package)

            self.notify({"event": "init", "message": init_backbone(task.backbone, recipe.init)})
        parts = Parts(
            recipe=recipe,
            ranks=ranks,
            run=run,
            task=task.to(ranks.device),
            loader=loader,
            length=length,
            stop=self.stop,
            sinks=self._sinks(run, checkpoint, stack),
            notify=self.notify,
            info=self._info(dataset, described),
            skip_nan=self.skip_nan,
        )
        if recipe.train.channels_last:
            for backbone in task.backbones:
                backbone.to(memory_format=torch.channels_last_3d)
        if checkpoint is not None:
            changed = [*changed, *_other_rounding(checkpoint.info, parts.info, task)]
        trainer = Trainer(parts, checkpoint)
        self._announce(trainer, parts, changed)
        result = self._result(trainer, parts, trainer.fit())
        self._write_info(trainer, parts, result)
        return result

    def _task_and_loader(self, dataset: Dataset | Mixture) -> tuple[Task, Loader]:
        recipe, ranks = self.recipe, self.ranks
        check_shares(recipe.train.batch, ranks.world)
        task = task_of(recipe, dataset)
        task.check_batch(recipe.train.batch)
        task.check_columns(dataset)
        loader = loader_of(recipe, dataset, task, ranks)
        task.check_labels(dataset.labels[loader.samples])
        task.prepare(loader.dataset, loader.samples)
        if recipe.train.validation is not None:
            held_out(dataset, recipe.train.validation.split)  # an unknown split is an error now, not after an epoch
        return task, loader

    def _info(self, dataset: Dataset | Mixture, described: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "recipe": self.recipe.tree(),
            "recipe_digest": self.recipe.digest(),
            "classes": list(dataset.classes),
            "data": dict(described),
            "versions": package_versions("vidprep", "torch", "numpy"),
            "device": describe_device(self.ranks.device),
            "world": self.ranks.world,
        }

    def _sinks(self, run: Path, checkpoint: Checkpoint | None, stack: ExitStack) -> list[Sink]:
        sinks: list[Sink] = []

        def open_all() -> None:
            step = checkpoint.step if checkpoint else 0
            write_text(run / RECIPE, self.recipe.yaml())
            sinks.extend(open_sinks(self.log, run, step=step, config=self.recipe.tree()))
            for sink in sinks:
                stack.callback(sink.close)

        self.ranks.on_main(open_all)
        return sinks

    def _announce(self, trainer: Trainer, parts: Parts, changed: Sequence[str]) -> None:
        world, total = parts.ranks.world, parts.length.total
        processes = f", {world} processes" if world > 1 else ""
        failed = left_out(parts.loader.dataset, parts.recipe.data.split)
        where = f"{len(parts.loader.samples)} samples of {parts.loader.dataset.url}{failed}"
        message = f"{parts.recipe.name} on {describe_device(parts.ranks.device)}{processes}: {where} -> {parts.run}"
        self.notify({"event": "start", "total": total, "done": trainer.step, "run": str(parts.run), "message": message})
        for note in (*parts.task.notes, *parts.ranks.on_main(lambda: stale_notes(parts.loader.dataset))):
            self.notify({"event": "note", "message": note})
        if self.resume:
            since = f"; changed: {', '.join(changed)}" if changed else ""
            at = f"going on at step {trainer.step} of {total}{since}" if trainer.step else "no checkpoint yet: step 0"
            self.notify({"event": "resume", "step": trainer.step, "changed": list(changed), "message": at})
        self._write_info(trainer, parts, self._result(trainer, parts, ""))

    def _result(self, trainer: Trainer, parts: Parts, stopped: str) -> RunResult:
        command = ["vidprep", "train", str(parts.run / RECIPE)]
        command += [word for source in sources_of(parts.info["data"]) for word in ("--data", source)]
        command += ["--out", str(parts.run), "--resume"]
        command += [] if self.device == "auto" else ["--device", self.device]
        command += ["--gpus", str(parts.ranks.world)] if parts.ranks.world > 1 else []
        command += ["--skip-nan", str(self.skip_nan)] if self.skip_nan else []
        return RunResult(
            run=parts.run,
            data=str(parts.info["data"]["url"]),
            step=trainer.step,
            total=parts.length.total,
            epoch=parts.length.epoch(trainer.step),
            stopped=stopped,
            log=trainer.row,
            resume_command=shlex.join(command),
            skipped=tuple(it.step for it in trainer.skips.steps),
        )

    def _write_info(self, trainer: Trainer, parts: Parts, result: RunResult) -> None:
        if parts.ranks.is_main:
            progress = {"step": result.step, "total": result.total, "stopped": result.stopped}
            progress |= {"resume": result.resume_command, "skipped": trainer.skips.tree()}
            write_text(parts.run / INFO, json.dumps({**parts.info, **progress}, indent=1) + "\n")


def check_shares(batch: int, world: int) -> None:
    """Refuse a global batch that the processes cannot share out evenly.

    Raises:
        UserError: names the numbers of processes and the batches that go.
    """
    if batch % world == 0:
        return
    shares = [n for n in range(1, batch + 1) if batch % n == 0]
    processes = [max(n for n in shares if n < world), *[n for n in shares if n > world][:1]]
    batches = [n * world for n in (batch // world, batch // world + 1) if n]
    raise UserError(
        f"train.batch is {batch}, of all processes together, and cannot be shared out to {world} evenly: --gpus "
        f"{' or '.join(map(str, processes))}, or another run with --set train.batch={' or '.join(map(str, batches))}"
    )


def _other_rounding(before: Mapping[str, Any], now: Mapping[str, Any], task: Task) -> list[str]:
    """What changed outside the recipe: the batches stay the same, but sums may round in another way, and batch
    normalisation sees other shares of them."""
    norm = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in task.modules())
    shares = "each process normalises by its own share of a batch; equal up to rounding but for that"
    found = []
    for key in ("device", "world", "versions"):
        if before[key] != now[key]:
            why = shares if key == "world" and norm else "equal up to rounding"
            found.append(f"{key}: {before[key]} → {now[key]} ({why})")
    return found


def _silent(event: dict[str, Any]) -> None:
    """Events of runs that nobody watches."""
