"""Writing shards on a Ray cluster, or on a Ray of this machine where none is given."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from shards.errors import StorageError, UserError
from shards.procs import WorkerError
from shards.receipts import Receipt, read_receipts
from shards.storage import open_storage
from vidprep.farm.beats import read_beats
from vidprep.farm.work import Job, Opened, open_job
from vidprep.runs import OnEvent, ShardRun, Work, announce, ignore

_AHEAD = 2  # tasks handed to Ray for every free place: more would only lie in its memory
_RETRIES = 8  # of a task whose worker or node is lost
_LOOK_SECONDS = 5.0
_KNOCK_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Ray:
    """The engine.

    Attributes:
        address: of a running cluster, "auto" for the one this machine belongs to; None: a Ray is started here, and
            stopped afterwards.
        processors: of a Ray started here; None: all.
        options: of every task, as in `ray.remote`, such as {"resources": {"spot": 1}}.
    """

    address: str | None = None
    processors: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def here(self) -> bool:
        return self.address is None

    def write(self, job: Job, tell: OnEvent) -> None:
        """As `vidprep.farm.engines.Engine.write`.

        Raises:
            UserError: Ray is not installed, or the cluster cannot be reached.
        """
        opened = open_job(job)
        if not opened.waiting():
            opened.run(_none(), tell)
            return
        ray = _ray()
        started = not ray.is_initialized()
        if started:
            _start(ray, self.address, self.processors)
        try:
            _Driver(ray, opened, self._options(opened), tell).write()
        finally:
            if started:
                ray.shutdown()

    def _options(self, opened: Opened) -> dict[str, Any]:
        derivation = opened.derivation
        gpu = {"num_gpus": 1} if derivation is not None and derivation.plan.on_gpu else {}
        return {"num_cpus": 1, "max_retries": _RETRIES, **gpu, **self.options}


@dataclass(frozen=True)
class _One:
    """The shards of a task: one."""

    shard: int
    items: int
    task: Any

    def __call__(self) -> Iterator[tuple[int, int, Any]]:
        yield self.shard, self.items, self.task


def write_one(work: Work, job: Job) -> None:
    """On a node: write one shard, in a process of its own that may be ended."""
    assert job.timeout is not None
    storage = open_storage(job.url)
    ShardRun(
        storage, work, workers=1, timeout=job.timeout, tell=ignore, memory=job.memory, interval=job.interval
    ).write()


class _Driver:
    """Hands shards to Ray, a few at a time, and tells what becomes of them."""

    def __init__(self, ray: Any, opened: Opened, options: dict[str, Any], tell: OnEvent) -> None:
        self._ray, self._opened, self._tell = ray, opened, tell
        self._remote = ray.remote(**options)(write_one)
        self._running: dict[Any, tuple[int, int]] = {}  # reference → shard, items
        self._receipts: list[Receipt] = []
        self._done = 0  # items of finished shards
        self._first = 0  # of these, items that were finished before
        self._began = time.monotonic()

    def write(self) -> None:
        tasks = list(self._tasks())
        total = self._opened.work.total
        self._tell({"event": "start", "total": total, "done": self._done, "shards": len(tasks)})
        self._opened.work.check(self._receipts, self._done)
        self._first = self._done
        waiting = iter(tasks)
        more = True
        try:
            while more or self._running:
                while more and len(self._running) < self._places():
                    more = self._hand_out(next(waiting, None))
                if self._running:
                    self._collect()
        finally:
            for reference in self._running:
                self._ray.cancel(reference, force=True)

    def _tasks(self) -> Iterator[_One]:
        """What is not finished; what is, is counted."""
        storage, work = self._opened.storage, self._opened.work
        waiting = set(self._opened.waiting())
        self._receipts = [it for it in read_receipts(storage, work.folder) if it.shard not in waiting]
        for shard, items, task in work.shards():
            if shard in waiting:
                yield _One(shard, items, task)
            else:
                self._done += items

    def _places(self) -> int:
        """A cluster may grow and shrink while it works."""
        return max(1, _AHEAD * int(self._ray.cluster_resources().get("CPU", 1)))

    def _hand_out(self, one: _One | None) -> bool:
        if one is None:
            return False
        work = self._opened.work
        alone = Work(
            folder=work.folder,
            target=work.target,
            total=one.items,
            shards=one,
            condemn=work.condemn,
            check=_take_all,
        )
        self._running[self._remote.remote(alone, self._opened.job)] = (one.shard, one.items)
        return True

    def _collect(self) -> None:
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_LOOK_SECONDS)
        for reference in ready:
            shard, items = self._running.pop(reference)
            self._get(reference, shard)
            receipt = self._opened.receipt(shard)
            if receipt is None:
                raise StorageError(
                    f"a node says it has written shard {shard}, which cannot be seen in {self._opened.storage.url}; "
                    "give a destination that all nodes share"
                )
            self._receipts.append(receipt)
            self._done += items
            announce(receipt, self._tell)
            self._opened.work.check(self._receipts, self._done)
        self._progress()

    def _get(self, reference: Any, shard: int) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, (UserError, WorkerError)) else WorkerError(str(error))) from error
        except errors.RayError as error:
            raise StorageError(
                f"Ray lost the task of shard {shard} {_RETRIES} times ({error}); see what ends its nodes, then run "
                "the same command again: finished shards are kept"
            ) from error

    def _progress(self) -> None:
        at = {shard for shard, _ in self._running.values()}
        folder = self._opened.work.folder
        live = [beat for beat in read_beats(self._opened.storage, folder) if beat.shard in at]
        done = self._done + sum(beat.done for beat in live)
        seconds = max(time.monotonic() - self._began, 1e-9)
        written = done - self._first
        left = (self._opened.work.total - done) * seconds / written if written else None
        self._tell(
            {
                "event": "progress",
                "done": done,
                "total": self._opened.work.total,
                "videos": round(written / seconds, 3),
                "eta_seconds": None if left is None else round(left),
            }
        )


def _take_all(receipts: list[Receipt], done: int) -> None:
    """Limits are looked at where all receipts are known."""


def _none() -> frozenset[int]:
    return frozenset()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise UserError("Ray is not installed; pip install 'vidprep[farm]', or use --engine local") from error


def _start(ray: Any, address: str | None, processors: int | None) -> None:
    where = "a Ray of this machine cannot be started" if address is None else f"no Ray answers at {address}"
    _knock(address, where)
    given = {"num_cpus": processors, "include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **given)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"{where} ({error}); see ray status, or use --engine local") from error


def _knock(address: str | None, where: str) -> None:
    """Ray itself waits for minutes at a place where nobody answers."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        raise UserError(f"{where} ({error.strerror or error}); see ray status, or use --engine local") from error
