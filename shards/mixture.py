"""Several data sets read as one: their samples numbered through, their classes merged by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.blend import Blend, shares_of
from shards.dataset import Dataset, open_dataset
from shards.errors import UserError
from shards.order import Order, shard_places, window_of
from shards.selection import find_keys, fraction_of, read_keys, unknown_keys

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A data set of a mixture: its address, and its weight if it has one (`shards.blend.shares_of`)."""

    url: str
    weight: float | None = None

    @classmethod
    def parse(cls, text: str | Path) -> Source:
        """From "DEST" or "DEST=0.3"."""
        head, sign, tail = str(text).rpartition("=")
        try:
            return cls(head, float(tail)) if sign and head else cls(str(text))
        except ValueError:
            return cls(str(text))

    def __str__(self) -> str:
        return self.url if self.weight is None else f"{self.url}={self.weight:g}"


def open_data(data: str | Path | Sequence[str | Path], *, columns: Sequence[str] = ("rgb",)) -> Dataset | Mixture:
    """Open one data set, or several as a mixture.

    Args:
        data: an address, or several, each as `Source.parse` reads it. A single one is an address as it stands.

    Raises:
        UserError: as `shards.dataset.open_dataset`, or no data set, or the same one twice.
    """
    if isinstance(data, (str, Path)):
        return open_dataset(data, columns=columns)
    if not data:
        raise UserError("no data set is given; name at least one with --data DEST")
    if len(data) == 1:
        return open_dataset(data[0], columns=columns)
    sources = [Source.parse(text) for text in data]
    return Mixture([open_dataset(source.url, columns=columns) for source in sources], [s.weight for s in sources])


class Mixture:
    """Several open data sets. Sample number i is sample i − firsts[p] of `parts[p]`; pickles as its parts.

    Attributes:
        parts: the data sets.
        weights: as they were given.
        firsts: (P+1,) number of each part's first sample, and how many there are.
        classes: those of the first data set, then further ones in the order in which they come.
        splits: of all of them.
    """

    def __init__(self, parts: Sequence[Dataset], weights: Sequence[float | None]) -> None:
        self.parts, self.weights = tuple(parts), tuple(weights)
        twice = [part.url for i, part in enumerate(self.parts) if part.url in {other.url for other in self.parts[:i]}]
        if twice:
            raise UserError(f"{twice[0]} is given twice; give it a weight instead: --data {twice[0]}=0.5")
        self.firsts = np.concatenate([[0], np.cumsum([len(part) for part in self.parts])]).astype(np.int64)
        self.classes = tuple(dict.fromkeys(name for part in self.parts for name in part.classes))
        self.splits = tuple(dict.fromkeys(name for part in self.parts for name in part.splits))

    def __reduce__(self) -> tuple[Callable[..., Mixture], tuple[tuple[Dataset, ...], tuple[float | None, ...]]]:
        return Mixture, (self.parts, self.weights)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def sources(self) -> tuple[str, ...]:
        """The addresses as `open_data` takes them."""
        return tuple(str(Source(p.url, weight)) for p, weight in zip(self.parts, self.weights, strict=True))

    @property
    def url(self) -> str:
        """All addresses, for messages."""
        return " + ".join(self.sources)

    @property
    def name(self) -> str:
        return "+".join(part.meta.name for part in self.parts)

    @cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """(N,) indices into `classes`, −1 for none."""
        found = []
        for part in self.parts:
            merged = np.array([*(self.classes.index(name) for name in part.classes), -1], np.int32)
            found.append(merged[part.labels])  # −1 is the last entry
        return np.concatenate(found)

    def with_columns(self, columns: Sequence[str]) -> Mixture:
        """This mixture with these columns open. Raises as `shards.dataset.open_dataset`."""
        return Mixture([part.with_columns(columns) for part in self.parts], self.weights)

    def locate(self, i: int) -> tuple[int, int]:
        """(part, number within it) of sample number `i`."""
        part = int(np.searchsorted(self.firsts, i, side="right")) - 1
        return part, i - int(self.firsts[part])

    def key(self, i: int) -> str:
        """Name of the data set and key of sample number `i`."""
        part, local = self.locate(i)
        return f"{self.parts[part].meta.name}/{self.parts[part].key(local)}"

    def select(
        self, *, split: str | None = None, keep: float | str | Path | None = None, seed: int = 0, every: bool = True
    ) -> IntArray:
        """(n,) ascending sample numbers; arguments as for `Dataset.select`, applied to every data set on its own.

        A file of keys names samples of all data sets together, without the names of these.

        Args:
            every: False leaves out data sets that have no such split.

        Raises:
            UserError: as `Dataset.select`.
        """
        if split is not None and split not in self.splits:
            raise UserError(f"there is no split {split!r} in {self.url}; there are: {', '.join(self.splits) or 'none'}")
        lacking = [part for part in self.parts if split is not None and split not in part.splits]
        if lacking and every:
            raise UserError(
                f"{lacking[0].url} has no split {split!r}; it has: {', '.join(lacking[0].splits) or 'none'}. All data "
                "sets of a mixture are cut by the same split (vidprep annotate adds it), or leave out --split"
            )
        keys = None if keep is None or fraction_of(keep) is not None else read_keys(Path(str(keep)))
        numbers, unknown = [], set(keys or ())
        for part, first in zip(self.parts, self.firsts.tolist(), strict=False):
            if part in lacking:
                continue
            found = part.select(split=split, keep=keep if keys is None else None, seed=seed)
            if keys is not None:
                listed, missing = find_keys(part, keys)
                found, unknown = np.intersect1d(found, listed), unknown & set(missing)
            numbers.append(found + first)
        if unknown:
            raise unknown_keys(Path(str(keep)), sorted(unknown), self.url)
        return np.concatenate(numbers)


def order_of(
    data: Dataset | Mixture,
    samples: IntArray,
    *,
    seed: int = 0,
    repeats: int = 1,
    shuffle: str = "full",
    together: int = 1,
    weighted: bool = True,
) -> Order | Blend:
    """The order of a run over a selection; `Items.sample` counts within the selection.

    Args:
        samples: (n,) sample numbers.
        seed, repeats, shuffle, together: as for `shards.order.Order`.
        weighted: False takes the samples of a mixture as those of one data set, each as often.

    Raises:
        UserError: a wrong option; a data set without a sample in the selection; samples that are not ascending, where
            the order is one of shards or of several data sets.
    """
    blocks = window_of(shuffle) is not None
    mixed = isinstance(data, Mixture) and weighted
    if (blocks or mixed) and np.any(np.diff(samples) <= 0):
        raise UserError(f"shuffle {shuffle} needs the samples in ascending order, each once")
    if not mixed:
        shards = shard_places(_shard_firsts(data), samples) if blocks else None
        return Order(len(samples), seed=seed, repeats=repeats, shuffle=shuffle, together=together, shards=shards)
    assert isinstance(data, Mixture)
    orders = []
    for stream, part in enumerate(data.parts):
        low, high = np.searchsorted(samples, data.firsts[stream : stream + 2])
        if low == high:
            raise UserError(f"no sample of {part.url} is left by split and keep; leave the data set out")
        shards = shard_places(part.shard_firsts, samples[low:high] - data.firsts[stream]) if blocks else None
        orders.append(
            Order(
                int(high - low),
                seed=seed,
                repeats=repeats,
                shuffle=shuffle,
                together=together,
                shards=shards,
                stream=stream,
            )
        )
    shares = shares_of(data.weights, [order.n for order in orders])
    return Blend(tuple(orders), shares, seed=seed, shuffle=shuffle != "none")


def _shard_firsts(data: Dataset | Mixture) -> IntArray:
    if isinstance(data, Dataset):
        return data.shard_firsts
    return np.concatenate([part.shard_firsts + first for part, first in zip(data.parts, data.firsts, strict=False)])
