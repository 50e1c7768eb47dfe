"""What a place that holds data sets must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from shards.errors import StorageError

Span = tuple[int, int]  # offset, size
Buffer = bytes | memoryview
T = TypeVar("T")


class MissingError(StorageError):
    """An object that does not exist, in a store that can be reached."""


@dataclass
class ReadStats:
    """What has been read through a storage, without mapped memory: calls and bytes."""

    reads: int = 0
    bytes: int = 0


class Reader(Protocol):
    """An open object, for many small reads."""

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer where the object ends. Safe to call from several threads."""
        ...

    def read_many(self, spans: Sequence[Span]) -> Sequence[Buffer]:
        """`read` of every (offset, size), in their order; where reading takes long, all at once."""
        ...

    def doubt(self) -> bool:
        """What was read does not agree with its checksum. Whether reading again may help; forgets kept copies."""
        ...

    def close(self) -> None: ...


class Writing(Protocol):
    """An object in the making: invisible until it is published.

    Every method raises StorageError where the place cannot be written.
    """

    size: int

    def write(self, data: bytes | memoryview) -> int: ...

    @property
    def sha256(self) -> str:
        """Hex digest of what has been written."""
        ...

    def close(self) -> None:
        """Bring everything to the store, without publishing."""
        ...

    def publish(self, *, replace: bool = False) -> None:
        """Give the object its name, in one step; without `replace` an existing one is a StorageError."""
        ...

    def discard(self) -> None:
        """Remove what was written; harmless after `publish`."""
        ...


class Storage(Protocol):
    """A data set's folder. Names are relative, with `/` between folders.

    Attributes:
        near: reading takes as long as the disk does, and nothing is won by many reads at a time.
        lists: `list` and `folders` work; they do not on web servers.
    """

    url: str
    stats: ReadStats
    near: bool
    lists: bool

    def exists(self, name: str) -> bool: ...
    def size(self, name: str) -> int:
        """Bytes. Raises MissingError."""
        ...

    def list(self, folder: str) -> list[str]:
        """Sorted names of the objects directly in a folder, without the folder; empty where there is none."""
        ...

    def folders(self) -> tuple[str, ...]:
        """Sorted names of the folders directly below."""
        ...

    def remove(self, name: str) -> None:
        """Delete an object. Raises MissingError."""
        ...

    def read(self, name: str) -> bytes:
        """The whole object. Raises MissingError."""
        ...

    def get_range(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`. Raises MissingError."""
        ...

    def open(self, name: str) -> Reader:
        """For reads of parts. Raises MissingError."""
        ...

    def fetch(self, name: str) -> Reader:
        """For reading all of it: the object is brought near first. Raises MissingError."""
        ...

    def map(self, name: str) -> npt.NDArray[np.uint8]:
        """The object's bytes as a read-only array, in memory only where touched. Raises MissingError."""
        ...

    def forget(self, name: str) -> bool:
        """Drop kept copies of an object that proved damaged. Whether reading it again may help."""
        ...

    def create(self, name: str) -> Writing:
        """A new object, visible when published."""
        ...

    def together(self, calls: Sequence[Callable[[], T]]) -> Sequence[T]:
        """Results of calls that read, in their order; at the same time where reading takes long."""
        ...

    def put(self, name: str, data: bytes, *, replace: bool = False) -> None:
        """Publish a small object in one step; without `replace` its existence is a StorageError."""
        ...
