"""Adding or regenerating columns of a packed data set: optical flow and statistics labels.

Neither touches the RGB column. A column is written shard by shard into a folder of its own; when all are there one
write of dataset.json puts it in force. Whatever ends a run, the same call goes on where it stopped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from shards.columns import COLUMNS
from shards.dataset import Dataset, open_dataset
from shards.derived import finalize_column, folder_for, source_digests, stale_sources
from shards.errors import UserError
from shards.keys import is_key
from shards.receipts import Receipt, Verdict, has_receipt
from shards.table import TableGeometry
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.labels import Flip, LabelMaker
from vidprep.deriving.work import At, DeriveTask, Maker, shard_samples, verdict
from vidprep.flow.backends import choose_backend
from vidprep.runs import OnEvent, ShardRun, Work, ignore, worker_count
from vidprep.statistics import Variant

_DERIVE_SHARD = "vidprep.deriving.work:derive_shard"
_ON_GPU = ("triton", "opencv-cuda")


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


def add_flow(
    dest: str | Path,
    *,
    method: str = "tvl1",
    backend: str = "auto",
    codec: str = "byte",
    bound: float = 20.0,
    column: str = "flow",
    source: str = "rgb",
    workers: int | None = None,
    timeout: float = 600,
    on_event: OnEvent | None = None,
    **options: Any,
) -> DeriveReport:
    """Compute optical flow between all neighbouring frames of a data set and store it as a column.

    Args:
        dest: the data set.
        method: key of `vidprep.flow.METHODS`.
        backend: of TV-L1; "auto" takes a GPU where one works.
        codec, bound: as in `shards.flow`; bound is that of a short side of 256.
        column: its name; `flow-raft` beside `flow`, say.
        source: the RGB column it is computed from.
        workers: processes; by default one a core, and one where a GPU computes.
        timeout: seconds without progress after which a sample is given up.
        on_event: as in `vidprep.pack.pack`.
        options: of the method, such as fields of `vidprep.flow.TVL1Params`.

    Raises:
        UserError: wrong options, no such data set or column, a backend that does not run here.
        DataError: stored frames are damaged.
        StorageError: the destination cannot be read or written.
    """
    maker = flow_maker(method=method, backend=backend, codec=codec, bound=bound, source=source, **options)
    tell = on_event or ignore
    if method == "tvl1" and backend == "auto":
        name, reason = choose_backend()
        tell({"event": "backend", "message": f"TV-L1 backend {name}: {reason}"})
    maker.probe()
    if workers is None and maker.options.get("backend") in _ON_GPU:
        workers = 1
    return _derive(dest, maker, column, "vidprep flow", workers=workers, timeout=timeout, tell=tell)


def flow_maker(
    *,
    method: str = "tvl1",
    backend: str = "auto",
    codec: str = "byte",
    bound: float = 20.0,
    source: str = "rgb",
    **options: Any,
) -> FlowMaker:
    """The maker of a flow column; arguments as for `add_flow`. Raises UserError: wrong options."""
    if method == "tvl1":
        options = {"backend": backend, **options}
    elif backend != "auto":
        raise UserError(f"backend {backend!r} is one of tvl1; method {method} has no backends")
    return FlowMaker(method=method, options=options, codec=codec, bound=bound, source=source)


def label_maker(
    *,
    crop: int = 112,
    window: int = 16,
    resize: tuple[int, int] | int | None = (128, 171),
    **options: Any,
) -> LabelMaker:
    """The maker of a statistics column; arguments as for `add_labels`. Raises UserError: wrong options."""
    unknown = sorted(set(options) - {field.name for field in fields(LabelMaker)})
    if unknown:
        raise UserError(f"unknown label option {unknown[0]!r}; see vidprep labels --help")
    return LabelMaker(geometry=TableGeometry(window=window, resize=resize, crop=crop), **options)


def add_labels(
    dest: str | Path,
    *,
    crop: int = 112,
    window: int = 16,
    resize: tuple[int, int] | int | None = (128, 171),
    stride: int = 8,
    views: int = 8,
    variant: Variant = "corrected",
    flip: Flip = "physical",
    seed: int = 0,
    column: str = "statistics",
    rgb: str = "rgb",
    flow: str = "flow",
    workers: int | None = None,
    timeout: float = 600,
    on_event: OnEvent | None = None,
) -> DeriveReport:
    """Compute the 27 statistics labels of windows x views of every sample and store them as a table column.

    Args:
        dest: a data set with the columns `rgb` and `flow`.
        crop: side of the square crop, a multiple of 8.
        window: frames of a clip; stride: frames from one window to the next.
        resize: (height, width), or the short side, or None for frames as stored.
        views: crops and flips drawn of every window.
        variant, flip, seed: as in `vidprep.deriving.labels.LabelMaker`.
        column: its name; `statistics-224` beside `statistics`, say.
        rgb, flow: the columns it is computed from.
        workers, timeout, on_event: as in `add_flow`.

    Raises:
        UserError: wrong options, no such data set or column.
        DataError: a stored column is damaged.
        StorageError: the destination cannot be read or written.
    """
    maker = label_maker(
        window=window,
        resize=resize,
        crop=crop,
        stride=stride,
        views=views,
        variant=variant,
        flip=flip,
        seed=seed,
        rgb=rgb,
        flow=flow,
    )
    return _derive(dest, maker, column, "vidprep labels", workers=workers, timeout=timeout, tell=on_event or ignore)


def _derive(
    dest: str | Path, maker: Maker, column: str, producer: str, *, workers: int | None, timeout: float, tell: OnEvent
) -> DeriveReport:
    began = time.monotonic()
    dataset = open_dataset(dest, columns=maker.sources)
    _check_name(dataset, maker, column)
    for source in maker.sources:
        if stale := stale_sources(dataset.storage, dataset.meta, source):
            raise UserError(
                f"column {source} of {dataset.url} is stale: {', '.join(stale)} changed since; regenerate it first "
                f"with {dataset.meta.columns[source].producer}"
            )
    storage, meta = dataset.storage, dataset.meta
    digests = source_digests(storage, meta, maker.sources)
    folder = folder_for(storage, meta, column, parameters=maker.parameters(), digests=digests)
    waiting = sum(not has_receipt(storage, folder, shard) for shard in range(meta.shards))
    tell({"event": "plan", "message": f"column {column}: {waiting} of {meta.shards} shards of {folder} to write"})

    def shards() -> Iterator[tuple[int, int, DeriveTask]]:
        for shard in range(meta.shards):
            task = DeriveTask(dataset=dataset, maker=maker, folder=folder, shard=shard)
            yield shard, len(shard_samples(dataset, shard)), task

    work = Work(
        folder=folder, target=_DERIVE_SHARD, total=len(dataset), shards=shards, condemn=_condemn, check=_take_all
    )
    run = ShardRun(storage, work, workers=worker_count(workers), timeout=timeout, tell=tell)
    run.write()
    finalize_column(storage, column, kind=maker.kind, folder=folder, producer=producer, sources=maker.sources)
    report = _report(dataset, column, folder, run.receipts, seconds=time.monotonic() - began)
    tell({"event": "done", "message": str(report), **asdict(report)})
    return report


def _check_name(dataset: Dataset, maker: Maker, column: str) -> None:
    if not is_key(column):
        raise UserError(f"{column!r} cannot name a column; allowed are letters, digits, - and _, such as flow-raft")
    if column in maker.sources:
        raise UserError(f"column {column} cannot be made from itself; choose another --column")
    present = dataset.meta.columns.get(column)
    if present is None:
        return
    old, new = COLUMNS[present.kind], COLUMNS[maker.kind]
    if (old.framed, old.planes) != (new.framed, new.planes):
        raise UserError(
            f"{dataset.url} has a column {column} of kind {present.kind}, which a {maker.kind} column would replace; "
            "choose another --column"
        )


def _condemn(at: At, code: str, reason: str) -> Verdict:
    return verdict(at, "bad", code, reason)


def _take_all(receipts: list[Receipt], done: int) -> None:
    """A derived column is never refused for its failures: it says explicitly which samples it does not have."""


def _report(dataset: Dataset, column: str, folder: str, receipts: list[Receipt], *, seconds: float) -> DeriveReport:
    verdicts = [found for receipt in receipts for found in receipt.verdicts]
    return DeriveReport(
        url=dataset.url,
        column=column,
        folder=folder,
        samples=len(dataset),
        failed=sum(found.level == "bad" for found in verdicts),
        bytes=sum(receipt.tar_size for receipt in receipts),
        shards=len(receipts),
        verdicts=dict(Counter(found.code for found in verdicts).most_common()),
        seconds=seconds,
    )
