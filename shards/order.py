"""Sample order as arithmetic: which item stands at which position, for any position, without state.

The epoch permutations are concatenated endlessly; batch k is positions kB to (k+1)B−1. An epoch's permutation
is a keyed bijection of [0, n): an eight-round Feistel network over pairs of digits in base ⌈√n⌉, added modulo the
base, walked along its cycle until the value falls below n (Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). It costs no memory per sample and gives any position in O(1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
import numpy.typing as npt

from shards.errors import UserError

IntArray = npt.NDArray[np.int64]
_ROUNDS = 8
_BLOCK = 1024  # positions that are computed together, at most


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of 64-bit words with full avalanche."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int, n: int) -> npt.NDArray[np.uint64]:
    return np.random.SeedSequence((seed, epoch, n)).generate_state(_ROUNDS, np.uint64).astype(np.uint64)


def permute(values: IntArray, n: int, *, seed: int, epoch: int) -> IntArray:
    """Images of `values` under the permutation of [0, n) that (seed, epoch) selects.

    Args:
        values: any shape, each in [0, n).
        n: size of the domain, 1 to 2**62.
        seed, epoch: >= 0.

    Returns:
        int64 array of the same shape, each in [0, n).
    """
    # Base 2 or 3 would leave too few round functions to reach all permutations of a tiny selection evenly.
    base = np.uint64(max(4, isqrt(n - 1) + 1))
    shift = np.uint64(32)
    flat = np.asarray(values, dtype=np.int64).reshape(-1).astype(np.uint64)
    pending = np.arange(flat.size)
    while pending.size:
        left, right = np.divmod(flat[pending], base)
        for key in _round_keys(seed, epoch, n):
            digit = ((_mix(right + key) >> shift) * base) >> shift  # 0..base−1, without a division
            left, right = right, left + digit
            right -= base * (right >= base)
        flat[pending] = walked = left * base + right
        pending = pending[walked >= n]
    return flat.astype(np.int64).reshape(np.shape(values))


@dataclass(frozen=True)
class Items:
    """What stands at a run of positions; three int64 arrays of the same length.

    `sample` counts within the selection (0..n−1), not within the data set.
    """

    epoch: IntArray
    sample: IntArray
    repeat: IntArray


@dataclass(frozen=True)
class Order:
    """The order of a training run over a selection of n samples.

    Args:
        n: number of samples in the selection.
        seed: selects the permutations.
        repeats: items per sample and epoch; an epoch has n * repeats items, shuffled together.
        shuffle: False gives selection order in every epoch (all samples, then all again for the next repeat).
    """

    n: int
    seed: int = 0
    repeats: int = 1
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"the selection holds {self.n} samples; at least 1 is needed: check --split and --keep")
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}; at least 1 is allowed")
        if self.seed < 0:
            raise UserError(f"the seed is {self.seed}; it must be at least 0")

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


@lru_cache(maxsize=8)
def _items(order: Order, block: int, size: int) -> tuple[IntArray, IntArray, IntArray]:
    """Epoch, sample and repeat at the positions of a block. Kept, because a few positions cost nearly as much."""
    position = np.arange(block * size, (block + 1) * size, dtype=np.int64)
    epoch, place = np.divmod(position, order.epoch_length)
    if order.shuffle:
        # Epochs come in order, so each is a run of positions.
        starts = np.flatnonzero(np.diff(epoch, prepend=-1))
        for e, at, end in zip(epoch[starts].tolist(), starts, [*starts[1:], size], strict=True):
            place[at:end] = permute(place[at:end], order.epoch_length, seed=order.seed, epoch=e)
    repeat, sample = np.divmod(place, order.n)
    return epoch, sample, repeat
