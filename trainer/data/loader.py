"""Batches from a packed data set, from any step on. The loader's whole state is the number of the step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.blend import Blend
from shards.dataset import Dataset
from shards.errors import UserError
from shards.mixture import Mixture
from shards.spec import ClipSpec
from trainer.data.batch import Batch
from trainer.data.crew import Crew
from trainer.data.jobs import Specs, flow_zero_of, make_job, open_for
from trainer.data.ring import AllArrays
from trainer.data.worker import Filler

Samples = npt.NDArray[np.int64]


class Loader:
    """The batches of a training run over a data set.

    Which videos a batch shows and how follows from (seed, step) alone: any number of workers, threads and ranks gives
    the same global batches, and so does a start at any step. Epochs are concatenated, so every batch is full.

    With workers, batches are made ahead in shared memory and handed out without a copy. A batch may be kept for as long
    as wanted: its memory is used again when its last tensor (or slice of one) is gone, and while so many are kept
    that workers would have to wait (more than workers + 1), further ones are copies.

    Args:
        url: the data set, or one that is open, or an open mixture of several.
        specs: what the task wants to see of a video: a clip spec; or several, each of which has a batch of its own
            (`Batch.more`) of the same videos, whose bytes are read and decoded once for all.
        batch: videos per step over all ranks.
        seed: selects order and draws.
        repeats: items per sample and epoch.
        split, keep: the selection, as in `Dataset.select`.
        samples: (n,) dataset numbers to use in place of `split` and `keep`.
        shuffle: "full", "blocks:k" or "none", as in `shards.order.Order`.
        clips_per_read: items of a video that come together and share its frames; a divisor of `repeats`.
        weighted: False goes through the samples of a mixture as through those of one data set.
        rank, world: this rank makes rows rank·B/world to (rank+1)·B/world − 1.
        workers: processes; 0 makes batches in this one when they are asked for.
        threads: decoding threads per worker; None shares out this process's cores.
        plugins: modules or files that workers import first.

    Attributes:
        dataset: the data set.
        samples: (n,) numbers of the samples in use.
        wait_seconds: time spent waiting for batches so far.

    Raises:
        UserError: `batch` is not a multiple of `world`, the selection is empty or of unequal sizes without crop, or
            (when iteration begins) there is too little shared memory, naming the setting that fits.
    """

    def __init__(
        self,
        url: str | Path | Dataset | Mixture,
        specs: Specs,
        *,
        batch: int,
        seed: int = 0,
        repeats: int = 1,
        split: str | None = None,
        keep: float | str | Path | None = None,
        samples: Samples | None = None,
        shuffle: str = "full",
        clips_per_read: int = 1,
        weighted: bool = True,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        threads: int | None = None,
        plugins: Iterable[str] = (),
    ) -> None:
        self.dataset = open_for(url, specs)
        self._job = make_job(
            self.dataset,
            specs,
            batch=batch,
            seed=seed,
            repeats=repeats,
            split=split,
            keep=keep,
            samples=samples,
            shuffle=shuffle,
            clips_per_read=clips_per_read,
            weighted=weighted,
            rank=rank,
            world=world,
            workers=workers,
            threads=threads,
        )
        self.samples, self._order = self._job.samples, self._job.order
        self._world, self._plugins, self.workers = world, tuple(plugins), workers
        self._flow_zeros = [flow_zero_of(self.dataset, spec) for spec in self._job.specs]
        self.wait_seconds = 0.0
        self._crew: Crew | None = None
        self._filler: Filler | None = None
        self._turn = object()

    @property
    def epoch_length(self) -> int:
        """Items per epoch."""
        return self._order.epoch_length

    @property
    def steps_per_epoch(self) -> float:
        """Batches per epoch; epochs are concatenated, so this need not be whole."""
        return self.epoch_length / self._job.batch

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[Batch]:
        """Batches start_step, start_step+1, … up to before stop_step (None: without end).

        One iteration at a time: a new one ends the one before.

        Raises:
            UserError, DataError: as the worker met them: a sample too small for the crop, damaged bytes.
            WorkerError: a worker died (with its pid and signal) or failed for another reason (with its traceback).
        """
        if start_step < 0:
            raise UserError(f"the start step is {start_step}; it must be at least 0")
        return self._iterate(start_step, stop_step, None)

    def epoch(self) -> Iterator[Batch]:
        """The first epoch's items, each once: every batch but the last is full, and ranks with an empty share of the
        last batch yield one less. Without shuffling, the selection in order. Errors as `batches`; of a mixture with
        weights there is no such epoch (ValueError)."""
        if isinstance(self._order, Blend):
            raise ValueError("the samples of a mixture come once each only with weighted=False")
        batches = -(-self.epoch_length // self._job.batch)
        full = self._rows(batches - 1, self.epoch_length) > 0
        return self._iterate(0, batches if full else batches - 1, self.epoch_length)

    def close(self) -> None:
        """End the workers at once. Batches that are still held stay valid."""
        self._turn = object()
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _iterate(self, start: int, stop: int | None, end: int | None) -> Iterator[Batch]:
        """Batches start..stop−1, of positions before `end` only."""
        self._turn = turn = object()
        steps = range(start, sys.maxsize if stop is None else stop)
        if self.workers == 0:
            filled = self._fill_here(steps, end)
        else:
            if self._crew is None or self._crew.closed:
                self._crew = Crew(self._job, workers=self.workers, world=self._world, plugins=self._plugins)
            filled = self._crew.filled((step, self._rows(step, end)) for step in steps)
        while True:
            began = time.perf_counter()
            found = next(filled, None)
            self.wait_seconds += time.perf_counter() - began
            if found is None:
                return
            step, rows, arrays = found
            del found
            made = Batch.of(
                step,
                arrays,
                self.dataset.labels,
                rows,
                flow_zeros=self._flow_zeros,
                steps_per_epoch=self.steps_per_epoch,
            )
            parts = [made]
            del arrays, made
            yield parts.pop()  # this frame keeps nothing of the batch, whose memory is used again when it is dropped
            if turn is not self._turn:
                raise RuntimeError("this iteration was ended: the loader was closed or another iteration began")

    def _rows(self, step: int, end: int | None) -> int:
        job = self._job
        return job.rows if end is None else min(job.rows, max(0, end - step * job.batch - job.first))

    def _fill_here(self, steps: range, end: int | None) -> Iterator[tuple[int, int, AllArrays]]:
        if self._filler is None:
            self._filler = Filler(self._job)
        for step in steps:
            slot, rows = self._job.slot, self._rows(step, end)
            arrays = slot.arrays(np.empty(slot.nbytes, np.uint8))
            self._filler.fill(step, rows, arrays)
            yield step, rows, arrays


def once(
    url: str | Path | Dataset,
    spec: ClipSpec,
    samples: Samples,
    *,
    batch: int,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Every one of `samples` once, in order; the last batch is as short as it comes out.

    Over all ranks every sample comes exactly once. A rank's share of the last batch may be empty; then that rank
    yields one batch less. Arguments and errors as for `Loader`.
    """
    with Loader(
        url,
        spec,
        samples=samples,
        batch=batch,
        seed=seed,
        shuffle="none",
        rank=rank,
        world=world,
        workers=workers,
        threads=threads,
    ) as loader:
        yield from loader.epoch()
