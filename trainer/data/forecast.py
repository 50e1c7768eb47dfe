"""What a training run will read, from its order and the index alone: requests, bytes, cache misses, and how well it
mixes. Torch-free.

Items are planned as a worker plans them and their frames looked up in the index, so the counts are those of a run;
only clip tables are read, for their rows say which frames are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

import numpy as np

from shards.dataset import Dataset
from shards.errors import UserError
from shards.mixture import Mixture
from shards.storage import StorageOptions
from shards.storage.base import Span
from shards.storage.spans import Run, coalesce
from trainer.data.jobs import Specs, make_job, open_for
from trainer.data.pictures import shown, stored
from trainer.data.plans import Job, pictured, plan_rows, together
from trainer.data.quality import Quality, quality_of
from trainer.data.shard_use import Cached, Cluster, cached, shards_of, sizes_of, working_set


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will read.

    Attributes:
        samples, shards, tar_bytes: of the selection: how many, the shards they lie in, the bytes of these shards.
        items, clips, steps, epochs, shuffle: of the run.
        counted: items that were counted one by one; fewer than `items`: reads and bytes are an estimate.
        reads, bytes: of ranges, without a cache.
        working_set: bytes of the shards that are in use at once; a node's cache of that size fetches each about once an
            epoch.
        cached: with a cache; None without.
        quality: how well the order mixes.
    """

    samples: int
    shards: int
    tar_bytes: int
    items: int
    clips: int
    steps: int
    epochs: float
    shuffle: str
    counted: int
    reads: int
    bytes: int
    working_set: int
    cached: Cached | None
    quality: Quality


def forecast(
    data: Dataset | Mixture,
    specs: Specs,
    cluster: Cluster,
    *,
    batch: int,
    steps: int | None = None,
    epochs: float | None = None,
    seed: int = 0,
    repeats: int = 1,
    split: str | None = None,
    keep: float | str | None = None,
    shuffle: str = "full",
    clips_per_read: int = 1,
) -> Forecast:
    """Count what `Loader` would read with these arguments.

    Args:
        steps, epochs: one of them at most; default one epoch.

    Raises:
        UserError: as `Loader`, or a column whose bytes are not frames that the index knows.
    """
    if steps is not None and epochs is not None:
        raise UserError(f"give steps ({steps}) or epochs ({epochs:g}), not both")
    data = open_for(data, specs)
    job = make_job(
        data,
        specs,
        batch=batch,
        seed=seed,
        repeats=repeats,
        split=split,
        keep=keep,
        shuffle=shuffle,
        clips_per_read=clips_per_read,
        world=cluster.ranks,
        workers=cluster.workers,
    )
    length = job.order.epoch_length
    count = steps if steps is not None else ceil((1 if epochs is None else epochs) * length / batch - 1e-9)
    if count < 1:
        raise UserError(f"a run of {count} steps reads nothing")
    counted, reads, size = _ranges(job, cluster, count)
    scale = count * batch / counted
    held = shards_of(job)
    sizes = sizes_of(job)
    capacity = cluster.cache if cluster.cache is not None else _own_cache(job)
    return Forecast(
        samples=len(job.samples),
        shards=len(held),
        tar_bytes=sum(sizes[tar] for tar in sizes if (tar[0], tar[2]) in held),
        items=count * batch,
        clips=count * batch * sum(spec.clips for spec in job.specs),
        steps=count,
        epochs=count * batch / length,
        shuffle=shuffle,
        counted=counted,
        reads=round(reads * scale),
        bytes=round(size * scale),
        working_set=working_set(job, shuffle),
        cached=None if capacity is None else cached(job, cluster, count, sizes, capacity),
        quality=quality_of(data, job, count),
    )


def _ranges(job: Job, cluster: Cluster, steps: int) -> tuple[int, int, int]:
    """Items counted, their requests and bytes."""
    some = min(steps, max(1, cluster.measured // job.batch))
    chosen = np.unique(np.linspace(0, steps - 1, some).round().astype(np.int64)).tolist()
    asked: list[Run] = []
    merges = {part.url: _merging(part, cluster) for part in job.parts}

    def merged(dataset: Dataset, sample: int, wanted: list[int], column: str) -> list[Run]:
        return merges[dataset.url](dataset.spans(sample, wanted, column=column)[1])

    for rank in range(cluster.ranks):
        mine = replace(job, first=rank * job.rows)
        for step in chosen:
            rows = plan_rows(mine, step, job.rows)
            for start, stop in together(rows):
                for column, uses in pictured(job.specs).items():
                    item = shown(job.parts, rows[start:stop], [(view, None) for view, _ in uses])
                    asked += merged(item.dataset, item.sample, stored(column, item), column)
            for table in (spec.table for spec in job.specs if spec.table is not None):
                # Read for the plans, once for all rows of a sample.
                for part, sample in {(row.part, row.sample) for row in rows}:
                    asked += merged(job.parts[part], sample, [0], table)
    return len(chosen) * job.batch, len(asked), sum(run.size for run in asked)


def _own_cache(job: Job) -> int | None:
    """The size of the cache that the storage of the data is told to use."""
    found = [getattr(part.storage, "options", None) for part in job.parts]
    sizes = [options.cache_size for options in found if isinstance(options, StorageOptions) and options.cache]
    return min(sizes, default=None)


def _merging(dataset: Dataset, cluster: Cluster) -> Callable[[Sequence[Span]], list[Run]]:
    """How the wanted ranges of a sample become requests."""
    options = getattr(dataset.storage, "options", None)  # of object storage
    if isinstance(options, StorageOptions):
        return partial(coalesce, gap=options.gap if cluster.gap is None else cluster.gap, largest=options.part)
    return partial(coalesce, gap=cluster.gap or 0, largest=1 << 62)
