"""Pairs of videos that share similar frames: locality-sensitive hashing, in memory linear in the number of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.ops.pictures import HASH_SECONDS, FrameHashes, Hashes

MOST_DISTANT = 24
"""Bits of 128 in which the hashes of similar frames may differ."""

_TABLES = 12
_MOST_NEIGHBOURS = 64  # of a frame in a bucket; where there are more, those whose whole hashes are nearest in order
_MOST_SUSPECTS = 64  # of a video
_SEED = 20
_CHUNK = 1 << 22

Ints = npt.NDArray[np.int64]
_Lines = tuple[Ints, Ints, npt.NDArray[np.int16], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Suspects:
    """Pairs that have to be compared.

    Attributes:
        first, second: (n,) numbers of videos; rank of the first is lower, or equal and its number is.
        offset: (n,) seconds: what the first shows at time t, the second may show at t − offset, about.
        capped: videos with more similar ones than were looked at.
    """

    first: Ints
    second: Ints
    offset: npt.NDArray[np.float32]
    capped: int

    def where(self, kept: npt.NDArray[np.bool_]) -> Suspects:
        """Only some of the pairs."""
        return replace(self, first=self.first[kept], second=self.second[kept], offset=self.offset[kept])


NO_SUSPECTS = Suspects(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), 0)


def find_suspects(
    videos: Sequence[FrameHashes], ranks: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], *, across: bool
) -> Suspects:
    """Pairs of videos with a pair of frames whose hashes differ in few bits.

    Each of twelve tables takes other bits of the hashes, as many as keep buckets small; frames in the same bucket are
    compared. A pair of frames that differs in 5 % of its bits is found in some table with a chance of 95 % or more up
    to a million frames, and videos have many frames.

    Args:
        ranks: (V,) of videos. across: only pairs of different ranks are looked for.
        owners: (V,) videos of the same owner are parts of one video and no suspects.
    """
    counts = np.array([len(video.times) for video in videos], np.int64)
    owner = np.repeat(np.arange(len(videos)), counts)
    if not len(owner):
        return NO_SUSPECTS
    hashes = np.concatenate([video.hashes for video in videos])
    times = np.concatenate([video.times for video in videos])
    pairs: list[_Lines] = []
    seen = np.zeros(len(owner), np.bool_)
    for one, two in _neighbours(hashes, seen):
        a, b = owner[one], owner[two]
        wanted = (owners[a] != owners[b]) & ((ranks[a] != ranks[b]) if across else (a != b))
        i, j = one[wanted], two[wanted]
        distance = _distances(hashes[i], hashes[j])
        near = distance <= MOST_DISTANT
        pairs.append(_directed(i[near], j[near], distance[near], owner, times, ranks))
    capped = (np.bincount(owner[seen], minlength=len(videos)) == 0) & (counts > 0)
    return _best(pairs, capped)


def _directed(
    i: Ints,
    j: Ints,
    distance: npt.NDArray[np.int16],
    owner: Ints,
    times: npt.NDArray[np.float32],
    ranks: npt.NDArray[np.int64],
) -> _Lines:
    """Pairs of frames as lines of videos, the lower rank (or number) first: first, second, distance, offset."""
    a, b = owner[i], owner[j]
    swap = (ranks[a] > ranks[b]) | ((ranks[a] == ranks[b]) & (a > b))
    i, j = np.where(swap, j, i), np.where(swap, i, j)
    return owner[i], owner[j], distance, times[i] - times[j]


def _neighbours(hashes: Hashes, seen: npt.NDArray[np.bool_]) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of frames in the same bucket of some table; marks frames that met all others in their bucket."""
    n = len(hashes)
    bits = int(np.clip(np.ceil(np.log2(max(n, 2))) + 4, 14, 30))
    generator = np.random.Generator(np.random.PCG64(_SEED))
    for _ in range(_TABLES):
        chosen = generator.permutation(128)[:bits]
        keys = np.zeros(n, np.uint64)
        for place, bit in enumerate(chosen.tolist()):
            word, shift = divmod(bit, 64)
            keys |= ((hashes[:, word] >> np.uint64(shift)) & np.uint64(1)) << np.uint64(place)
        order = np.lexsort((hashes[:, 1], hashes[:, 0], keys))
        keys = keys[order]
        start = _starts(keys)
        sizes = np.diff(np.r_[start, n])
        seen[order[np.repeat(sizes <= _MOST_NEIGHBOURS + 1, sizes)]] = True
        for lag in range(1, min(_MOST_NEIGHBOURS, n - 1) + 1):
            at = np.flatnonzero(keys[lag:] == keys[:-lag])
            if not len(at):
                break
            for first in range(0, len(at), _CHUNK):
                part = at[first : first + _CHUNK]
                yield order[part], order[part + lag]


_ONES = np.array([bin(i).count("1") for i in range(256)], np.uint8)


def _distances(a: Hashes, b: Hashes) -> npt.NDArray[np.int16]:
    """(n,) differing bits of (n,2) hashes."""
    return np.asarray(_ONES[(a ^ b).view(np.uint8)].sum(axis=1, dtype=np.int16))


def _best(pairs: Sequence[_Lines], capped: npt.NDArray[np.bool_]) -> Suspects:
    """One line a pair of videos: the offset that most frames agree on; of each video the most similar others."""
    if not any(len(line[0]) for line in pairs):
        return replace(NO_SUSPECTS, capped=int(capped.sum()))
    first, second, distance, offset = (np.concatenate(column) for column in zip(*pairs, strict=True))
    # Votes for offsets, in bins of the time between hashed frames; the same pair of frames may come from many tables.
    bins = np.round(offset / HASH_SECONDS).astype(np.int64)
    order = np.lexsort((bins, second, first))
    first, second, distance, bins = (column[order] for column in (first, second, distance, bins))
    start = _starts(first, second, bins)
    votes = np.diff(np.r_[start, len(first)])
    nearest = np.minimum.reduceat(distance, start)
    first, second, bins = first[start], second[start], bins[start]
    order = np.lexsort((np.abs(bins), -votes, second, first))
    pair = _starts(first, second)
    distance = np.minimum.reduceat(nearest, pair)
    first, second, bins = first[order][pair], second[order][pair], bins[order][pair]
    offset = (bins * HASH_SECONDS).astype(np.float32)
    kept = np.zeros(len(first), np.bool_)
    for side in (first, second):
        order = np.lexsort((distance, side))
        rank = np.arange(len(order)) - np.searchsorted(side[order], side[order])
        kept[order[rank < _MOST_SUSPECTS]] = True
        capped[side[order[rank >= _MOST_SUSPECTS]]] = True
    return Suspects(first[kept], second[kept], offset[kept], int(capped.sum()))


def _starts(*columns: npt.NDArray[Any]) -> Ints:
    """Where in sorted columns another line begins."""
    new = np.ones(len(columns[0]), np.bool_)
    new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(new)
