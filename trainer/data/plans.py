"""Which items make up a batch, and exactly what each of them shows: arithmetic and tables, no pixels. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from shards.dataset import Dataset
from shards.errors import UserError
from shards.order import ItemOrder
from shards.rng import rng_for
from shards.spec import ClipPlan, ClipSpec, VideoFacts, dealt_rows
from shards.storage import read_together
from shards.table import ClipTable
from trainer.data.ring import Layout

IntArray = npt.NDArray[np.int64]
_NO_TIMES = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What makes batches: the same job and step give the same bytes in any process.

    Args:
        parts: the data sets, one or several; they pickle as their addresses.
        spec: what the task wants to see of a video.
        samples: (n,) numbers of the samples in use, which count through all parts.
        order: of the places 0..n−1 in `samples`.
        seed: of all draws.
        batch: global batch; this rank makes rows first..first+rows−1 of it.
        layout: of the arrays to fill.
        threads: that decode at once.
    """

    parts: tuple[Dataset, ...]
    spec: ClipSpec
    samples: IntArray
    order: ItemOrder
    seed: int
    batch: int
    first: int
    rows: int
    layout: Layout
    threads: int

    @cached_property
    def firsts(self) -> IntArray:
        """(P,) number of each part's first sample."""
        return np.cumsum([0, *(len(part) for part in self.parts[:-1])], dtype=np.int64)


@dataclass(frozen=True)
class Row:
    """One row of a batch: what it shows, of which sample: `sample` counts within the part, `number` through all."""

    part: int
    sample: int
    number: int
    plan: ClipPlan


def plan_rows(job: Job, step: int, count: int) -> list[Row]:
    """The first `count` of this rank's rows of batch `step`.

    Raises:
        UserError: a sample cannot be shown as the spec asks; names its key.
    """
    start = step * job.batch + job.first
    items = job.order.items(start, start + count)
    numbers = job.samples[items.sample]
    parts = np.searchsorted(job.firsts, numbers, side="right") - 1
    samples = numbers - job.firsts[parts]
    facts = _facts(job, parts, samples)
    found = zip(parts.tolist(), samples.tolist(), items.epoch.tolist(), items.repeat.tolist(), strict=True)
    tables = _tables(job, parts, samples)
    dealt = _dealt(job, step, count)
    plans = []
    for fact, (part, sample, epoch, repeat), row in zip(facts, found, dealt, strict=True):
        plans.append(_plan(job, fact, tables.get((part, sample)), part, sample, epoch, repeat, row))
    return [Row(*row) for row in zip(parts.tolist(), samples.tolist(), numbers.tolist(), plans, strict=True)]


def _tables(job: Job, parts: IntArray, samples: IntArray) -> dict[tuple[int, int], ClipTable]:
    """The clip table of every (part, sample), where the spec asks for them; clips of one sample share it."""
    if job.spec.table is None:
        return {}
    places = list(dict.fromkeys(zip(parts.tolist(), samples.tolist(), strict=True)))
    calls = [partial(job.parts[part].clip_table, sample, column=job.spec.table) for part, sample in places]
    return dict(zip(places, read_together((part.storage for part in job.parts), calls), strict=True))


def _dealt(job: Job, step: int, count: int) -> Sequence[int | None]:
    """Which of the spec's stride rows each item gets, where the batch deals them out."""
    if not job.spec.deal:
        return [None] * count
    first = job.first
    rows = dealt_rows(job.spec, seed=job.seed, step=step, batch=job.batch, start=first, stop=first + count)
    return [int(row) for row in rows]


def together(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """(start, stop) of the runs of neighbouring rows that show the same sample, and so share one read."""
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or rows[stop].number != rows[start].number:
            yield start, stop
            start = stop


def _facts(job: Job, parts: IntArray, samples: IntArray) -> list[VideoFacts]:
    """What the plans of some samples depend on."""
    if job.spec.fps is not None:
        return [job.parts[part].facts(i) for part, i in zip(parts.tolist(), samples.tolist(), strict=True)]
    # Only resampling looks at times, and they are most of the cost of facts.
    found = np.empty((3, len(samples)), np.int64)
    for part in np.unique(parts).tolist():
        at, dataset = np.flatnonzero(parts == part), job.parts[part]
        records = dataset.records[samples[at]]
        found[:, at] = dataset.frames_of(samples[at]), records["height"], records["width"]
    return [VideoFacts(frames=f, height=h, width=w, times_us=_NO_TIMES) for f, h, w in found.T.tolist()]


def _plan(
    job: Job,
    facts: VideoFacts,
    table: ClipTable | None,
    part: int,
    sample: int,
    epoch: int,
    repeat: int,
    row: int | None,
) -> ClipPlan:
    try:
        plan = job.spec.plan(facts, rng_for(job.seed, epoch, sample, repeat, part), table, row=row)
        height, width = job.spec.shown_size(facts)
        if (height, width) != (job.layout.height, job.layout.width):
            raise UserError(
                f"it is shown at {height}x{width} (height x width) and others at "
                f"{job.layout.height}x{job.layout.width}; set data.crop, or data.resize to one size"
            )
    except UserError as error:
        raise UserError(f"sample {job.parts[part].key(sample)}: {error}") from error
    return plan
