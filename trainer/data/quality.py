"""How well an order mixes, in numbers that are 1 for a full permutation. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma

import numpy as np
import numpy.typing as npt

from shards.blend import UNITS, Blend
from shards.dataset import Dataset
from shards.mixture import Mixture
from shards.order import Order
from trainer.data.plans import IntArray, Job

_BATCHES = 1000  # that are looked at
_ITEMS = 2_000_000  # of an epoch, at most, for a comparison of two epochs


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well the batches of a run are mixed.

    Attributes:
        videos, shards, classes: different ones in a batch, in the mean, divided by what is expected of items drawn from
            the whole selection; classes is None where there are no labels. 1: as in a full permutation.
        epochs: rank correlation of the places that samples have in the first two epochs: 0: unrelated, 1: the same
            order. The mean over several data sets. None where an epoch has over two million items.
    """

    videos: float
    shards: float
    classes: float | None
    epochs: float | None

    @property
    def figure(self) -> float:
        """One number: the smallest of the three."""
        return min(share for share in (self.videos, self.shards, self.classes) if share is not None)


def quality_of(data: Dataset | Mixture, job: Job, steps: int) -> Quality:
    """Look at up to 1,000 batches, evenly spread over the run."""
    parts = np.searchsorted(job.firsts, job.samples, side="right") - 1
    firsts = [part.shard_firsts + first for part, first in zip(job.parts, job.firsts.tolist(), strict=True)]
    shards = np.searchsorted(np.concatenate(firsts), job.samples, side="right")
    labels = np.asarray(data.labels)[job.samples]
    weights = _weights(job, parts)
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, _BATCHES)).round().astype(np.int64)).tolist()
    batches = [job.order.items(step * job.batch, (step + 1) * job.batch).sample for step in chosen]

    def ratio(of: npt.NDArray[np.integer]) -> float:
        seen = float(np.mean([len(np.unique(of[batch])) for batch in batches]))
        return seen / _expected(of, weights, job)

    return Quality(
        videos=ratio(np.arange(len(job.samples))),
        shards=ratio(shards),
        classes=ratio(labels) if labels.max() >= 0 else None,
        epochs=_between_epochs(_orders(job)),
    )


def _orders(job: Job) -> tuple[Order, ...]:
    if isinstance(job.order, Blend):
        return job.order.orders
    assert isinstance(job.order, Order)
    return (job.order,)


def _weights(job: Job, parts: IntArray) -> npt.NDArray[np.float64]:
    """The chance of every place of the selection to be at a position."""
    if not isinstance(job.order, Blend):
        return np.full(len(parts), 1 / len(parts))
    shares = np.array(job.order.shares) / UNITS / np.array([order.n for order in job.order.orders])
    return np.asarray(shares[parts])


def _expected(of: npt.NDArray[np.integer], weights: npt.NDArray[np.float64], job: Job) -> float:
    """How many different values of `of` a batch of a full permutation has, in the mean."""
    _, group = np.unique(of, return_inverse=True)
    if isinstance(job.order, Blend):
        chance = np.bincount(group, weights)
        return float(-np.expm1(job.batch * np.log1p(-np.minimum(chance, 1 - 1e-15))).sum())
    repeats = job.order.epoch_length // len(of)
    sizes, many = np.unique(np.bincount(group) * repeats, return_counts=True)
    absent = _absent(job.order.epoch_length, job.batch)
    return float(sum(count * (1 - absent(size)) for size, count in zip(sizes.tolist(), many.tolist(), strict=True)))


def _absent(items: int, batch: int) -> Callable[[int], float]:
    """size → the chance that of so many items none is among `batch` drawn from `items` without putting back."""

    def chance(size: int) -> float:
        if size + batch > items:
            return 0.0
        rest, drawn = items - size, items - batch
        return float(np.exp(lgamma(rest + 1) - lgamma(rest - batch + 1) - lgamma(items + 1) + lgamma(drawn + 1)))

    return chance


def _between_epochs(orders: tuple[Order, ...]) -> float | None:
    found = []
    for order in orders:
        length = order.epoch_length
        if length > _ITEMS:
            return None
        places = [
            np.bincount(order.items(epoch * length, (epoch + 1) * length).sample, np.arange(length), order.n)
            for epoch in range(2)
        ]
        if min(np.ptp(place) for place in places) == 0:
            return None
        first, second = (np.argsort(np.argsort(place)) for place in places)
        found.append(float(np.corrcoef(first, second)[0, 1]))
    return float(np.mean(found))
