"""Writing the shards of a column in worker processes: what is finished stays, what is lost is done again.

Packing and derived columns share this: a task is one shard, a worker tells with `Progress` which item (a video, a
sample) it is at, and an item that ends or hangs workers is given up with a verdict instead of the run. Several runs,
here or on other machines, may work on one column: each leaves alone the shards whose heartbeats say that another is
at them, and takes over those of a run that was lost.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from shards.errors import StorageError, UserError
from shards.procs import Lost, WorkerError, run_tasks
from shards.receipts import Receipt, Verdict, finished_shards, has_receipt, read_receipt
from shards.storage import Storage
from vidprep.farm.beats import INTERVAL, Leases

OnEvent = Callable[[dict[str, Any]], None]

_EVENT_SECONDS = 1.0
_LOOK_SECONDS = 1.0  # how often it is asked whether others have finished


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


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part `index` of `of`: every `of`-th shard."""

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if self.of < 1 or not 0 <= self.index < self.of:
            last = max(self.of, 1) - 1
            raise UserError(f"there is no part {self.index} of {self.of}; parts are counted from 0 to {last}")

    def __contains__(self, shard: object) -> bool:
        return isinstance(shard, int) and shard % self.of == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


class ShardRun:
    """The work on shards that are not finished yet, and what is known of those that are.

    Args:
        work: the column.
        workers: processes.
        timeout: seconds without progress after which an item is given up.
        memory: bytes that a process may hold; None: no bound.
        part: the shards this run is to write; all by default.
        interval: seconds from one heartbeat to the next.

    Attributes:
        receipts: of all finished shards of the part.
    """

    def __init__(
        self,
        storage: Storage,
        work: Work,
        *,
        workers: int,
        timeout: float,
        tell: OnEvent,
        memory: int | None = None,
        part: Container[int] | None = None,
        interval: float = INTERVAL,
    ) -> None:
        self._storage, self._work = storage, work
        self._workers, self._timeout, self._tell, self._memory = workers, timeout, tell, memory
        self._part: Container[int] = Part() if part is None else part
        self._interval = interval
        self.receipts: list[Receipt] = []
        self._deaths: Counter[tuple[int, str | None]] = Counter()  # of workers, by shard and item
        self._at: dict[int, Progress] = {}
        self._sizes: dict[int, int] = {}  # items of shards that are not finished
        self._total = 0  # items of the part
        self._done = 0  # items of finished shards
        self._written = [0, 0]  # items and frames of shards this run finished
        self._began = self._told = time.monotonic()

    def write(self) -> None:
        """Write every shard of the part that has no receipt; shards that others are at are waited for.

        Raises as `target`, `condemn` and `check` do, and StorageError.
        """
        with Leases(self._storage, self._work.folder, interval=self._interval) as leases:
            self._look(leases)
            self._tell({"event": "start", "total": self._total, "done": self._done, "shards": len(self._sizes)})
            self._work.check(self.receipts, self._done)
            self._began = time.monotonic()
            waiting = self._pass(set(self._sizes), leases)
            self._tell_waiting(waiting, leases)
            while waiting:
                ready = {shard for shard in waiting if leases.holder(shard) is None}
                if not ready:
                    time.sleep(_LOOK_SECONDS)
                waiting = (waiting - ready) | self._pass(ready, leases)

    def _look(self, leases: Leases) -> None:
        """What is finished, and what is not."""
        folder = self._work.folder
        sizes = {shard: items for shard, items, _ in self._work.shards() if shard in self._part}
        self._total = sum(sizes.values())
        done = [shard for shard in finished_shards(self._storage, folder, max(sizes, default=-1) + 1) if shard in sizes]
        for receipt in self._storage.together([partial(read_receipt, self._storage, folder, it) for it in done]):
            self._take(receipt, sizes.pop(receipt.shard))
        self._sizes = sizes
        leases.clear(done)

    def _pass(self, wanted: set[int], leases: Leases) -> set[int]:
        """Write these shards; returns those that others are at."""
        if not wanted:
            return set()
        theirs: set[int] = set()

        def tasks() -> Iterator[Any]:
            for shard, items, task in self._work.shards():
                if shard not in wanted:
                    continue
                if not leases.take(shard, items):
                    theirs.add(shard)
                elif has_receipt(self._storage, self._work.folder, shard):  # since this run began, by another one
                    self._finish(read_receipt(self._storage, self._work.folder, shard), leases)
                else:
                    yield task

        def progress(message: Progress) -> None:
            key = None if message.item is None else message.item.key
            leases.note(message.shard, done=message.items, frames=message.frames, item=key)
            self._progress(message)

        failed: list[tuple[int, Exception]] = []
        try:
            for receipt in run_tasks(
                self._work.target,
                tasks(),
                workers=min(self._workers, len(wanted)),
                on_message=progress,
                on_lost=self._lost,
                on_failed=lambda task, error: failed.append((task.shard, error)),
                silence=self._timeout,
                memory=self._memory,
            ):
                self._finish(receipt, leases)
        except (UserError, WorkerError) as error:
            lost_race = isinstance(error, StorageError) and any(
                has_receipt(self._storage, self._work.folder, shard) for shard, _ in failed
            )
            if not lost_race:
                for shard, reason in failed:
                    leases.fail(shard, str(reason))
                raise
            # Another run has finished that shard in spite of the lease: what is left is begun again.
            self._at.clear()
            return wanted & set(self._sizes)
        return theirs

    def _finish(self, receipt: Receipt, leases: Leases) -> None:
        leases.release(receipt.shard)
        last = self._at.pop(receipt.shard, None)
        items = self._sizes.pop(receipt.shard)
        if last is not None:
            self._written[0] += items
            self._written[1] += last.frames
        self._take(receipt, items)
        announce(receipt, self._tell)
        self._progress(None)
        self._work.check(self.receipts, self._done)

    def _tell_waiting(self, shards: set[int], leases: Leases) -> None:
        if not shards:
            return
        hosts = sorted({f"{beat.host} (process {beat.pid})" for s in sorted(shards) if (beat := leases.holder(s))})
        text = f"{len(shards)} shards are being written by other runs, on {', '.join(hosts) or 'no host any more'}"
        self._tell({"event": "note", "message": f"{text}; waiting for them"})

    def _take(self, receipt: Receipt, items: int) -> None:
        self.receipts.append(receipt)
        self._done += items

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
        left = (self._total - done) * seconds / items if items else None
        self._tell(
            {
                "event": "progress",
                "done": done,
                "total": self._total,
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
        skip: Mapping[str, Verdict] = {**task.skip, item.key: self._work.condemn(item, *self._reason(it))}
        return replace(task, skip=skip)

    def _reason(self, it: Lost) -> tuple[str, str]:
        """Code and words of the verdict."""
        if it.silent:
            return "timeout", f"no new frame for {self._timeout:g} s"
        if it.large:
            bound = f"{(self._memory or 0) / 1e6:,.0f} MB"
            return "memory", f"the process that works on it holds more than {bound}; allow more with --memory"
        return "crashed", f"the process that works on it {it.reason}"


def announce(receipt: Receipt, tell: OnEvent) -> None:
    """Tell of a finished shard and its verdicts."""
    for found in receipt.verdicts:
        text = f"{found.level}: {found.source}: {found.message} ({found.code})"
        text += f"; to mend it: {found.command}" if found.command else ""
        tell({"event": "verdict", **asdict(found), "message": text})
    tell(
        {
            "event": "shard",
            "shard": receipt.shard,
            "samples": receipt.samples,
            "frames": receipt.frames,
            "bytes": receipt.tar_size,
        }
    )


def how_it_ran(began: float, cpu: float) -> dict[str, Any]:
    """The `run` block of a receipt: from `time.time()` and `time.process_time()` when the shard was begun."""
    return {
        "began": round(began, 3),
        "seconds": round(time.time() - began, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "host": platform.node(),
        "process": os.getpid(),
    }


def worker_count(asked: int | None) -> int:
    """One process a core, unless asked otherwise. Raises UserError."""
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if asked < 1:
        raise UserError(f"workers is {asked}; at least one is needed")
    return asked


def ignore(event: dict[str, Any]) -> None:
    """Events of work that nobody watches."""
