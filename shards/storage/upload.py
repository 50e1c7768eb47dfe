"""Writing an object: invisible until published, in one request where it is small, else in parts while it is made."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shards.errors import StorageError
from shards.storage.client import Client


class Upload:
    """An object in the making. See `shards.storage.base.Writing`.

    What fits into one part waits in memory and is published by one conditional request. What is larger goes, in parts
    and while it is written, to a hidden name beside its own; publishing completes that object and copies it within the
    store, which is a conditional request too. Then the hidden one is removed.

    Attributes:
        size: bytes written so far.
    """

    def __init__(self, connect: Callable[[], Client], key: str, *, published: Callable[[], None]) -> None:
        self._connect, self._key, self._published = connect, key, published
        folder, slash, name = key.rpartition("/")
        self._aside = f"{folder}{slash}.{name}.{secrets.token_hex(6)}.part"
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._waiting = bytearray()
        self._writer: Any = None
        self._complete = False

    def write(self, data: bytes | memoryview) -> int:
        client = self._connect()
        self._sha256.update(data)
        self.size += len(data)
        self._waiting += data
        part = client.options.part
        if len(self._waiting) > part:
            if self._writer is None:
                self._writer = client.upload(lambda: client.writer(self._aside), self._key)
            whole = len(self._waiting) // part * part
            ready = bytes(memoryview(self._waiting)[:whole])
            del self._waiting[:whole]
            client.upload(lambda: self._writer.write(ready), self._key)
        return len(data)

    @property
    def sha256(self) -> str:
        """Hex digest of what has been written."""
        return self._sha256.hexdigest()

    def close(self) -> None:
        """Bring everything to the store, without publishing; what fits into one part waits for that."""
        if self._writer is None or self._complete:
            return
        client, rest = self._connect(), bytes(self._waiting)

        def finish() -> None:
            if rest:
                self._writer.write(rest)
            self._writer.close()

        client.upload(finish, self._key)
        self._waiting.clear()
        self._complete = True

    def publish(self, *, replace: bool = False) -> None:
        """Give the object its name, in one step; without `replace` an existing one is a StorageError."""
        client = self._connect()
        self.close()
        try:
            if self._complete:
                self._copy(client, replace=replace)
            else:
                client.put(self._key, bytes(self._waiting), create=not replace, sha256=self.sha256)
        except FileExistsError as error:
            raise StorageError(
                f"{client.bucket.url}/{self._key} was published by another process meanwhile and is never overwritten; "
                "wait until that one has ended, then run the same command again: it takes up what is there"
            ) from error
        self._published()
        self.discard()

    def _copy(self, client: Client, *, replace: bool) -> None:
        """Put the complete hidden object under its name. Raises FileExistsError."""
        try:
            client.copy(self._aside, self._key, create=not replace)
        except FileExistsError:
            # The answer to an earlier try may have been lost, though the copy was made.
            if not client.holds(self._key, self.size, self.sha256):
                raise
        if (found := client.head(self._key, sure=True)).size != self.size:
            raise StorageError(
                f"{client.bucket.url}/{self._key} has {found.size} bytes after {self.size} were written: another "
                "process writes it too, or the store is not to be trusted; run the same command again"
            )

    def discard(self) -> None:
        """Remove what was written; harmless after `publish`."""
        self._waiting.clear()
        if self._writer is None:
            return
        with suppress(StorageError):  # it is hidden, and the first error is on its way
            self.close()  # parts of an upload that never ends would be paid for
            self._writer = None
            self._connect().delete(self._aside)
