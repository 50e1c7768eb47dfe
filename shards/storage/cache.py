"""Whole shards on a local disk, shared by the processes of a machine, within a limit of bytes.

An entry is a file that never changes; its name says address, version and size of the object. Reading takes no lock:
an entry that was evicted meanwhile is fetched again. Fetching takes a lock on the file in the making, which a killed
process gives back, so that one process fetches an entry and others wait for it. What to evict is decided under a lock
on the folder; the least recently used goes first.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shards.errors import StorageError, UserError
from shards.storage.base import ReadStats, Span

_DATA, _PART = ".data", ".part"
_POLL_SECONDS = 0.05
_TOUCH_SECONDS = 1.0  # how exactly "recently used" is kept


class Origin(Protocol):
    """Where an entry comes from: `size`, a word for its version, and how to write it into an open file."""

    @property
    def address(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> str: ...

    def download(self, file: int) -> None: ...


class Cache:
    """A folder of entries; any number of processes may share it.

    Args:
        folder: on a local disk; made where it is missing.
        limit: bytes that its files may take.

    Raises:
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder.expanduser().absolute(), limit
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def path(self, origin: Origin) -> Path:
        """The entry's file, fetched where it is missing; it may be evicted at any time.

        Raises:
            UserError: the entry alone is larger than the limit.
            StorageError: it cannot be fetched or kept.
        """
        path = self._place(origin)
        while not _touch(path):
            try:
                self._fetch(origin, path.with_suffix(_PART), path)
            except OSError as error:
                raise self._unusable(error) from error
        return path

    def drop(self, origin: Origin) -> None:
        """Remove an entry; harmless where there is none."""
        self._place(origin).unlink(missing_ok=True)

    def _place(self, origin: Origin) -> Path:
        name = f"{origin.address}\n{origin.version}\n{origin.size}"
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}{_DATA}"

    def _fetch(self, origin: Origin, part: Path, path: Path) -> None:
        """Make the entry, or wait for the process that makes it."""
        if origin.size > self.limit:
            raise UserError(
                f"{origin.address} has {origin.size:,} bytes, more than the cache in {self.folder} may take "
                f"({self.limit:,}); --storage cache_size={origin.size * 2}, or no cache: frames are read by ranges then"
            )
        with _locked(part) as file:
            if path.exists() or not _is(file, part):  # another process made it, or gave up, while this one waited
                return
            try:
                self._reserve(origin.size, file, part)
                origin.download(file)
                if os.fstat(file).st_size != origin.size:
                    raise StorageError(f"{origin.address} changed while it was fetched; open the data set anew")
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _reserve(self, size: int, file: int, part: Path) -> None:
        """Take `size` bytes of the limit for an open file, evicting what was used longest ago."""
        while True:
            with _locked(self.folder / "lock"):
                others = [(found, status) for found, status in self._files() if found != part]
                free = self.limit - sum(status.st_size for _, status in others)
                kept = sorted((s.st_mtime, f, s.st_size) for f, s in others if f.suffix == _DATA)
                for _, found, bytes_ in kept:
                    if free >= size:
                        break
                    found.unlink(missing_ok=True)
                    free += bytes_
                if free >= size:
                    os.ftruncate(file, size)
                    return
                for found, _ in others:
                    if found.suffix == _PART:
                        _remove_orphan(found)
            time.sleep(_POLL_SECONDS)  # others are fetching as much as fits; they will be done

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for found in self.folder.iterdir():
            if found.suffix in (_DATA, _PART):
                with suppress(FileNotFoundError):
                    yield found, found.stat()

    def _unusable(self, error: OSError) -> StorageError:
        return StorageError(
            f"the cache in {self.folder} cannot be used: {error.strerror or error}; free some space, make it "
            "writable, or choose another folder: --storage cache=DIR"
        )


class CachedReader:
    """A cached object, open for reads. Holds no file, so that what is evicted is gone. Safe for threads."""

    def __init__(self, cache: Cache, origin: Origin, stats: ReadStats, *, fits: Callable[[], str]) -> None:
        self._cache, self._origin, self._stats, self._fits = cache, origin, stats, fits
        self.size = origin.size
        self._path = cache.path(origin)
        self._touched = time.monotonic()

    def read(self, offset: int, size: int) -> bytes:
        return self.read_many([(offset, size)])[0]

    def read_many(self, spans: Sequence[Span]) -> list[bytes]:
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            warnings.warn(
                f"the cache in {self._cache.folder} is too small for the shards in use: {self._origin.address} was "
                f"evicted and is fetched again; {self._fits()}",
                stacklevel=2,
            )
            self._path = self._cache.path(self._origin)
            return self.read_many(spans)
        try:
            if time.monotonic() - self._touched > _TOUCH_SECONDS:
                self._touched = time.monotonic()
                os.utime(handle)
            return [os.pread(handle, size, offset) for offset, size in spans]
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror or error}") from error
        finally:
            os.close(handle)

    def doubt(self) -> bool:
        """What was read is wrong: fetch it again."""
        self._path.unlink(missing_ok=True)
        self._path = self._cache.path(self._origin)
        return True

    def close(self) -> None:
        """Nothing is held."""


def map_entry(cache: Cache, origin: Origin) -> npt.NDArray[np.uint8]:
    """An entry's bytes, mapped; they stay after it has been evicted."""
    while True:
        with suppress(FileNotFoundError), cache.path(origin).open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """An open file, made where it is missing, that no other process has locked."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _remove_orphan(part: Path) -> None:
    """Remove the unfinished file of a process that is gone."""
    with suppress(FileNotFoundError):
        file = os.open(part, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, part):
                part.unlink()
        except BlockingIOError:
            pass  # its process lives
        finally:
            os.close(file)


def _is(file: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.fstat(file).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _touch(path: Path) -> bool:
    """Mark an entry as used; False where there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
