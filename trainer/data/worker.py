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
import numpy as np
import numpy.typing as npt

from shards import errors
from shards.dataset import Dataset
from shards.errors import UserError
from shards.order import Order
from shards.rng import rng_for
from shards.spec import ClipPlan, ClipSpec, VideoFacts
from shards.table import ClipTable
from trainer.data.pictures import Shown, flow_step, is_flow, write_flow, write_frames
from trainer.data.ring import Arrays, Layout, Ring

_CHECK_PARENT_SECONDS = 5.0
_TOGETHER = 8  # items at most that are read before they are decoded, for the same reason as planning first
_NO_TIMES = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What makes batches: the same job and step give the same bytes in any process.

    Args:
        dataset: pickles as its address.
        spec: what the task wants to see of a video.
        samples: (n,) numbers of the samples in use.
        order: of the places 0..n−1 in `samples`.
        seed: of all draws.
        batch: global batch; this rank makes rows first..first+rows−1 of it.
        layout: of the arrays to fill.
        threads: that decode at once.
    """

    dataset: Dataset
    spec: ClipSpec
    samples: npt.NDArray[np.int64]
    order: Order
    seed: int
    batch: int
    first: int
    rows: int
    layout: Layout
    threads: int


class Filler:
    """Fills the arrays of a batch."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._pool = ThreadPoolExecutor(job.threads) if job.threads > 1 else None

    def fill(self, step: int, rows: int, arrays: Arrays) -> None:
        """Write the first `rows` of this rank's rows of batch `step`.

        Raises:
            UserError: a sample cannot be shown as the spec asks; names its key.
            DataError: stored bytes are damaged.
        """
        job = self.job
        start = step * job.batch + job.first
        items = job.order.items(start, start + rows)
        samples = job.samples[items.sample]
        facts = self._facts(samples)
        tables = self._tables(samples)
        # All plans before any pixel: in turn, each would find its code and data gone from the processor's caches.
        plans = [
            self._plan(*item)
            for item in zip(facts, tables, samples.tolist(), items.epoch.tolist(), items.repeat.tolist(), strict=True)
        ]
        arrays["sample"][:rows] = samples
        for row, plan in enumerate(plans):
            arrays["stride"][row], arrays["frames"][row], arrays["flip"][row] = plan.stride, plan.frames, plan.flip
            if plan.jitter is not None:
                for name in ("apply", "factors", "order"):
                    arrays[name][row] = getattr(plan.jitter, name)
            if plan.targets is not None:
                arrays["targets"][row] = plan.targets
        if "flow_step" in arrays:
            column = job.spec.flow or job.spec.column
            for row, (sample, plan) in enumerate(zip(samples.tolist(), plans, strict=True)):
                arrays["flow_step"][row] = flow_step(job.dataset, column, sample, plan.size)
        size = min(_TOGETHER, max(1, rows // (4 * job.threads)))  # but enough groups to keep all threads at work
        shown = {"clips": job.spec.column, "flow": job.spec.flow}
        self._show(
            [
                (column, [Shown(*item) for item in zip(samples.tolist()[some], plans[some], array[some], strict=True)])
                for name, column in shown.items()
                if column is not None
                for array in [arrays[name][:rows]]
                for some in (slice(i, i + size) for i in range(0, rows, size))
            ]
        )

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
        write = write_flow if is_flow(self.job.dataset, column) else write_frames
        write(self.job.dataset, column, items)

    def _facts(self, samples: npt.NDArray[np.int64]) -> list[VideoFacts]:
        """What the plans of some samples depend on."""
        dataset = self.job.dataset
        if self.job.spec.fps is not None:
            return [dataset.facts(sample) for sample in samples.tolist()]
        # Only resampling looks at times, and they are most of the cost of facts.
        frames = dataset.frame_counts[samples].tolist()
        sizes = dataset.records[["height", "width"]][samples].tolist()
        return [
            VideoFacts(frames=f, height=h, width=w, times_us=_NO_TIMES) for f, (h, w) in zip(frames, sizes, strict=True)
        ]

    def _tables(self, samples: npt.NDArray[np.int64]) -> list[ClipTable | None]:
        """The samples' clip tables, where the spec asks for them."""
        name = self.job.spec.table
        if name is None:
            return [None] * len(samples)
        return [self.job.dataset.clip_table(sample, column=name) for sample in samples.tolist()]

    def _plan(self, facts: VideoFacts, table: ClipTable | None, sample: int, epoch: int, repeat: int) -> ClipPlan:
        job = self.job
        try:
            plan = job.spec.plan(facts, rng_for(job.seed, epoch, sample, repeat), table)
            height, width = plan.crop[0, 2:].tolist()
            if (height, width) != (job.layout.height, job.layout.width):
                raise UserError(
                    f"it is shown at {height}x{width} (height x width) and others at "
                    f"{job.layout.height}x{job.layout.width}; set data.crop, or data.resize to one size"
                )
        except UserError as error:
            raise UserError(f"sample {job.dataset.key(sample)}: {error}") from error
        return plan

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
    ring = Ring(fd, job.layout, slots)
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
