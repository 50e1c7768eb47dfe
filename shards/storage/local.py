"""Data sets on a file system."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.errors import StorageError
from shards.publish import Aside
from shards.storage.base import MissingError, ReadStats, Span, T


class LocalStorage:
    """A folder on a file system."""

    near = True
    lists = True

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = str(self.root)
        self.stats = ReadStats()

    def __reduce__(self) -> tuple[type[LocalStorage], tuple[Path]]:
        return LocalStorage, (self.root,)

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def size(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except OSError as error:
            raise _cannot_read(self.root / name, error) from error

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(p.name for p in (self.root / folder).iterdir() if not p.name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _cannot_read(self.root / folder, error) from error

    def folders(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(".")))
        except OSError as error:
            raise _cannot_read(self.root, error) from error

    def remove(self, name: str) -> None:
        path = self.root / name
        try:
            path.unlink()
        except FileNotFoundError as error:
            raise MissingError(f"{path} does not exist") from error
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror or error}") from error
        with suppress(OSError):  # a folder that still holds something stays
            path.parent.rmdir()

    def read(self, name: str) -> bytes:
        reader = self.open(name)
        try:
            return reader.read(0, reader.size)
        finally:
            reader.close()

    def get_range(self, name: str, offset: int, size: int) -> bytes:
        reader = self.open(name)
        try:
            return reader.read(offset, size)
        finally:
            reader.close()

    def open(self, name: str) -> LocalReader:
        return LocalReader(self.root / name, self.stats)

    def fetch(self, name: str) -> LocalReader:
        return self.open(name)

    def map(self, name: str) -> npt.NDArray[np.uint8]:
        try:
            with (self.root / name).open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    return np.empty(0, np.uint8)
                return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except OSError as error:
            raise _cannot_read(self.root / name, error) from error

    def forget(self, name: str) -> bool:
        return False

    def create(self, name: str) -> Aside:
        return Aside(self.root / name)

    def together(self, calls: Sequence[Callable[[], T]]) -> Sequence[T]:
        return [call() for call in calls]

    def put(self, name: str, data: bytes, *, replace: bool = False) -> None:
        aside = self.create(name)
        try:
            aside.write(data)
            aside.publish(replace=replace)
        finally:
            aside.discard()


class LocalReader:
    """An open file; `os.pread` needs no position, so threads may share it."""

    def __init__(self, path: Path, stats: ReadStats) -> None:
        self._path = path
        self._stats = stats
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot_read(path, error) from error
        self.size = os.fstat(self._handle).st_size

    def read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._handle, size, offset)
            while len(data) < size and (more := os.pread(self._handle, size - len(data), offset + len(data))):
                data += more  # a read interrupted by a signal, or over 2 GiB, comes in parts
        except OSError as error:
            raise _cannot_read(self._path, error) from error
        self._stats.reads += 1
        self._stats.bytes += len(data)
        return data

    def read_many(self, spans: Sequence[Span]) -> list[bytes]:
        return [self.read(offset, size) for offset, size in spans]

    def doubt(self) -> bool:
        return False

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self.close()


def _cannot_read(path: Path, error: OSError) -> StorageError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return MissingError(f"{path} does not exist")
    return StorageError(f"cannot read {path}: {error.strerror or error}")
