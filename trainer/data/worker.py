"""The loader's worker process: from the number of a step to the decoded clips of its batch. Torch-free.

A worker keeps no position. The trainer sends (slot, step, rows); which items make up the step, what each shows and
where its bytes lie is arithmetic on the step, so any worker can make any batch, from any step on.
"""

from __future__ import annotations

import os
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from shards import errors, jpeg
from shards.dataset import Dataset
from shards.errors import DataError, UserError
from shards.order import Order
from shards.rng import rng_for
from shards.spec import ClipPlan, ClipSpec, VideoFacts
from trainer.data.ring import Arrays, Layout, Ring

_CHECK_PARENT_SECONDS = 5.0
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
        work = zip(
            range(rows),
            self._facts(samples),
            samples.tolist(),
            items.epoch.tolist(),
            items.repeat.tolist(),
            strict=True,
        )
        if self._pool is None:
            for item in work:
                self._fill_row(arrays, *item)
            return
        # All rows end before an error is raised: nobody writes into a slot that was given back.
        running = [self._pool.submit(self._fill_row, arrays, *item) for item in work]
        failed = [error for error in (future.exception() for future in running) if error is not None]
        if failed:
            raise failed[0]

    def _facts(self, samples: npt.NDArray[np.int64]) -> list[VideoFacts]:
        """What the plans of some samples depend on."""
        dataset = self.job.dataset
        if self.job.spec.fps is not None:
            return [dataset.facts(sample) for sample in samples.tolist()]
        # Only resampling looks at times, and they are most of the cost of facts.
        sizes = dataset.records[["frames", "height", "width"]][samples].tolist()
        return [VideoFacts(frames=f, height=h, width=w, times_us=_NO_TIMES) for f, h, w in sizes]

    def _fill_row(self, arrays: Arrays, row: int, facts: VideoFacts, sample: int, epoch: int, repeat: int) -> None:
        job = self.job
        try:
            plan = job.spec.plan(facts, rng_for(job.seed, epoch, sample, repeat))
            if tuple(plan.crop[0, 2:].tolist()) != (job.layout.height, job.layout.width):
                raise UserError(
                    f"it is shown at {plan.crop[0, 2]}x{plan.crop[0, 3]} (height x width) and others at "
                    f"{job.layout.height}x{job.layout.width}; set data.crop, or data.resize to one size"
                )
        except DataError:
            raise
        except UserError as error:
            raise UserError(f"sample {job.dataset.key(sample)}: {error}") from error
        arrays["sample"][row] = sample
        arrays["stride"][row] = plan.stride
        arrays["frames"][row] = plan.frames
        arrays["flip"][row] = plan.flip
        if plan.jitter is not None:
            arrays["apply"][row] = plan.jitter.apply
            arrays["factors"][row] = plan.jitter.factors
            arrays["order"][row] = plan.jitter.order
        self._decode(sample, plan, (facts.height, facts.width), arrays["clips"][row])

    def _decode(self, sample: int, plan: ClipPlan, stored: tuple[int, int], out: npt.NDArray[Any]) -> None:
        """Decode each distinct frame once into all places (V,T) of `out` (V,T,H,W,3) that show it."""
        places: dict[int, list[tuple[int, int]]] = {}
        for v, shown in enumerate(plan.frames.tolist()):
            for t, number in enumerate(shown):
                places.setdefault(number, []).append((v, t))
        boxes = [(slice(top, top + h), slice(left, left + w)) for top, left, h, w in plan.crop.tolist()]
        image = np.empty((*stored, 3), np.uint8)
        resized = image if plan.size == stored else np.empty((*plan.size, 3), np.uint8)
        numbers = list(places)
        for number, data in zip(numbers, self.job.dataset.jpegs(sample, numbers), strict=True):
            try:
                jpeg.decode(data, out=image)
            except ValueError:
                self.job.dataset.frames(sample, [number])  # raises the error that names shard and key
                raise
            if resized is not image:
                cv2.resize(image, plan.size[::-1], dst=resized, interpolation=cv2.INTER_LINEAR)
            for v, t in places[number]:
                out[v, t] = resized[boxes[v]]

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
