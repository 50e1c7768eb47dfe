"""Several orders run through at once, each with its share of the items: which one has a position is arithmetic, too.

Positions are cut into rounds of 64 (groups of) items. In a round every order has its share, to one item; over the
rounds the shares are exact. Which places of the round are whose is a permutation drawn for the round, and each order
goes on where it stood. So no state is needed, and a step is the same on any number of ranks and workers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from shards.errors import UserError
from shards.order import IntArray, Items, Order, permute

_ROUND = 64  # few, so that a batch has about its shares
_DRAW = 3  # as in `shards.order`: what the permutation is of
UNITS = 1 << 32
"""Shares are whole numbers of these, together UNITS: sums of fractions would round, and other machines otherwise."""


def shares_of(weights: Sequence[float | None], sizes: Sequence[int]) -> tuple[int, ...]:
    """The share of the items of each of several data sets, in units of 1/UNITS.

    Args:
        weights: where all are given, only their ratio counts. Where some are, these are shares themselves, and the
            others divide the rest among them in proportion to their sizes. Without any, all are by size.
        sizes: numbers of samples.

    Raises:
        UserError: a weight that is not above 0, or weights that leave nothing to the data sets without.
    """
    for weight in weights:
        if weight is not None and not (math.isfinite(weight) and weight > 0):
            raise UserError(f"a data set has weight {weight}; it must be above 0: leave the data set out instead")
    given = sum(Fraction(weight) for weight in weights if weight is not None)
    if None in weights:
        if given >= 1:
            raise UserError(
                f"the weights add up to {float(given):g}, which leaves nothing to the data sets without; give weights "
                "that are shares of all items, together below 1, or one to every data set"
            )
        rest = sum(size for weight, size in zip(weights, sizes, strict=True) if weight is None)
        parts = [
            (1 - given) * size / rest if weight is None else Fraction(weight)
            for weight, size in zip(weights, sizes, strict=True)
        ]
    else:
        parts = [Fraction(weight) / given for weight in weights if weight is not None]
    bounds = [round(sum(parts[: i + 1], Fraction(0)) * UNITS) for i in range(len(parts))]
    return tuple(after - before for before, after in itertools.pairwise([0, *bounds]))


@dataclass(frozen=True, eq=False)
class Blend:
    """The order of a run over several selections, one after the other: `sample` counts through all of them.

    Args:
        orders: of each selection, with its own epochs: a small one comes round more often. They have the same
            `together`, for groups of neighbouring items stay neighbours.
        shares: of the items, in units of 1/UNITS.
        seed: selects which positions are whose.
        shuffle: False spreads the shares evenly in place of drawing.
    """

    orders: tuple[Order, ...]
    shares: tuple[int, ...]
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if len(self.orders) != len(self.shares) or sum(self.shares) != UNITS or min(self.shares) < 0:
            raise ValueError(f"{len(self.orders)} orders with shares {self.shares}")
        if len({order.together for order in self.orders}) != 1:
            raise ValueError("the orders differ in the items that belong together")

    @property
    def epoch_length(self) -> int:
        """As many items as the selections have together."""
        return sum(order.epoch_length for order in self.orders)

    def items(self, start: int, stop: int) -> Items:
        """Items at positions start..stop−1; `epoch` is that of the item's own order."""
        size = _ROUND * self.orders[0].together
        first = start // size
        rounds = [_round(self, number) for number in range(first, max(first, (stop - 1) // size) + 1)]
        part = slice(start - first * size, stop - first * size)
        return Items(*(np.concatenate(arrays)[part] for arrays in zip(*rounds, strict=True)))

    def _begun(self, number: int) -> list[int]:
        """How many groups each order has had before a round."""
        bounds, total = [0], 0
        for share in self.shares:
            total += share
            bounds.append(number * _ROUND * total // UNITS)
        return [after - before for before, after in itertools.pairwise(bounds)]


@lru_cache(maxsize=8)
def _round(blend: Blend, number: int) -> tuple[IntArray, IntArray, IntArray]:
    """Epoch, sample and repeat at the positions of a round."""
    begun, ended = blend._begun(number), blend._begun(number + 1)
    counts = [after - before for before, after in zip(begun, ended, strict=True)]
    whose = np.repeat(np.arange(len(counts)), counts)
    if blend.shuffle:
        whose = whose[permute(np.arange(_ROUND), _ROUND, seed=blend.seed, epoch=number, stream=(0, _DRAW))]
    else:
        within = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
        whose = whose[np.argsort(within, kind="stable")]
    together = blend.orders[0].together
    places = np.arange(_ROUND * together).reshape(_ROUND, together)
    found = np.empty((3, _ROUND * together), np.int64)
    offset = 0
    for which, order in enumerate(blend.orders):
        items = order.items(begun[which] * together, ended[which] * together)
        found[:, places[whose == which].reshape(-1)] = items.epoch, items.sample + offset, items.repeat
        offset += order.n
    return found[0], found[1], found[2]
