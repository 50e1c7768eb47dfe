"""What a finished column holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shards.index import parse_index
from shards.plan import read_plan
from shards.receipts import Receipt
from shards.storage import Storage
from vidprep.packing.options import PackOptions
from vidprep.packing.shards import bad_videos, retried
from vidprep.packing.work import FOLDER


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What a data set holds after packing.

    Attributes:
        videos: that were planned; bad: those that have no sample; warned: those packed with a warning.
        samples, frames: stored.
        bytes: of all tars.
        smaller: samples stored smaller than asked, because their videos are.
        verdicts: how many of each code.
        seconds: this run took.
    """

    url: str
    videos: int
    samples: int
    frames: int
    bytes: int
    shards: int
    bad: int
    warned: int
    smaller: int
    verdicts: Mapping[str, int]
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.samples:,} samples, {self.frames:,} frames, {self.bytes / 1e6:,.1f} MB in "
            f"{self.shards} shards; {self.bad} bad, {self.warned} with warnings, {self.smaller} smaller than asked"
        )


@dataclass(frozen=True, kw_only=True)
class DeriveReport:
    """What a derived column holds.

    Attributes:
        url: the data set; column, folder: the column and where it is.
        samples: of the data set; failed: those that have nothing in this column.
        bytes: of the column's tars.
        verdicts: how many of each code.
        seconds: this run took.
    """

    url: str
    column: str
    folder: str
    samples: int
    failed: int
    bytes: int
    shards: int
    verdicts: Mapping[str, int]
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.url}: column {self.column} in {self.folder}: {self.samples:,} samples, {self.failed} failed, "
            f"{self.bytes / 1e6:,.1f} MB in {self.shards} shards"
        )


def pack_report(storage: Storage, receipts: Sequence[Receipt], *, seconds: float) -> PackReport:
    """Of a finished data set and all receipts of its rgb column."""
    plan = read_plan(storage)
    resize = PackOptions.of_plan(plan.options, dest=storage.url).resize
    index = parse_index(storage.map(f"{FOLDER}/index.bin"), f"{storage.url}/{FOLDER}/index.bin")
    sizes, counts = np.unique(index.samples[["height", "width"]], return_counts=True)
    smaller = sum(int(n) for (h, w), n in zip(sizes.tolist(), counts, strict=True) if resize.is_smaller(h, w))
    again = retried(plan)
    bad = [found for verdicts in bad_videos(receipts, again).values() for found in verdicts]
    warnings = [found for receipt in receipts for found in receipt.verdicts if found.level == "warning"]
    keys = len({entry.video["key"] for entry in plan}) if again else sum(1 for _ in plan)
    return PackReport(
        url=storage.url,
        videos=keys,
        samples=sum(receipt.samples for receipt in receipts),
        frames=sum(receipt.frames for receipt in receipts),
        bytes=sum(receipt.tar_size for receipt in receipts),
        shards=len(receipts),
        bad=len(bad),
        warned=len({found.key for found in warnings}),
        smaller=smaller,
        verdicts=dict(Counter(found.code for found in [*bad, *warnings]).most_common()),
        seconds=seconds,
    )


def derive_report(
    storage: Storage, column: str, folder: str, receipts: Sequence[Receipt], *, seconds: float
) -> DeriveReport:
    """Of a finished column and all its receipts."""
    verdicts = [found for receipt in receipts for found in receipt.verdicts]
    return DeriveReport(
        url=storage.url,
        column=column,
        folder=folder,
        samples=sum(receipt.samples for receipt in receipts),
        failed=sum(found.level == "bad" for found in verdicts),
        bytes=sum(receipt.tar_size for receipt in receipts),
        shards=len(receipts),
        verdicts=dict(Counter(found.code for found in verdicts).most_common()),
        seconds=seconds,
    )
