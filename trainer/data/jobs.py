"""What a loader is told, made into the job of its workers. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from shards.clips import check_columns
from shards.dataset import Dataset, open_dataset
from shards.errors import UserError
from shards.mixture import Mixture, order_of
from shards.spec import ClipSpec, VideoFacts
from trainer.data.pictures import flow_zero, is_flow, pixel_type
from trainer.data.plans import Job, columns_of
from trainer.data.ring import Layout, Slot

Samples = npt.NDArray[np.int64]
Specs = ClipSpec | Sequence[ClipSpec]


def every_spec(specs: Specs) -> tuple[ClipSpec, ...]:
    """One spec or several as a tuple."""
    return (specs,) if isinstance(specs, ClipSpec) else tuple(specs)


def open_for(url: str | Path | Dataset | Mixture, specs: Specs) -> Dataset | Mixture:
    """A data set or mixture with the columns of one or several specs open.

    Raises:
        UserError: a data set lacks a column, or holds something else in it.
    """
    dataset = open_dataset(url) if isinstance(url, (str, Path)) else url
    for part in parts_of(dataset):
        for spec in every_spec(specs):
            check_columns(part, spec)
    return dataset.with_columns(columns_of(every_spec(specs)))


def make_job(
    dataset: Dataset | Mixture,
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
) -> Job:
    """What the workers of one rank do; arguments and errors as for `trainer.data.loader.Loader`."""
    if samples is None:
        samples = dataset.select(split=split, keep=keep, seed=seed)
    samples = np.asarray(samples, dtype=np.int64)
    _check(batch=batch, rank=rank, world=world, workers=workers)
    order = order_of(
        dataset,
        samples,
        seed=seed,
        repeats=repeats,
        shuffle=shuffle,
        together=clips_per_read,
        weighted=weighted,
    )
    rows = batch // world
    specs = every_spec(specs)
    return Job(
        parts=parts_of(dataset),
        specs=specs,
        samples=samples,
        order=order,
        seed=seed,
        batch=batch,
        first=rank * rows,
        rows=rows,
        slot=Slot(tuple(_layout(dataset, samples, spec, rows) for spec in specs)),
        threads=_cores() // max(1, workers) or 1 if threads is None else threads,
    )


def _layout(dataset: Dataset | Mixture, samples: Samples, spec: ClipSpec, rows: int) -> Layout:
    return Layout(
        rows=rows,
        clips=spec.clips,
        frames=spec.frames,
        jitter=spec.jitter is not None and spec.sampling != "uniform",
        draws=spec.draws,
        **_contents(dataset, samples, spec),
    )


def flow_zero_of(data: Dataset | Mixture, spec: ClipSpec) -> float:
    """The number that stands for no motion in flow planes of the batches; 0 without flow."""
    dataset = parts_of(data)[0]
    flow = spec.flow or (spec.column if is_flow(dataset, spec.column) else None)
    return 0.0 if flow is None else flow_zero(dataset, flow)


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


def _contents(data: Dataset | Mixture, samples: Samples, spec: ClipSpec) -> _Contents:
    """What the batches hold; the same of all parts of a mixture."""
    if isinstance(data, Dataset):
        return _contents_of(data, samples, spec)
    found = []
    for part, low, high in zip(data.parts, data.firsts, data.firsts[1:], strict=False):
        mine = samples[(samples >= low) & (samples < high)] - low
        if len(mine):
            found.append((part.url, _contents_of(part, mine, spec), flow_zero_of(part, spec)))
    (first_url, first, zero), *others = found
    for url, other, other_zero in others:
        if (other, other_zero) != (first, zero):
            ours, theirs = (
                ", ".join(f"{name} {value}" for name, value in {**them, "flow zero": at}.items())
                for them, at in ((first, zero), (other, other_zero))
            )
            raise UserError(
                f"{first_url} and {url} do not make common batches: {ours}; {theirs}. Set data.crop, or make the "
                "columns of both in the same way"
            )
    return first


def _contents_of(dataset: Dataset, samples: Samples, spec: ClipSpec) -> _Contents:
    table = None if spec.table is None else dataset.meta.columns[spec.table]
    height, width = _shown_size(dataset, samples, spec)
    return _Contents(
        height=height,
        width=width,
        channels=2 if is_flow(dataset, spec.column) else 3,
        pixels=pixel_type(dataset, spec.column),
        flow=None if spec.flow is None else pixel_type(dataset, spec.flow),
        targets=0 if table is None else int(table.parameters["numbers"]),
    )


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
