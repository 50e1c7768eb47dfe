"""Which shards a run is at, and what a cache of whole shards does for it. Torch-free."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shards.errors import UserError
from shards.order import window_of
from trainer.data.plans import IntArray, Job

Tar = tuple[int, str, int]  # part, column, shard


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a run would take place.

    Args:
        ranks: processes that train, shared out evenly to `nodes`.
        workers: loader processes of each, which work on as many batches at once.
        cache: bytes of whole shards that a node keeps; None: as the storage is told, which may be no cache.
        gap: bytes between two wanted ranges that are read along with them; None: as the data set's storage does.
        measured: items whose reads are counted one by one; beyond, batches that are spread evenly stand for all.
    """

    ranks: int = 1
    nodes: int = 1
    workers: int = 2
    cache: int | None = None
    gap: int | None = None
    measured: int = 20_000

    def __post_init__(self) -> None:
        for name, least in (("ranks", 1), ("nodes", 1), ("workers", 0), ("gap", 0), ("measured", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}; it must be at least {least}")
        if self.ranks % self.nodes:
            raise UserError(f"{self.ranks} ranks cannot be shared out to {self.nodes} nodes evenly")
        if self.cache is not None and self.cache < 1:
            raise UserError(f"the cache has {self.cache} bytes; leave it out to read without one")


@dataclass(frozen=True, kw_only=True)
class Cached:
    """What a cache of whole shards would do, over all nodes.

    Attributes:
        size: bytes, of each node.
        hits, misses: items, per column, whose shard was there or had to be fetched.
        again: misses of a shard that the node had fetched before in the same epoch.
        bytes: fetched.
        fits: k of the largest `shuffle: blocks:k` for which a node's cache is large enough (`window_that_fits`).
    """

    size: int
    hits: int
    misses: int
    again: int
    bytes: int
    fits: int


def shards_of(job: Job) -> set[tuple[int, int]]:
    """(part, shard) of the selection."""
    parts, samples = _located(job, job.samples)
    return {(p, s) for p in range(len(job.parts)) for s in np.unique(_shard(job, p, samples[parts == p])).tolist()}


def _located(job: Job, numbers: IntArray) -> tuple[IntArray, IntArray]:
    parts = np.searchsorted(job.firsts, numbers, side="right") - 1
    return parts, numbers - job.firsts[parts]


def _shard(job: Job, part: int, samples: IntArray) -> IntArray:
    return np.searchsorted(job.parts[part].shard_firsts, samples, side="right") - 1


def sizes_of(job: Job) -> dict[Tar, int]:
    """Bytes of every tar that is read."""
    return {
        (number, column, shard): size
        for number, part in enumerate(job.parts)
        for column in job.columns
        for shard, size in enumerate(part.tar_sizes(column).tolist())
    }


def _touched(job: Job, cluster: Cluster, steps: int) -> Iterator[tuple[int, IntArray, IntArray]]:
    """(node, parts, shards) of the items in the order in which a node's workers come to them: they are at as many
    batches at once, row by row."""
    at_once = max(1, cluster.workers)
    per_node = job.batch // cluster.nodes
    for first in range(0, steps, at_once):
        group = min(at_once, steps - first)
        items = job.order.items(first * job.batch, (first + group) * job.batch)
        parts, samples = _located(job, job.samples[items.sample])
        shards = np.empty_like(samples)
        for part in np.unique(parts).tolist():
            shards[parts == part] = _shard(job, part, samples[parts == part])
        # (step, node, rank, row) → row before rank and step
        place = np.arange(len(parts)).reshape(group, cluster.nodes, cluster.ranks // cluster.nodes, job.rows)
        for node in range(cluster.nodes):
            mine = place[:, node].transpose(2, 1, 0).reshape(-1)
            assert len(mine) == group * per_node
            yield node, parts[mine], shards[mine]


def working_set(job: Job, shuffle: str) -> int:
    """Bytes of shards that a run is at: of the k + 1 largest under blocks:k, two without shuffling, else of all."""
    window = 1 if shuffle == "none" else window_of(shuffle)
    return sum(int(np.sort(total)[::-1][: None if window is None else window + 1].sum()) for total in _used_sizes(job))


def _used_sizes(job: Job) -> list[IntArray]:
    """Bytes of the shards of the selection over all columns, for every part."""
    parts, samples = _located(job, job.samples)
    return [
        np.sum([part.tar_sizes(column) for column in job.columns], axis=0)[
            np.unique(_shard(job, number, samples[parts == number]))
        ]
        for number, part in enumerate(job.parts)
    ]


def cached(job: Job, cluster: Cluster, steps: int, sizes: dict[Tar, int], capacity: int) -> Cached:
    """A cache of whole shards on every node that drops the one used longest ago."""
    hits = misses = again = fetched = 0
    kept: list[OrderedDict[Tar, int]] = [OrderedDict() for _ in range(cluster.nodes)]
    filled = [0] * cluster.nodes
    last: list[dict[Tar, int]] = [{} for _ in range(cluster.nodes)]  # epoch in which it was fetched
    done = 0
    for node, parts, shards in _touched(job, cluster, steps):
        cache, epoch = kept[node], done // job.order.epoch_length
        done += len(parts)
        for part, shard in zip(parts.tolist(), shards.tolist(), strict=True):
            for column in job.columns:
                tar = (part, column, shard)
                if tar in cache:
                    cache.move_to_end(tar)
                    hits += 1
                    continue
                misses += 1
                again += last[node].get(tar) == epoch
                last[node][tar] = epoch
                fetched += sizes[tar]
                if sizes[tar] > capacity:
                    continue
                cache[tar] = sizes[tar]
                filled[node] += sizes[tar]
                while filled[node] > capacity:
                    filled[node] -= cache.popitem(last=False)[1]
    return Cached(
        size=capacity,
        hits=hits,
        misses=misses,
        again=again,
        bytes=fetched,
        fits=window_that_fits(_used_sizes(job), capacity),
    )


def window_that_fits(sizes: Sequence[IntArray], capacity: int) -> int:
    """k of the largest `shuffle: blocks:k` whose k shards and the next one fit into so many bytes, whichever they are.

    Args:
        sizes: of the shards of each data set; of several, each has a window.

    Returns:
        0 where not even blocks:1 fits; the number of shards where all of them do.
    """
    longest = max(map(len, sizes))
    largest = sum(np.pad(np.cumsum(np.sort(it)[::-1]), (0, longest - len(it)), mode="edge") for it in sizes)
    held = int(np.searchsorted(np.asarray(largest), capacity, side="right"))
    return held if held == longest else max(0, held - 1)
