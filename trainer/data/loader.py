"""Batches from a packed data set, from any step on. The loader's whole state is the number of the step."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from shards.clips import check_columns
from shards.dataset import Dataset, open_dataset
from shards.errors import UserError
from shards.mixture import Mixture, order_of
from shards.spec import ClipSpec, VideoFacts
from trainer.data.batch import Batch
from trainer.data.crew import Crew
from trainer.data.pictures import flow_zero, is_flow, pixel_type
from trainer.data.plans import Job
from trainer.data.ring import Arrays, Layout
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
        spec: what the task wants to see of a video.
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
        spec: ClipSpec,
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
        dataset = open_dataset(url) if isinstance(url, (str, Path)) else url
        for part in parts_of(dataset):
            check_columns(part, spec)
        self.dataset = dataset.with_columns(spec.columns)
        if samples is None:
            samples = self.dataset.select(split=split, keep=keep, seed=seed)
        self.samples = np.asarray(samples, dtype=np.int64)
        _check(batch=batch, rank=rank, world=world, workers=workers)
        self._order = order_of(
            self.dataset,
            self.samples,
            seed=seed,
            repeats=repeats,
            shuffle=shuffle,
            together=clips_per_read,
            weighted=weighted,
        )
        self._world, self._plugins, self.workers = world, tuple(plugins), workers
        shown = _shown(self.dataset, self.samples, spec)
        rows = batch // world
        self._job = Job(
            parts=parts_of(self.dataset),
            spec=spec,
            samples=self.samples,
            order=self._order,
            seed=seed,
            batch=batch,
            first=rank * rows,
            rows=rows,
            layout=Layout(
                rows=rows,
                clips=spec.clips,
                frames=spec.frames,
                jitter=spec.jitter is not None and spec.sampling != "uniform",
                **shown.layout,
            ),
            threads=_cores() // max(1, workers) or 1 if threads is None else threads,
        )
        self._flow_zero = shown.flow_zero
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
        last batch yield one less. Without shuffling, the selection in order. Errors as `batches`."""
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
            parts = [Batch.of(step, arrays, self.dataset.labels, rows, flow_zero=self._flow_zero)]
            del arrays
            yield parts.pop()  # this frame keeps nothing of the batch, whose memory is used again when it is dropped
            if turn is not self._turn:
                raise RuntimeError("this iteration was ended: the loader was closed or another iteration began")

    def _rows(self, step: int, end: int | None) -> int:
        job = self._job
        return job.rows if end is None else min(job.rows, max(0, end - step * job.batch - job.first))

    def _fill_here(self, steps: range, end: int | None) -> Iterator[tuple[int, int, Arrays]]:
        if self._filler is None:
            self._filler = Filler(self._job)
        for step in steps:
            layout, rows = self._job.layout, self._rows(step, end)
            arrays = layout.arrays(np.empty(layout.nbytes, np.uint8))
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


def parts_of(data: Dataset | Mixture) -> tuple[Dataset, ...]:
    """The data sets of a mixture, or the one."""
    return data.parts if isinstance(data, Mixture) else (data,)


def _check(*, batch: int, rank: int, world: int, workers: int) -> None:
    if not 0 <= rank < world:
        raise UserError(f"rank {rank} of {world} processes does not exist")
    if batch < 1 or batch % world:
        near = max(world, batch // world * world)
        raise UserError(
            f"the batch of {batch} cannot be shared out to {world} processes evenly: --set train.batch={near}"
        )
    if workers < 0:
        raise UserError(f"workers is {workers}; 0 or more are allowed: --set data.workers=2")


class _Contents(TypedDict):
    height: int
    width: int
    channels: int
    pixels: str
    flow: str | None
    targets: int


@dataclass(frozen=True)
class _ShownAs:
    """What the batches of a data set hold: for their layout, and the number of flow planes for no motion."""

    layout: _Contents
    flow_zero: float

    def text(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in {**self.layout, "flow zero": self.flow_zero}.items())


def _shown(data: Dataset | Mixture, samples: Samples, spec: ClipSpec) -> _ShownAs:
    """What the batches hold; the same of all parts of a mixture."""
    if isinstance(data, Dataset):
        return _shown_of(data, samples, spec)
    found = []
    for part, low, high in zip(data.parts, data.firsts, data.firsts[1:], strict=False):
        mine = samples[(samples >= low) & (samples < high)] - low
        found += [(part.url, _shown_of(part, mine, spec))] if len(mine) else []
    (first_url, first), *others = found
    for url, other in others:
        if other != first:
            raise UserError(
                f"{first_url} and {url} do not make common batches: {first.text()}; {other.text()}. Set data.crop, or "
                "make the columns of both in the same way"
            )
    return first


def _shown_of(dataset: Dataset, samples: Samples, spec: ClipSpec) -> _ShownAs:
    table = None if spec.table is None else dataset.meta.columns[spec.table]
    flow = spec.flow or (spec.column if is_flow(dataset, spec.column) else None)
    height, width = _shown_size(dataset, samples, spec)
    layout = _Contents(
        height=height,
        width=width,
        channels=2 if is_flow(dataset, spec.column) else 3,
        pixels=pixel_type(dataset, spec.column),
        flow=None if spec.flow is None else pixel_type(dataset, spec.flow),
        targets=0 if table is None else int(table.parameters["numbers"]),
    )
    return _ShownAs(layout, 0.0 if flow is None else flow_zero(dataset, flow))


def _shown_size(dataset: Dataset, samples: Samples, spec: ClipSpec) -> tuple[int, int]:
    """(height, width) of all clips."""
    if spec.crop_size is not None:
        return spec.crop_size
    if isinstance(spec.resize, tuple):
        return spec.resize
    stored = dataset.records[["height", "width"]][samples]
    sizes, first, counts = np.unique(stored, return_index=True, return_counts=True)
    if len(sizes) > 1:
        shown = "; ".join(
            f"{size['height']}x{size['width']}: {count} samples, such as {dataset.key(int(samples[at]))}"
            for size, at, count in list(zip(sizes, first, counts, strict=True))[:4]
        )
        raise UserError(
            f"the samples have {len(sizes)} different sizes, which do not make a batch ({shown}): "
            "--set data.crop=SIZE, or --set data.resize=[HEIGHT,WIDTH]"
        )
    facts = VideoFacts(
        frames=1, height=int(sizes[0]["height"]), width=int(sizes[0]["width"]), times_us=np.zeros(1, np.int64)
    )
    return spec.shown_size(facts)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
