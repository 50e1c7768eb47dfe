"""Writing the shards of a column in worker processes: what is finished stays, what is lost is done again.

Packing and derived columns share this: a task is one shard, a worker tells with `Progress` which item (a video, a
sample) it is at, and an item that ends or hangs workers is given up with a verdict instead of the run.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from shards.errors import StorageError, UserError
from shards.procs import Lost, WorkerError, run_tasks
from shards.receipts import Receipt, Verdict, has_receipt, read_receipt
from shards.storage import Storage

OnEvent = Callable[[dict[str, Any]], None]

_EVENT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Message from a worker: what it has done of its shard, and the item it is at; None while it publishes."""

    shard: int
    item: Any
    items: int
    frames: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """The shards of one column.

    Attributes:
        folder: the column's.
        target: "module:function" that writes the shard of a task and returns its receipt.
        total: items of all shards.
        shards: gives (shard, items, task) of every shard, anew each time it is called. A task is a dataclass with
            `shard` and `skip`, verdicts on items by key.
        condemn: the verdict on an item that ended or hung workers, from item, code and reason; item has `key`.
        check: called with all receipts and the number of finished items after every shard; may raise.
    """

    folder: str
    target: str
    total: int
    shards: Callable[[], Iterator[tuple[int, int, Any]]]
    condemn: Callable[[Any, str, str], Verdict]
    check: Callable[[list[Receipt], int], None]


class ShardRun:
    """The work on shards that are not finished yet, and what is known of those that are.

    Attributes:
        receipts: of all finished shards.
    """

    def __init__(self, storage: Storage, work: Work, *, workers: int, timeout: float, tell: OnEvent) -> None:
        self._storage, self._work = storage, work
        self._workers, self._timeout, self._tell = workers, timeout, tell
        self.receipts: list[Receipt] = []
        self._deaths: Counter[tuple[int, str | None]] = Counter()  # of workers, by shard and item
        self._at: dict[int, Progress] = {}
        self._done = 0  # items of finished shards
        self._written = [0, 0]  # items and frames of shards this run finished
        self._began = self._told = time.monotonic()

    def write(self) -> None:
        """Write every shard that has no receipt. Raises as `target`, `condemn` and `check` do, and StorageError."""
        waiting, sizes = [], {}
        for shard, items, _ in self._work.shards():
            sizes[shard] = items
            if has_receipt(self._storage, self._work.folder, shard):
                self._take(read_receipt(self._storage, self._work.folder, shard), items)
            else:
                waiting.append(shard)
        self._tell({"event": "start", "total": self._work.total, "done": self._done, "shards": len(waiting)})
        self._work.check(self.receipts, self._done)
        self._began = time.monotonic()
        wanted = set(waiting)
        for receipt in run_tasks(
            self._work.target,
            (task for shard, _, task in self._work.shards() if shard in wanted),
            workers=min(self._workers, max(1, len(waiting))),
            on_message=self._progress,
            on_lost=self._lost,
            silence=self._timeout,
        ):
            last = self._at.pop(receipt.shard)
            self._written[0] += sizes[receipt.shard]
            self._written[1] += last.frames
            self._take(receipt, sizes[receipt.shard])
            self._announce(receipt)
            self._work.check(self.receipts, self._done)

    def _take(self, receipt: Receipt, items: int) -> None:
        self.receipts.append(receipt)
        self._done += items

    def _announce(self, receipt: Receipt) -> None:
        for found in receipt.verdicts:
            text = f"{found.level}: {found.source}: {found.message} ({found.code})"
            text += f"; to mend it: {found.command}" if found.command else ""
            self._tell({"event": "verdict", **asdict(found), "message": text})
        self._tell(
            {
                "event": "shard",
                "shard": receipt.shard,
                "samples": receipt.samples,
                "frames": receipt.frames,
                "bytes": receipt.tar_size,
            }
        )
        self._progress(None)

    def _progress(self, message: Progress | None) -> None:
        if message is not None:
            self._at[message.shard] = message
        now = time.monotonic()
        if message is not None and now - self._told < _EVENT_SECONDS:
            return
        self._told = now
        seconds = max(now - self._began, 1e-9)
        items = self._written[0] + sum(at.items for at in self._at.values())
        frames = self._written[1] + sum(at.frames for at in self._at.values())
        done = self._done + sum(at.items for at in self._at.values())
        left = (self._work.total - done) * seconds / items if items else None
        self._tell(
            {
                "event": "progress",
                "done": done,
                "total": self._work.total,
                "videos": round(items / seconds, 3),
                "frames": round(frames / seconds, 1),
                "eta_seconds": None if left is None else round(left),
            }
        )

    def _lost(self, it: Lost) -> Any:
        """An item has ended or hung a worker: redo the shard without it.

        One death may be somebody's kill or a machine short of memory; the second at the same item is the item's.
        """
        task, at = it.task, it.message
        item = None if at is None else at.item
        self._at.pop(task.shard, None)
        culprit = (task.shard, None if item is None else item.key)
        self._deaths[culprit] += 1
        if not it.silent and self._deaths[culprit] < 2:
            return task
        if item is None and it.silent:
            raise StorageError(
                f"{task!r} could not be published within {self._timeout:g} s; see what holds the destination up, then "
                "run the same command again, or give it more time with --timeout SECONDS"
            )
        if item is None:
            raise WorkerError(f"a worker {it.reason} twice at {task!r}, while it worked on no video")
        code = "timeout" if it.silent else "crashed"
        reason = f"no new frame for {self._timeout:g} s" if it.silent else f"the process that works on it {it.reason}"
        skip: Mapping[str, Verdict] = {**task.skip, item.key: self._work.condemn(item, code, reason)}
        return replace(task, skip=skip)


def worker_count(asked: int | None) -> int:
    """One process a core, unless asked otherwise. Raises UserError."""
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if asked < 1:
        raise UserError(f"workers is {asked}; at least one is needed")
    return asked


def ignore(event: dict[str, Any]) -> None:
    """Events of work that nobody watches."""
