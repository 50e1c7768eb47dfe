"""The client of one bucket in one process: requests that are tried again, checked, and explained where they fail.

Threads of the client do not survive a fork, so every process has clients of its own, and a process that was forked
from one that used them gets an error instead of waiting for ever.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from shards.errors import StorageError
from shards.storage.base import Buffer, MissingError, ReadStats, T
from shards.storage.connect import Bucket, connect
from shards.storage.faults import explain, status_of
from shards.storage.options import StorageOptions
from shards.storage.patience import Patience

_ERRORS = (BaseError, OSError)
_CHUNK = 1 << 16  # what a broken answer may lose
_UPLOADS = 4  # parts of one object in flight
_SHA256 = "sha256"  # metadata of small objects
_WRITER = "vidprep-writer"


@dataclass(frozen=True)
class Found:
    """What a store says of an object: its bytes, and a word that changes with its contents."""

    size: int
    etag: str


class Client:
    """Requests to one bucket. Safe for threads. Every method raises StorageError; MissingError where nothing is."""

    def __init__(self, bucket: Bucket, options: StorageOptions) -> None:
        self.bucket, self.options = bucket, options
        # Reads, and what is small, are tried again here, from the last byte on; uploads of parts in the client itself.
        self._store = connect(bucket, options, retries=0)
        self._uploads = connect(bucket, options, retries=10)
        self._reached = False  # whether the bucket is known to exist
        self.writable: set[str] = set()  # folders that are known to be
        # Two pools, so that calls which wait for requests never keep requests from being made.
        self._pool, self._calls = (ThreadPoolExecutor(options.requests, name) for name in ("requests", "reads"))

    def head(self, key: str, *, sure: bool = False) -> Found:
        """`sure`: it must exist, so that an answer to the contrary is asked for again for a while."""
        try:
            meta = self._try(lambda: obstore.head(self._store, key), key, "read", sure=sure)
        except MissingError:
            if not self._reached:
                self._why_not(key)
                self._reached = True
            raise
        except StorageError as error:
            if error.__cause__ is not None and status_of(error.__cause__) == 403:
                self._why_not(key)
            raise
        return Found(int(meta["size"]), str(meta["e_tag"] or ""))

    def read(self, key: str, stats: ReadStats, *, sure: bool = False) -> bytes:
        """A whole object in one request, compared with its digest where the store knows that."""
        for last in (False, False, True):
            parts: list[bytes] = []
            answer = self._stream(key, 0, None, parts, stats, sure=sure)
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            wanted = answer.get(_SHA256)
            if not wanted or hashlib.sha256(data).hexdigest() == wanted:
                return data
            if last:
                break
        raise StorageError(
            f"{self._url(key)} does not agree with its SHA-256, three times in a row: what arrives is not what was "
            "written; check the network, or write the object anew"
        )

    def read_range(self, key: str, start: int, size: int, stats: ReadStats, *, etag: str = "") -> bytes:
        """Exactly these bytes; the object has them."""
        parts: list[bytes] = []
        self._stream(key, start, start + size, parts, stats, sure=True, etag=etag)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def together(self, calls: Sequence[Callable[[], T]], *, outer: bool = False) -> list[T]:
        """Results of calls that run at the same time, in their order. All have ended before an error is raised.

        Args:
            outer: they may call `together` themselves.
        """
        if len(calls) < 2:
            return [call() for call in calls]
        running: list[Future[T]] = [(self._calls if outer else self._pool).submit(call) for call in calls]
        failed = [error for error in (future.exception() for future in running) if error is not None]
        if failed:
            raise failed[0]
        return [future.result() for future in running]

    def list_folder(self, prefix: str) -> tuple[list[str], list[str]]:
        """Keys directly below a prefix, and the prefixes there."""
        if self.bucket.scheme in ("http", "https"):
            raise StorageError(
                f"{self._url(prefix)} cannot be listed: web servers have no listing that programs can read; "
                "use the s3://, gs:// or az:// address of the data set for this"
            )
        found = self._try(lambda: obstore.list_with_delimiter(self._store, prefix or None), prefix, "list")
        return [it["path"] for it in found["objects"]], list(found["common_prefixes"])

    def put(self, key: str, data: Buffer, *, create: bool, sha256: str) -> None:
        """Write a small object in one request; with `create` an existing one is a FileExistsError."""
        token = secrets.token_hex(8)
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            obstore.put(
                self._store,
                key,
                bytes(data),
                attributes={_SHA256: sha256, _WRITER: token},
                mode="create" if create else "overwrite",
                use_multipart=False,
            )

        try:
            self._try(attempt, key, "write")
        except FileExistsError:
            # The answer to an earlier try may have been lost, though the object was written.
            if tries == 1 or self._attributes(key).get(_WRITER) != token:
                raise

    def writer(self, key: str) -> Any:
        """An upload in parts, invisible until it is closed."""
        return obstore.open_writer(self._uploads, key, buffer_size=self.options.part, max_concurrency=_UPLOADS)

    def upload(self, action: Callable[[], T], key: str) -> T:
        """Run a step of an upload in parts, which the client tries again by itself."""
        try:
            return action()
        except _ERRORS as error:
            raise self._explain(error, key, "write") from error

    def copy(self, source: str, target: str, *, create: bool) -> None:
        """Copy within the store; with `create` an existing target is a FileExistsError."""
        self._try(lambda: obstore.copy(self._uploads, source, target, overwrite=not create), target, "write")

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Whether an object has these contents; reads all of it."""
        found, digest, stats = self.head(key, sure=True), hashlib.sha256(), ReadStats()
        if found.size != size:
            return False
        for start in range(0, size, self.options.part):
            part = min(self.options.part, size - start)
            digest.update(self.read_range(key, start, part, stats, etag=found.etag))
        return digest.hexdigest() == sha256

    def delete(self, key: str) -> None:
        self._try(lambda: obstore.delete(self._store, key), key, "remove")

    def _stream(
        self,
        key: str,
        start: int,
        stop: int | None,
        parts: list[bytes],
        stats: ReadStats,
        *,
        sure: bool,
        etag: str = "",
    ) -> Mapping[str, str]:
        """Append the bytes from `start` to before `stop` (None: the end) to `parts`, going on after what has arrived.

        Returns:
            The object's metadata.
        """
        position = start
        attributes: Mapping[str, str] = {}
        patience = Patience(self.options.timeout, sure=sure)
        while True:
            options: dict[str, Any] = {"if_match": etag} if etag else {}
            if stop is not None:
                options["range"] = (position, stop)
            elif position:
                options["range"] = {"offset": position}
            try:
                answer = obstore.get(self._store, key, options=options)  # type: ignore[arg-type]
                stats.reads += 1
                if stop is None:
                    stop = int(answer.meta["size"])
                if answer.range != (position, stop):
                    raise _ShortError(
                        f"asked for bytes {position} to {stop}, got {answer.range[0]} to {answer.range[1]}"
                    )
                etag = etag or str(answer.meta["e_tag"] or "")
                attributes = answer.attributes
                for chunk in answer.stream(min_chunk_size=_CHUNK):
                    parts.append(bytes(chunk))
                    position += len(chunk)
                    stats.bytes += len(chunk)
                    patience.progress()
                if position != stop:
                    raise _ShortError(f"the answer ends {stop - position} bytes early")
                return attributes
            except _ERRORS as error:
                if position > start and position == stop:
                    return attributes
                if status_of(error) == 412:
                    raise StorageError(
                        f"{self._url(key)} was replaced while it was read; open the data set anew"
                    ) from error
                self._wait(patience, error, key, "read")

    def _try(self, action: Callable[[], T], key: str, doing: str, *, sure: bool = False) -> T:
        patience = Patience(self.options.timeout, sure=sure)
        while True:
            try:
                found = action()
                self._reached = True
                return found
            except AlreadyExistsError as error:
                raise FileExistsError(f"{self._url(key)} exists") from error
            except _ERRORS as error:
                self._wait(patience, error, key, doing)

    def _wait(self, patience: Patience, error: Exception, key: str, doing: str) -> None:
        if not patience.wait(error):
            raise self._explain(error, key, doing) from error

    def _explain(self, error: Exception, key: str, doing: str) -> StorageError:
        return explain(error, scheme=self.bucket.scheme, place=self.bucket.url, what=self._url(key), doing=doing)

    def _why_not(self, key: str) -> None:
        """Raise what an answer without body, as to HEAD, leaves open: whether the bucket or the object is missing, and
        whether the credentials or the rights are wrong."""
        try:
            obstore.get_range(self._store, key, start=0, length=1)
        except _ERRORS as told:
            explained = self._explain(told, key, "read")
            if not isinstance(explained, MissingError) and status_of(told) in (401, 403, 404):
                raise explained from told

    def _attributes(self, key: str) -> Mapping[str, str]:
        answer = self._try(lambda: obstore.get(self._store, key), key, "read", sure=True)
        return answer.attributes

    def _url(self, key: str) -> str:
        return f"{self.bucket.url}/{key}"


class _ShortError(OSError):
    """An answer that is not as long as it should be."""


_clients: dict[tuple[Bucket, StorageOptions, int], Client] = {}
_used_by: int | None = None  # the process whose threads serve the clients


def client(bucket: Bucket, options: StorageOptions, environment: int) -> Client:
    """This process's client of a bucket.

    Args:
        environment: see `shards.storage.connect.environment`; where it differs, credentials may.

    Raises:
        UserError: an option that the provider does not know.
        StorageError: the process was forked from one that used object storage.
    """
    global _used_by  # noqa: PLW0603 - a fact about the process
    if _used_by not in (None, os.getpid()):
        raise StorageError(
            f"process {os.getpid()} was forked from one that used {bucket.url}, and clients of object storage do not "
            "survive a fork; start it by spawn or forkserver instead (a DataLoader: multiprocessing_context="
            '"forkserver"), or open the data set in the new process only'
        )
    key = (bucket, options, environment)
    if key not in _clients:
        _clients[key] = Client(bucket, options)
    _used_by = os.getpid()
    return _clients[key]


def _forget() -> None:
    """In a forked child: its copies of the clients have no threads any more."""
    _clients.clear()


os.register_at_fork(after_in_child=_forget)
