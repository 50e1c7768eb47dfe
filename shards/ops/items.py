"""The videos that are compared for duplicates, and which of them are exact copies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.columns import COLUMNS
from shards.dataset import Dataset, open_dataset
from shards.errors import UserError
from shards.index import parse_idx
from shards.receipts import stem

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Items:
    """What is compared: (V,) number of the data set, of the sample there, rank and owner of every video."""

    datasets: tuple[Dataset, ...]
    dataset: Ints
    number: Ints
    rank: Ints
    owner: Ints

    def __len__(self) -> int:
        return len(self.number)

    def key(self, item: int) -> str:
        return self.datasets[int(self.dataset[item])].key(int(self.number[item]))


def find_items(url: str | Path, splits: Sequence[str], against: str | Path | None, column: str) -> tuple[Items, int]:
    """All videos with their ranks, and how many are in several splits."""
    datasets = [open_dataset(place, columns=(column,)) for place in ([url] if against is None else [url, against])]
    for dataset in datasets:
        kind = COLUMNS[dataset.meta.columns[column].kind]
        if not kind.framed or kind.planes != 1:
            raise UserError(f"column {column} of {dataset.url} holds no frames; duplicates are looked for in frames")
    main = datasets[0]
    numbers = np.arange(len(main), dtype=np.int64)
    rank = np.zeros(len(main), np.int64)
    several = 0
    if splits:
        masks = np.stack([main.table.mask(name) for name in splits])
        several = int((masks.sum(axis=0) > 1).sum())
        numbers = numbers[masks.any(axis=0)]
        rank = (masks * np.arange(len(splits))[:, None]).max(axis=0)[numbers]
    parts = [(0, numbers, rank)]
    if against is not None:
        parts.append((1, np.arange(len(datasets[1]), dtype=np.int64), np.full(len(datasets[1]), len(splits) + 1)))
    owner: list[Ints] = []
    for d, its, _ in parts:
        owner.append(_owners(datasets[d])[its] + (d << 40))
    items = Items(
        datasets=tuple(datasets),
        dataset=np.concatenate([np.full(len(its), d) for d, its, _ in parts]),
        number=np.concatenate([its for _, its, _ in parts]),
        rank=np.concatenate([ranks for *_, ranks in parts]),
        owner=np.concatenate(owner),
    )
    return items, several


def _owners(dataset: Dataset) -> Ints:
    """(N,) one number a video: segments of a video have the same."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(row.video or row.key, len(numbers)) for row in dataset.table.rows()], np.int64)


def find_twins(items: Items) -> Ints:
    """(V,) the same number for samples whose frames have the same sizes and checksums."""
    digests: list[bytes] = [b""] * len(items)
    for d, dataset in enumerate(items.datasets):
        its = np.flatnonzero(items.dataset == d)
        numbers = items.number[its]
        shards = dataset.records["shard"][numbers].astype(np.int64)
        folder = dataset.meta.columns[dataset.columns[0]].folder
        for shard in np.unique(shards).tolist():
            name = f"{stem(folder, shard)}.idx"
            index = parse_idx(dataset.storage.map(name), f"{dataset.url}/{name}")
            sums = np.stack([index.frames["size"], index.frames["crc32"]], axis=1)
            for item, number in zip(its[shards == shard].tolist(), numbers[shards == shard].tolist(), strict=True):
                record = dataset.records[number]
                start = index.first_frame(int(record["place"]))
                part = np.ascontiguousarray(sums[start : start + int(record["frames"])])
                digests[item] = hashlib.blake2b(part.tobytes(), digest_size=16).digest()
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(digest, len(seen)) for digest in digests], np.int64)


def exact_pairs(items: Items, twins: Ints, *, across: bool) -> Iterator[tuple[int, int]]:
    """(dropped, kept) of every sample that has a twin to be kept."""
    order = np.lexsort((np.arange(len(twins)), twins))
    starts = np.flatnonzero(np.r_[True, twins[order][1:] != twins[order][:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(order)], strict=True):
        group = order[start:end].tolist()
        if len(group) < 2:
            continue
        kept = max(group, key=lambda item: (int(items.rank[item]), -item)) if across else group[0]
        for item in group:
            if item != kept and (not across or items.rank[item] < items.rank[kept]):
                yield item, kept


def representatives(items: Items, twins: Ints, *, across: bool) -> Ints:
    """One of all samples that are the same (and of the same rank)."""
    keys = np.stack([twins, items.rank if across else np.zeros_like(twins)], axis=1)
    return np.sort(np.unique(keys, axis=0, return_index=True)[1]).astype(np.int64)
