"""Making a data set out of parts of others: plan, shards, then the tables. What all writing operations share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from shards import captions as texts
from shards.errors import StorageError, UserError
from shards.meta import ColumnMeta
from shards.ops.copying import CopyTask, Ref, copy_shard
from shards.ops.finish import finish
from shards.ops.parts import Part, check_keys, digests, join_columns
from shards.ops.verdicts import verdicts_by_shard
from shards.plan import NAME as PLAN
from shards.plan import Entry, Plan, read_plan, write_plan
from shards.procs import Lost, run_tasks
from shards.receipts import Receipt, has_receipt, read_receipt
from shards.samples import SampleRow
from shards.storage import Storage, open_storage

OnEvent = Callable[[dict[str, Any]], None]

_TARGET = "shards.ops.copying:copy_shard"
_OVERHEAD = 2560  # bytes a sample takes in a tar besides its payload, about


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What to make.

    Attributes:
        command: "merge", "subset", …: for the plan and for messages.
        parts: where the samples come from, in this order.
        name: of the new data set.
        classes: its class list.
        columns: those to copy; None for all.
        shard_size: bytes of a shard in the first column, about; None keeps the shards of the parts.
        mixed: see `shards.ops.parts.join_columns`.
        options: what else decides the result, for the plan.
        help: what to do about keys that stand in two parts.
    """

    command: str
    parts: tuple[Part, ...]
    name: str
    classes: tuple[str, ...]
    columns: tuple[str, ...] | None = None
    shard_size: int | None = None
    mixed: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What an operation wrote: samples, shards and columns of the new data set, and bytes of all its tars."""

    url: str
    samples: int
    shards: int
    columns: tuple[str, ...]
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.samples:,} samples in {self.shards} shards, columns {', '.join(self.columns)}, "
            f"{self.bytes / 1e6:,.1f} MB"
        )


def build(out: str | Storage, operation: Operation, *, workers: int = 1, tell: OnEvent | None = None) -> BuildReport:
    """Write the data set, going on where an earlier run of the same operation stopped.

    Tars and indexes depend on nothing but the operation.

    Raises:
        UserError: the parts do not go together, nothing is left, or the place holds something else.
        DataError: a sample that is copied is damaged.
        StorageError: a part cannot be read or the place cannot be written.
    """
    began, tell = time.monotonic(), tell or (lambda event: None)
    storage = open_storage(out) if isinstance(out, str) else out
    parts = operation.parts
    if any(part.storage.url == storage.url for part in parts):
        raise UserError(f"{storage.url} cannot be made from itself; choose an empty destination")
    if not sum(len(part.numbers) for part in parts):
        raise UserError(f"vidprep {operation.command} would write a data set without samples to {storage.url}")
    columns = join_columns(parts, operation.columns, producer=f"vidprep {operation.command}", mixed=operation.mixed)
    check_keys(parts, help_=operation.help)
    plan = _plan(storage, operation, columns)
    receipts = _write(storage, operation, plan, columns, workers=workers, tell=tell)
    meta = finish(storage, plan, columns)
    report = BuildReport(
        url=storage.url,
        samples=meta.samples,
        shards=meta.shards,
        columns=tuple(columns),
        bytes=sum(receipt.tar_size for receipt in receipts),
        seconds=time.monotonic() - began,
    )
    tell({"event": "done", "message": str(report), **asdict(report)})
    return report


def _plan(storage: Storage, operation: Operation, columns: Mapping[str, ColumnMeta]) -> Plan:
    """The plan of this operation, written unless it is there."""
    options = _options(operation, columns)
    storage.create(PLAN).discard()  # a destination that cannot be written is found before hours of work
    if not storage.exists(PLAN):
        if any(storage.list(folder) for folder in storage.folders()):
            raise StorageError(f"{storage.url} holds something already; choose an empty destination")
        write_plan(storage, options, _entries(operation))
        return read_plan(storage)
    plan = read_plan(storage)
    if plan.options != options:
        what = next(key for key in {**options, **plan.options} if options.get(key) != plan.options.get(key))
        raise UserError(
            f"{storage.url} was planned as something else: {what} was {plan.options.get(what)} and is now "
            f"{options.get(what)}; give the same data sets and options to go on there, or an empty destination"
        )
    for have, want in zip_longest(plan, _entries(operation)):
        if have != want:
            raise UserError(
                f"{storage.url} was planned from other samples or labels: {None if have is None else dict(have.video)} "
                f"stands where {None if want is None else dict(want.video)} would; give an empty destination"
            )
    return plan


def _options(operation: Operation, columns: Mapping[str, ColumnMeta]) -> dict[str, Any]:
    first = operation.parts[0].meta
    main = next(iter(columns.values())).parameters
    sources = [
        {"name": part.meta.name, "prefix": part.prefix, "columns": digests(part, tuple(columns))}
        for part in operation.parts
    ]
    return {
        "name": operation.name,
        "size": dict(first.size),
        "fps": main.get("fps"),
        "quality": main.get("quality"),
        "segment_frames": None,  # the plan's lines are samples, of which the segments of a video are several
        "shard_size": operation.shard_size,
        "classes": list(operation.classes),
        "estimate": None,
        "operation": {
            "command": operation.command,
            "sources": sources,
            "columns": list(columns),
            **dict(operation.options),
        },
    }


def _entries(operation: Operation) -> Iterator[Entry]:
    index = {name: i for i, name in enumerate(operation.classes)}
    bounds = iter(shard_numbers(operation).tolist())
    for number, part in enumerate(operation.parts):
        for row, i in zip(part.rows(), part.numbers.tolist(), strict=True):
            yield Entry(shard=next(bounds), video=_planned(row, index, [number, i]))


def _planned(row: SampleRow, index: Mapping[str, int], source: list[int]) -> dict[str, Any]:
    values = {
        "key": row.key,
        "label": row.label,
        "label_index": None if row.label is None else index[row.label],
        "splits": list(row.splits) or None,
        "group": row.group,
        "caption": texts.tree(row.captions),
        "video": row.video,
        "from": source,
    }
    return {name: value for name, value in values.items() if value is not None}


def shard_numbers(operation: Operation) -> npt.NDArray[np.int64]:
    """(n,) number of the new shard of every sample, ascending without holes.

    With a shard size the bytes are divided into as many equal shares as come nearest to it; a sample goes to the share
    in which its middle lies. So no shard is a small rest, and none is empty.
    """
    parts = operation.parts
    if operation.shard_size is None:
        wanted = np.concatenate(
            [part.shards + (number << 32) for number, part in enumerate(parts)],
        )
    else:
        sizes = np.concatenate([part.sizes for part in parts]) + _OVERHEAD
        total = int(sizes.sum())
        count = max(1, round(total / operation.shard_size))
        middles = np.cumsum(sizes) - sizes / 2
        wanted = np.minimum((middles * count / total).astype(np.int64), count - 1)
    return np.unique(wanted, return_inverse=True)[1].astype(np.int64)


def _write(
    storage: Storage,
    operation: Operation,
    plan: Plan,
    columns: Mapping[str, ColumnMeta],
    *,
    workers: int,
    tell: OnEvent,
) -> list[Receipt]:
    """Write every shard that has no receipt, column by column: a derived one names the tars it belongs to."""
    datasets = tuple(part.dataset for part in operation.parts)
    total = sum(len(part.numbers) for part in operation.parts) * len(columns)
    receipts: list[Receipt] = []
    progress = _Progress(total, tell)
    for name, column in columns.items():
        numbers = shard_numbers(operation)
        verdicts = verdicts_by_shard(operation.parts, name, numbers)
        finished: set[int] = set()
        for shard in range(int(numbers[-1]) + 1):
            if has_receipt(storage, column.folder, shard):
                receipts.append(read_receipt(storage, column.folder, shard))
                progress.skip(receipts[-1].samples)
                finished.add(shard)
        tasks = (
            CopyTask(
                url=storage.url,
                shard=shard,
                name=name,
                column=column,
                parts=datasets,
                refs=tuple(_ref(video) for video in videos),
                verdicts=tuple(verdicts.get(shard, ())),
                folders={source: columns[source].folder for source in column.sources if source in columns},
            )
            for shard, videos in plan.shards()
            if shard not in finished
        )
        progress.start()
        waiting = int(numbers[-1]) + 1 - len(finished)
        for receipt in _run(tasks, min(workers, waiting), progress):
            receipts.append(receipt)
            progress.finished(receipt)
    return receipts


def _run(tasks: Iterator[CopyTask], workers: int, progress: _Progress) -> Iterator[Receipt]:
    if workers <= 1:
        for task in tasks:
            yield copy_shard(task)
        return
    yield from run_tasks(_TARGET, tasks, workers=workers, on_message=progress.told, on_lost=OnceMore())


def _ref(video: Mapping[str, Any]) -> Ref:
    part, number = video["from"]
    return Ref(part=part, number=number, key=video["key"], video=video.get("video"))


class OnceMore:
    """Gives a task whose worker was ended (by a machine short of memory, say) to another worker, once."""

    def __init__(self) -> None:
        self._lost: set[str] = set()

    def __call__(self, lost: Lost) -> Any:
        if repr(lost.task) in self._lost:
            raise UserError(
                f"a worker {lost.reason} twice at {lost.task!r}; run the same command again with fewer --workers, it "
                "goes on where it stopped"
            )
        self._lost.add(repr(lost.task))
        return lost.task


class _Progress:
    """Tells how many samples are copied."""

    def __init__(self, total: int, tell: OnEvent) -> None:
        self._total, self._tell = total, tell
        self._done, self._began = 0, False
        self._running: dict[int, int] = {}
        self._told = time.monotonic()

    def skip(self, samples: int) -> None:
        self._done += samples

    def start(self) -> None:
        if not self._began:
            self._tell({"event": "start", "total": self._total, "done": self._done})
        self._began = True

    def told(self, message: tuple[int, int]) -> None:
        self._running[message[0]] = message[1]
        if time.monotonic() - self._told >= 1:
            self._show()

    def finished(self, receipt: Receipt) -> None:
        self._running.pop(receipt.shard, None)
        self._done += receipt.samples
        self._tell(
            {
                "event": "shard",
                "column": receipt.column,
                "shard": receipt.shard,
                "samples": receipt.samples,
                "bytes": receipt.tar_size,
            }
        )
        self._show()

    def _show(self) -> None:
        self._told = time.monotonic()
        done = self._done + sum(self._running.values())
        self._tell({"event": "progress", "done": done, "total": self._total})
