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
from trainer.data.ring import Slot

IntArray = npt.NDArray[np.int64]
_NO_TIMES = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What makes batches: the same job and step give the same bytes in any process.

    Args:
        parts: the data sets, one or several; they pickle as their addresses.
        specs: what is to be seen of every video, one or several.
        samples: (n,) numbers of the samples in use, which count through all parts.
        order: of the places 0..n−1 in `samples`.
        seed: of all draws.
        batch: global batch; this rank makes rows first..first+rows−1 of it.
        slot: the arrays to fill, of each spec.
        threads: that decode at once.
    """

    parts: tuple[Dataset, ...]
    specs: tuple[ClipSpec, ...]
    samples: IntArray
    order: ItemOrder
    seed: int
    batch: int
    first: int
    rows: int
    slot: Slot
    threads: int

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        return columns_of(self.specs)

    @cached_property
    def firsts(self) -> IntArray:
        """(P,) number of each part's first sample."""
        return np.cumsum([0, *(len(part) for part in self.parts[:-1])], dtype=np.int64)


@dataclass(frozen=True)
class Row:
    """One row of a batch: what it shows for each spec, of which sample: `sample` counts within the part, `number`
    through all."""

    part: int
    sample: int
    number: int
    plans: tuple[ClipPlan, ...]


def columns_of(specs: Sequence[ClipSpec]) -> tuple[str, ...]:
    """All columns that some specs read, those of the first spec first."""
    return tuple(dict.fromkeys(column for spec in specs for column in spec.columns))


def pictured(specs: Sequence[ClipSpec]) -> dict[str, list[tuple[int, str]]]:
    """Column of pictures → (number of a spec that shows it, name of the array it comes in) for each use of it."""
    found: dict[str, list[tuple[int, str]]] = {}
    for view, spec in enumerate(specs):
        for name, column in (("clips", spec.column), ("flow", spec.flow)):
            if column is not None:
                found.setdefault(column, []).append((view, name))
    return found


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
    found = list(zip(parts.tolist(), samples.tolist(), items.epoch.tolist(), items.repeat.tolist(), strict=True))
    plans = []
    for view, spec in enumerate(job.specs):
        tables = _tables(job, spec, parts, samples)
        dealt = _dealt(job, spec, step, count)
        mine = []
        for fact, (part, sample, epoch, repeat), row in zip(facts, found, dealt, strict=True):
            # Each spec has a stream of its own, the first one that which it has alone.
            rng = rng_for(job.seed, epoch, sample, repeat, view << 32 | part)
            mine.append(_plan(job, view, fact, rng, tables.get((part, sample)), part, sample, row))
        plans.append(mine)
    rows = zip(parts.tolist(), samples.tolist(), numbers.tolist(), zip(*plans, strict=True), strict=True)
    return [Row(*row) for row in rows]


def _tables(job: Job, spec: ClipSpec, parts: IntArray, samples: IntArray) -> dict[tuple[int, int], ClipTable]:
    """The clip table of every (part, sample), where the spec asks for them; clips of one sample share it."""
    if spec.table is None:
        return {}
    places = list(dict.fromkeys(zip(parts.tolist(), samples.tolist(), strict=True)))
    calls = [partial(job.parts[part].clip_table, sample, column=spec.table) for part, sample in places]
    return dict(zip(places, read_together((part.storage for part in job.parts), calls), strict=True))


def _dealt(job: Job, spec: ClipSpec, step: int, count: int) -> Sequence[int | None]:
    """Which of the spec's stride rows each item gets, where the batch deals them out."""
    if not spec.deal:
        return [None] * count
    first = job.first
    rows = dealt_rows(spec, seed=job.seed, step=step, batch=job.batch, start=first, stop=first + count)
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
    if any(spec.fps is not None for spec in job.specs):
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
    view: int,
    facts: VideoFacts,
    rng: np.random.Generator,
    table: ClipTable | None,
    part: int,
    sample: int,
    row: int | None,
) -> ClipPlan:
    spec, layout = job.specs[view], job.slot.layouts[view]
    try:
        plan = spec.plan(facts, rng, table, row=row)
        height, width = spec.shown_size(facts)
        if (height, width) != (layout.height, layout.width):
            raise UserError(
                f"it is shown at {height}x{width} (height x width) and others at "
                f"{layout.height}x{layout.width}; set data.crop, or data.resize to one size"
            )
    except UserError as error:
        raise UserError(f"sample {job.parts[part].key(sample)}: {error}") from error
    return plan
