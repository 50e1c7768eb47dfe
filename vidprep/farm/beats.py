"""Heartbeats: a small object for every shard that is being written, renewed while its writer lives.

They are leases too: of several runs over the same shards each takes those that nobody is at. A lease is a courtesy
that saves work, not a lock: two writers of one shard write the same bytes, and only one receipt can be published.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

from shards.errors import StorageError
from shards.storage import MissingError, Storage
from shards.text import to_json

FOLDER = ".run"
INTERVAL = 20.0
_MISSED = 4  # beats that may be missing before their writer counts as lost
_TRIES = 3
_NAME = re.compile(r"(.+)\.\d{6,}\.json")


@dataclass(frozen=True, kw_only=True)
class Beat:
    """One shard's heartbeat.

    Attributes:
        column: folder of the column; shard: its number.
        owner: of the run that writes it; host, pid: where that is.
        machine: what this pid is a pid of: boot, pid namespace; empty where that is not known.
        state: "running", or "failed" with the error in `message`.
        began, at: seconds since 1970: when the shard was begun, when this was written.
        expires: seconds after `at` from which on the writer counts as lost.
        done, total: items (videos, samples) of the shard; frames: done; item: key of the one that is worked on.
    """

    column: str
    shard: int
    owner: str
    host: str
    pid: int
    machine: str
    state: Literal["running", "failed"]
    began: float
    at: float
    expires: float
    done: int
    total: int
    frames: int = 0
    item: str | None = None
    message: str = ""

    def is_live(self, now: float) -> bool:
        """Whether somebody is at this shard."""
        if self.state != "running":
            return False
        here = self.machine != "" and self.machine == _machine()
        return now - self.at <= self.expires and (not here or _runs(self.pid))


def name(folder: str, shard: int) -> str:
    return f"{FOLDER}/{folder}.{shard:06d}.json"


def read_beats(storage: Storage, folder: str | None = None) -> Iterator[Beat]:
    """All heartbeats, of one column or of all; what cannot be understood (another version's) is left out."""
    names = [name for name in storage.list(FOLDER) if (match := _NAME.fullmatch(name)) and folder in (None, match[1])]
    found = storage.together([partial(_read, storage, f"{FOLDER}/{name}") for name in names])
    yield from (beat for beat in found if beat is not None)


class Leases:
    """The shards of a column that this process writes; a thread renews their heartbeats. A context manager."""

    def __init__(self, storage: Storage, folder: str, *, interval: float = INTERVAL) -> None:
        self._storage, self._folder, self._interval = storage, folder, interval
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: dict[int, Beat] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="heartbeats", daemon=True)
        self._thread.start()

    def holder(self, shard: int) -> Beat | None:
        """The live heartbeat of somebody else, if there is one."""
        beat = _read(self._storage, name(self._folder, shard))
        return beat if beat is not None and beat.owner != self._owner and beat.is_live(time.time()) else None

    def take(self, shard: int, total: int) -> bool:
        """Whether this process may write the shard: False where somebody else is at it.

        Raises:
            StorageError: the destination cannot be written.
        """
        beat = self._new(shard, total)
        try:
            self._put(beat, replace_=False)
        except StorageError:
            present = _read(self._storage, name(self._folder, shard))
            if present is None:
                # Gone since, not to be understood, or never written: a second failure is the destination's.
                self._put(beat, replace_=True)
            elif present.owner != self._owner and present.is_live(time.time()):
                return False
            else:
                self._put(beat, replace_=True)
                present = _read(self._storage, name(self._folder, shard))
                if present is not None and present.owner != self._owner:
                    return False  # somebody else took the abandoned shard at the same moment
        with self._lock:
            self._held[shard] = beat
        return True

    def note(self, shard: int, *, done: int, frames: int, item: str | None) -> None:
        """What the next heartbeat says."""
        with self._lock:
            if shard in self._held:
                self._held[shard] = replace(self._held[shard], done=done, frames=frames, item=item)

    def release(self, shard: int) -> None:
        """Remove the heartbeat: the shard is finished or given up."""
        with self._lock:
            if self._held.pop(shard, None) is not None:
                self._remove(shard)

    def fail(self, shard: int, message: str) -> None:
        """Leave word that the shard could not be written."""
        with self._lock:
            beat = self._held.pop(shard, None)
            if beat is not None:
                self._try_put(replace(beat, state="failed", message=message, at=time.time()))

    def clear(self, shards: Collection[int]) -> None:
        """Remove what lost or failed writers left of finished shards."""
        now, finished = time.time(), set(shards)
        for beat in list(read_beats(self._storage, self._folder)):
            if beat.shard in finished and not beat.is_live(now):
                self._remove(beat.shard)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for shard in list(self._held):
            self.release(shard)

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new(self, shard: int, total: int) -> Beat:
        now = time.time()
        return Beat(
            column=self._folder,
            shard=shard,
            owner=self._owner,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            state="running",
            began=now,
            at=now,
            expires=_MISSED * self._interval,
            done=0,
            total=total,
        )

    def _renew(self) -> None:
        while not self._stop.wait(self._interval):
            with self._lock:
                for shard, beat in self._held.items():
                    self._held[shard] = replace(beat, at=time.time())
                    self._try_put(self._held[shard])

    def _try_put(self, beat: Beat) -> None:
        """A heartbeat that cannot be written must not end the work: the shard's own writing says what is wrong."""
        try:
            self._put(beat, replace_=True)
        except StorageError:
            return

    def _put(self, beat: Beat, *, replace_: bool) -> None:
        data = (to_json({"beat": 1, **asdict(beat)}) + "\n").encode()
        for attempt in range(_TRIES):
            try:
                self._storage.put(name(beat.column, beat.shard), data, replace=replace_)
                return
            except StorageError:
                # The folder goes with the last heartbeat in it, perhaps between making it and writing there.
                if attempt == _TRIES - 1 or self._storage.exists(name(beat.column, beat.shard)):
                    raise

    def _remove(self, shard: int) -> None:
        try:
            self._storage.remove(name(self._folder, shard))
        except MissingError:
            return


def _read(storage: Storage, where: str) -> Beat | None:
    try:
        fields = json.loads(storage.read(where))
        fields.pop("beat")
        return Beat(**fields)
    except (MissingError, ValueError, TypeError, KeyError, AttributeError):
        return None


@cache
def _machine() -> str:
    """What a pid means here: the machine since it was started, and the pid namespace. Empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _runs(pid: int) -> bool:
    """Whether a process with this number runs here (and is not just waiting to be buried)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
