"""The loader's worker process: from the number of a step to the decoded clips of its batch. Torch-free.

A worker keeps no position. The trainer sends (slot, step, rows); which items make up the step, what each shows and
where its bytes lie is arithmetic on the step, so any worker can make any batch, from any step on.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cv2

from shards import errors
from shards.errors import UserError
from trainer.data.pictures import Shown, flow_step, is_flow, shown, write_flow, write_frames
from trainer.data.plans import Job, Row, pictured, plan_rows, together
from trainer.data.ring import AllArrays, Arrays, Ring

_CHECK_PARENT_SECONDS = 5.0
_TOGETHER = 8  # items at most that are read before they are decoded, for the same reason as planning first


class Filler:
    """Fills the arrays of a batch."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._pool = ThreadPoolExecutor(job.threads) if job.threads > 1 else None

    def fill(self, step: int, rows: int, arrays: AllArrays) -> None:
        """Write the first `rows` of this rank's rows of batch `step`, for each spec.

        Raises:
            UserError: a sample cannot be shown as the spec asks; names its key.
            DataError: stored bytes are damaged.
        """
        job, parts = self.job, self.job.parts
        # All plans before any pixel: in turn, each would find its code and data gone from the processor's caches.
        found = plan_rows(job, step, rows)
        for view, spec in enumerate(job.specs):
            self._note(found, view, spec.flow or spec.column, arrays[view])
        runs = list(together(found))
        if all(part.storage.near for part in parts):
            size = min(
                _TOGETHER, max(1, len(runs) // (4 * job.threads))
            )  # but enough groups to keep all threads at work
        else:
            size = -(-len(runs) // job.threads)  # what comes from far away is asked for all at once
        self._show(
            [
                (
                    column,
                    [
                        shown(parts, found[start:stop], [(view, arrays[view][name][start:stop]) for view, name in uses])
                        for start, stop in some
                    ],
                )
                for column, uses in pictured(job.specs).items()
                for some in (runs[i : i + size] for i in range(0, len(runs), size))
            ]
        )

    def _note(self, rows: Sequence[Row], view: int, column: str, arrays: Arrays) -> None:
        """Write what the plans of one spec say."""
        for place, row in enumerate(rows):
            plan = row.plans[view]
            arrays["sample"][place] = row.number
            arrays["stride"][place], arrays["frames"][place], arrays["flip"][place] = (
                plan.stride,
                plan.frames,
                plan.flip,
            )
            if plan.jitter is not None:
                for name in ("apply", "factors", "order"):
                    arrays[name][place] = getattr(plan.jitter, name)
            if plan.targets is not None:
                arrays["targets"][place] = plan.targets
            if plan.draws is not None:
                arrays["draws"][place] = plan.draws
            if "flow_step" in arrays:
                arrays["flow_step"][place] = flow_step(self.job.parts[row.part], column, row.sample, plan.size)

    def _show(self, groups: Sequence[tuple[str, Sequence[Shown]]]) -> None:
        """Decode groups of items, each of one column."""
        if self._pool is None:
            for group in groups:
                self._decode(*group)
            return
        # All groups end before an error is raised: nobody writes into a slot that was given back.
        running = [self._pool.submit(self._decode, *group) for group in groups]
        failed = [error for error in (future.exception() for future in running) if error is not None]
        if failed:
            raise failed[0]

    def _decode(self, column: str, items: Sequence[Shown]) -> None:
        (write_flow if is_flow(items[0].dataset, column) else write_frames)(column, items)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@dataclass(frozen=True)
class Filled:
    """A worker's answer to a request; requests are answered in order. Empty: the slot is filled."""

    error: UserError | None = None
    trace: str | None = None


def serve(connection: Connection, argument: tuple[int, int, int]) -> None:
    """Runs in a worker process: receives the job, then fills slots until the trainer ends or closes the pipe.

    Args:
        argument: descriptor of the ring's memory, its number of slots, process id of the trainer.
    """
    fd, slots, parent = argument
    cv2.setNumThreads(0)  # the job's threads are the parallelism
    job: Job = connection.recv()
    ring = Ring(fd, job.slot, slots)
    filler = Filler(job)
    while True:
        # A process that the trainer forked may hold the pipe open after the trainer's death.
        while not connection.poll(_CHECK_PARENT_SECONDS):
            if os.getppid() != parent:
                return
        slot, step, rows = connection.recv()
        try:
            filler.fill(step, rows, ring.arrays(slot))
            answer = Filled()
        except UserError as error:
            # Classes that the trainer may not know (a plugin's) become UserError.
            kind = getattr(errors, type(error).__name__, UserError)
            answer = Filled(error=kind(str(error)))
        except Exception:  # noqa: BLE001 - carried to the trainer, which raises it
            answer = Filled(trace=traceback.format_exc())
        connection.send(answer)
