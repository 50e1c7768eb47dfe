"""Sample order as arithmetic: which item stands at which position, for any position, without state.

The epoch permutations are concatenated endlessly; batch k is positions kB to (k+1)B−1. A permutation
is a keyed bijection of [0, n): an eight-round Feistel network over pairs of digits in base ⌈√n⌉, added modulo the
base, walked along its cycle until the value falls below n (Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). It costs no memory per sample and gives any position in O(1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shards.errors import UserError

IntArray = npt.NDArray[np.int64]
_ROUNDS = 8
_BLOCK = 1024  # positions that are computed together, at most
_STAGE, _SHARDS, _PARTS = 1, 2, 4  # what a permutation is of, beside that of an epoch (3: `shards.blend`)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of 64-bit words with full avalanche."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int, n: int, stream: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    return np.random.SeedSequence((seed, epoch, n, *stream)).generate_state(_ROUNDS, np.uint64).astype(np.uint64)


def permute(values: IntArray, n: int, *, seed: int, epoch: int, stream: tuple[int, ...] = ()) -> IntArray:
    """Images of `values` under the permutation of [0, n) that (seed, epoch, stream) selects.

    Args:
        values: any shape, each in [0, n).
        n: size of the domain, 1 to 2**62.
        seed, epoch: >= 0.
        stream: separates independent uses; zeros at its end make no difference.

    Returns:
        int64 array of the same shape, each in [0, n).
    """
    # Base 2 or 3 would leave too few round functions to reach all permutations of a tiny selection evenly.
    base = np.uint64(max(4, isqrt(n - 1) + 1))
    shift = np.uint64(32)
    flat = np.asarray(values, dtype=np.int64).reshape(-1).astype(np.uint64)
    pending = np.arange(flat.size)
    while stream and stream[-1] == 0:
        stream = stream[:-1]
    keys = _round_keys(seed, epoch, n, stream)
    while pending.size:
        left, right = np.divmod(flat[pending], base)
        for key in keys:
            digit = ((_mix(right + key) >> shift) * base) >> shift  # 0..base−1, without a division
            left, right = right, left + digit
            right -= base * (right >= base)
        flat[pending] = walked = left * base + right
        pending = pending[walked >= n]
    return flat.astype(np.int64).reshape(np.shape(values))


def permute_each(values: IntArray, sizes: IntArray, keys: npt.NDArray[np.uint64], which: IntArray) -> IntArray:
    """Images of each value under a permutation of its own: that of [0, sizes[j]) which number which[j] selects.

    Args:
        values, sizes, which: (m,); 0 <= values < sizes, which >= 0.
        keys: of the rounds, as for `permute`; number and round key together give the key.
    """
    n, shift = sizes.astype(np.uint64), np.uint64(32)
    base = np.maximum(np.sqrt(sizes.astype(np.float64)).astype(np.uint64) + np.uint64(1), np.uint64(4))
    mine = _mix(which.astype(np.uint64) + np.uint64(1))
    found = values.astype(np.uint64)
    pending = np.arange(found.size)
    while pending.size:
        radix = base[pending]
        left, right = np.divmod(found[pending], radix)
        for key in keys:
            digit = ((_mix(right + _mix(mine[pending] + key)) >> shift) * radix) >> shift
            left, right = right, left + digit
            right -= radix * (right >= radix)
        found[pending] = walked = left * radix + right
        pending = pending[walked >= n[pending]]
    return found.astype(np.int64)


@dataclass(frozen=True)
class Items:
    """What stands at a run of positions; three int64 arrays of the same length.

    `sample` counts within the selection (0..n−1), not within the data set.
    """

    epoch: IntArray
    sample: IntArray
    repeat: IntArray


class ItemOrder(Protocol):
    """What stands where: `Order`, or a `shards.blend.Blend` of several."""

    @property
    def epoch_length(self) -> int: ...
    def items(self, start: int, stop: int) -> Items:
        """Items at positions start..stop−1 (0 <= start <= stop); may span epochs."""
        ...


@dataclass(frozen=True, eq=False)
class Order:
    """The order of a training run over a selection of n samples.

    Args:
        n: number of samples in the selection.
        seed: selects the permutations.
        repeats: items per sample and epoch; an epoch has n * repeats items.
        shuffle: "full": a permutation of all items of the epoch. "blocks:k": a window of k shards moves over the
            permuted shards, one shard at a time, and items are drawn from all shards in the window. "none": selection
            order in every epoch (all samples, then all again for the next repeat).
        together: items of a sample that stand at neighbouring positions, and move as one. A divisor of `repeats`.
        shards: for blocks: (S+1,) ascending, shard s holds the places shards[s]..shards[s+1]−1 (`shard_places`).
        stream: separates the orders of several data sets in one run.
    """

    n: int
    seed: int = 0
    repeats: int = 1
    shuffle: str = "full"
    together: int = 1
    shards: IntArray | None = None
    stream: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"the selection holds {self.n} samples; at least 1 is needed: check --split and --keep")
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}; at least 1 is allowed")
        if self.seed < 0:
            raise UserError(f"the seed is {self.seed}; it must be at least 0")
        check_together(self.together, self.repeats)
        if window_of(self.shuffle) is not None and (self.shards is None or self.shards[-1] != self.n):
            raise ValueError(f"shuffle {self.shuffle} needs to know which places are in which shard")

    @property
    def epoch_length(self) -> int:
        return self.n * self.repeats

    def items(self, start: int, stop: int) -> Items:
        """Items at positions start..stop−1 (0 <= start <= stop); may span epochs."""
        size = min(_BLOCK, 8 * self.epoch_length)  # or a tiny selection would have hundreds of epochs in a block
        first = start // size
        blocks = [_items(self, block, size) for block in range(first, max(first, (stop - 1) // size) + 1)]
        part = slice(start - first * size, stop - first * size)
        return Items(*(np.concatenate(arrays)[part] for arrays in zip(*blocks, strict=True)))

    def _groups(self, place: IntArray, epoch: int) -> tuple[IntArray, IntArray]:
        """Sample and number of the group of neighbouring items, at places of an epoch that are counted in groups."""
        groups = self.n * (self.repeats // self.together)
        if self.shuffle == "none":
            turn, sample = np.divmod(place, self.n)
        elif self.shuffle == "full":
            image = permute(place, groups, seed=self.seed, epoch=epoch, stream=(self.stream,))
            turn, sample = np.divmod(image, self.n)
        else:
            turn, sample = self._in_windows(place, epoch)
        return sample, turn

    def _in_windows(self, place: IntArray, epoch: int) -> tuple[IntArray, IntArray]:
        """(turn, sample) at places of an epoch, counted in groups."""
        stages = _stages(self, epoch)
        shard, group = np.empty_like(place), np.empty_like(place)
        which = np.searchsorted(stages.starts, place, side="right") - 1
        for t in np.unique(which).tolist():
            at = np.flatnonzero(which == t)
            shards, begins, ends = stages.parts(t)
            bounds = np.cumsum(ends - begins)
            stream = (self.stream, _STAGE, t)
            inside = permute(place[at] - stages.starts[t], int(bounds[-1]), seed=self.seed, epoch=epoch, stream=stream)
            part = np.searchsorted(bounds, inside, side="right")
            shard[at], group[at] = shards[part], ends[part] - bounds[part] + inside
        # Which groups of a shard are in which of its parts is a permutation of its own.
        held = stages.sizes[shard]
        keys = _round_keys(self.seed, epoch, self.n, (self.stream, _PARTS))
        turn, inside = np.divmod(permute_each(group, held * stages.turns, keys, shard), held)
        return turn, stages.firsts[shard] + inside


@dataclass(frozen=True)
class _Stages:
    """How an epoch goes through its shards. A shard's groups are cut into `width` parts, and stage t has part i of the
    shard at place t − i of the epoch's order of shards (which is a circle), so k shards are in use and one is
    exchanged at every stage. starts: (S,) the first group of every stage. sizes, firsts: (S,) samples of the shards in
    that order, and the first place of each in the selection."""

    width: int
    starts: IntArray
    sizes: IntArray
    firsts: IntArray
    turns: int

    def parts(self, stage: int) -> tuple[IntArray, IntArray, IntArray]:
        """(k,) which shard, in the order of the epoch, and which of its groups (begin, end) are in a stage."""
        i = np.arange(self.width)
        shard = (stage - i) % len(self.sizes)
        held = self.sizes[shard] * self.turns
        return shard, held * i // self.width, held * (i + 1) // self.width


@lru_cache(maxsize=8)
def _stages(order: Order, epoch: int) -> _Stages:
    assert order.shards is not None
    count, turns = len(order.shards) - 1, order.repeats // order.together
    width = min(window_of(order.shuffle) or count, count)
    shards = permute(np.arange(count), count, seed=order.seed, epoch=epoch, stream=(order.stream, _SHARDS))
    sizes = np.diff(order.shards)[shards]
    held, total = sizes * turns, np.zeros(count, np.int64)
    for i in range(width):
        total += np.roll(held * (i + 1) // width - held * i // width, i)
    return _Stages(width, np.cumsum(total) - total, sizes, order.shards[shards], turns)


@lru_cache(maxsize=8)
def _items(order: Order, block: int, size: int) -> tuple[IntArray, IntArray, IntArray]:
    """Epoch, sample and repeat at the positions of a block. Kept, because a few positions cost nearly as much."""
    position = np.arange(block * size, (block + 1) * size, dtype=np.int64)
    epoch, place = np.divmod(position, order.epoch_length)
    place, member = np.divmod(place, order.together)
    sample, turn = np.empty_like(place), np.empty_like(place)
    # Epochs come in order, so each is a run of positions.
    starts = np.flatnonzero(np.diff(epoch, prepend=-1))
    for e, at, end in zip(epoch[starts].tolist(), starts, [*starts[1:], size], strict=True):
        sample[at:end], turn[at:end] = order._groups(place[at:end], e)
    return epoch, sample, turn * order.together + member


def window_of(shuffle: str) -> int | None:
    """k of "blocks:k", None for "full" and "none".

    Raises:
        UserError: none of these.
    """
    if shuffle in ("full", "none"):
        return None
    kind, _, number = shuffle.partition(":")
    if kind != "blocks" or not number.isascii() or not number.isdigit() or int(number) < 1:
        raise UserError(
            f"shuffle is {shuffle!r}; allowed: full, none, or blocks:k with a number of shards, as blocks:16"
        )
    return int(number)


def check_together(together: int, repeats: int) -> None:
    """Raises UserError where `together` items a read do not divide the `repeats` items of a sample."""
    if together < 1:
        raise UserError(f"data.clips_per_read is {together}; at least 1 is allowed")
    if repeats % together:
        more = -(-repeats // together) * together
        raise UserError(
            f"data.clips_per_read is {together}, which does not divide data.repeats, {repeats}: of each video "
            f"data.repeats clips come in an epoch, as many at a time; --set data.repeats={more}"
        )


def shard_places(firsts: IntArray, samples: IntArray) -> IntArray:
    """For `Order.shards`: the bounds of the shards' places in a selection; shards without a place are left out.

    Args:
        firsts: (S,) number of every shard's first sample, ascending.
        samples: (n,) the selection, ascending.
    """
    bounds = np.searchsorted(samples, np.append(np.asarray(firsts, np.int64), np.iinfo(np.int64).max))
    return np.unique(np.append(0, bounds)).astype(np.int64)
