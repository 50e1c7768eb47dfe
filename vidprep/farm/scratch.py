"""Writing shards on a disk of the machine first, and sending each to its destination in one go."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any, cast

from shards.errors import StorageError
from shards.storage import Storage

_CHUNK = 1 << 23


def through(storage: Storage, scratch: str | None) -> Storage:
    """The storage, with tars written in the folder `scratch` until they are published; None: the storage itself."""
    return storage if scratch is None else cast(Storage, _ThroughScratch(storage, Path(scratch)))


class _ThroughScratch:
    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self._folder = storage, folder

    def create(self, name: str) -> Any:
        return _Scratch(self._storage, name, self._folder) if name.endswith(".tar") else self._storage.create(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


class _Scratch:
    """A `shards.storage.Writing` in a file without a name: whatever ends the process, nothing stays behind."""

    def __init__(self, storage: Storage, name: str, folder: Path) -> None:
        self._storage, self._name, self._folder = storage, name, folder
        self.size = 0
        self._sha256 = hashlib.sha256()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by discard
        except OSError as error:
            raise self._failed(error) from error

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from error
        self._sha256.update(data)
        self.size += len(data)
        return len(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def close(self) -> None:
        """Nothing to do before it is published."""

    def publish(self, *, replace: bool = False) -> None:
        target = self._storage.create(self._name)
        try:
            try:
                self._file.seek(0)
                while data := self._file.read(_CHUNK):
                    target.write(data)
            except OSError as error:
                raise self._failed(error) from error
            if target.sha256 != self.sha256:
                raise StorageError(
                    f"what was read back from the scratch folder {self._folder} is not what was written there; check "
                    "its disk, or run the same command again without --scratch"
                )
            target.publish(replace=replace)
        finally:
            target.discard()
        self.discard()

    def discard(self) -> None:
        self._file.close()

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot use the scratch folder {self._folder}: {error.strerror or error}; it needs room for one shard a "
            "process: free some, or give another --scratch"
        )
