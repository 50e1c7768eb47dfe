"""What a data set holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.dataset import Dataset, open_dataset
from shards.derived import column_index, stale_sources
from shards.errors import DataError
from shards.index import FAILED
from shards.receipts import Verdict, read_receipts

_SAME_RATE = 0.02  # rates this close (relative) count as one: 29.97 and 30


@dataclass(frozen=True, kw_only=True)
class ColumnSummary:
    """One column.

    Attributes:
        kind, folder, producer, parameters, sources: as in `shards.meta.ColumnMeta`.
        tar_bytes, index_bytes: of its tars and its indexes.
        failed: samples that it holds nothing for.
        stale: the columns it was made from that have changed since, or are gone.
        verdicts: how many of each code.
    """

    kind: str
    folder: str
    producer: str
    parameters: Mapping[str, Any]
    sources: Mapping[str, str]
    tar_bytes: int
    index_bytes: int
    failed: int
    stale: tuple[str, ...]
    verdicts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """See `summarize`.

    Attributes:
        samples, frames, shards, groups: counts; hours: of video.
        captioned: samples with a caption.
        classes: samples of every class, in the order of class indices; unlabelled: samples without label.
        splits: samples of every split.
        asked_size: frame size as packed; sizes: samples of every stored "HxW", most frequent first.
        frame_counts: least, median and most frames of a sample.
        rates: samples of every frame rate (rounded to 0.01), most frequent first.
        mixed: how many samples have another rate than the most frequent one, by more than 2 %.
        verdicts: on videos, how many of each code; bad, warned: videos without sample, and packed with a warning.
    """

    url: str
    name: str
    samples: int
    frames: int
    shards: int
    groups: int
    captioned: int
    hours: float
    classes: Mapping[str, int]
    unlabelled: int
    splits: Mapping[str, int]
    asked_size: Mapping[str, int]
    sizes: Mapping[str, int]
    frame_counts: tuple[int, float, int]
    rates: Mapping[str, int]
    mixed: int
    verdicts: Mapping[str, int]
    bad: int
    warned: int
    columns: Mapping[str, ColumnSummary]


def summarize(url: str | Path) -> Summary:
    """Count what is in a data set; reads tables and receipts, no tar.

    Raises:
        UserError: there is no finished data set. DataError: its files do not agree.
    """
    dataset = open_dataset(url)
    meta, records, labels = dataset.meta, dataset.records, dataset.labels
    groups = dataset.groups
    frames = dataset.frame_counts
    rates = np.asarray(records["fps"], np.float64)
    columns: dict[str, ColumnSummary] = {}
    found: list[Verdict] = []
    for name in meta.columns:
        columns[name], verdicts = _column(dataset, name)
        if columns[name].kind == "rgb":
            found += verdicts
    shapes = Counter(f"{h}x{w}" for h, w in records[["height", "width"]].tolist())
    histogram = Counter(f"{rate:.2f}" for rate in rates.tolist())
    usual = float(histogram.most_common(1)[0][0])
    return Summary(
        url=dataset.url,
        name=meta.name,
        samples=len(dataset),
        frames=int(frames.sum()),
        shards=meta.shards,
        groups=len(np.unique(groups[groups >= 0])),
        captioned=dataset.table.with_caption,
        hours=float((frames / rates).sum()) / 3600,
        classes={name: int((labels == i).sum()) for i, name in enumerate(meta.classes)},
        unlabelled=int((labels < 0).sum()),
        splits={name: int(dataset.table.mask(name).sum()) for name in meta.splits},
        asked_size=meta.size,
        sizes=dict(shapes.most_common()),
        frame_counts=(int(frames.min()), float(np.median(frames)), int(frames.max())),
        rates=dict(histogram.most_common()),
        mixed=int((np.abs(rates - usual) > _SAME_RATE * usual).sum()),
        verdicts=dict(Counter(verdict.code for verdict in found).most_common()),
        bad=len({verdict.key for verdict in found if verdict.level == "bad"}),
        warned=len({verdict.key for verdict in found if verdict.level == "warning"}),
        columns=columns,
    )


def _column(dataset: Dataset, name: str) -> tuple[ColumnSummary, list[Verdict]]:
    """One column, and its verdicts."""
    storage, meta, column = dataset.storage, dataset.meta, dataset.meta.columns[name]
    receipts = list(read_receipts(storage, column.folder, count=meta.shards))
    stale = stale_sources(storage, meta, name)
    # A column may have as many shards as its source had; then it is stale, not damaged.
    if len(receipts) != meta.shards and not stale:
        raise DataError(
            f"{dataset.url}/{column.folder} has {len(receipts)} receipts of {meta.shards} shards; "
            f"vidprep check {dataset.url} names what is missing"
        )
    verdicts = [verdict for receipt in receipts for verdict in receipt.verdicts]
    index = storage.size(f"{column.folder}/index.bin")
    summary = ColumnSummary(
        kind=column.kind,
        folder=column.folder,
        producer=column.producer,
        parameters=column.parameters,
        sources=column.sources,
        tar_bytes=sum(receipt.tar_size for receipt in receipts),
        index_bytes=index + sum(receipt.idx_size for receipt in receipts),
        failed=int(np.count_nonzero(column_index(storage, column).samples["flags"] & FAILED)),
        stale=stale,
        verdicts=dict(Counter(verdict.code for verdict in verdicts).most_common()),
    )
    return summary, verdicts
