"""Data sets in object storage: s3://, gs://, az://, and https:// for reading."""

from __future__ import annotations

import mmap
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from shards.errors import StorageError, UserError
from shards.storage.base import Buffer, MissingError, Reader, ReadStats, Span, T, Writing
from shards.storage.cache import Cache, CachedReader, map_entry
from shards.storage.client import Client, Found, client
from shards.storage.connect import Bucket, environment
from shards.storage.local import LocalReader
from shards.storage.options import SCHEMES, StorageOptions, current_options
from shards.storage.spans import coalesce
from shards.storage.upload import Upload

_IN_MEMORY = 1 << 20  # larger tables are mapped from a temporary file
_WHOLE = ".tar"  # what the cache keeps whole


class ObjectStorage:
    """A folder in a bucket. Pickles as its address and options; clients are made where they are used.

    Attributes:
        options: see `shards.storage.options`.
        stats: requests that brought bytes, and these bytes.
    """

    near = False

    def __init__(self, url: str, options: StorageOptions | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc or parts.query or parts.fragment:
            raise UserError(f"{url} is not an address of object storage; it is like s3://bucket/folder")
        if parts.password is not None:
            raise UserError("a URL with a password would be shown in messages; give it as a storage option")
        self.url = url.rstrip("/")
        self.options = current_options() if options is None else options
        self.stats = ReadStats()
        self._scheme, self._name = parts.scheme, parts.netloc
        folder = unquote(parts.path) if parts.scheme in ("http", "https") else parts.path
        self._prefix = "".join(f"{part}/" for part in folder.split("/") if part)
        self.lists = parts.scheme not in ("http", "https")
        self._environment = environment()
        self._published: set[str] = set()
        self._shard_sizes: dict[str, dict[str, int]] = {}

    def __reduce__(self) -> tuple[type[ObjectStorage], tuple[str, StorageOptions]]:
        return ObjectStorage, (self.url, self.options)

    def exists(self, name: str) -> bool:
        try:
            self.head(name)
        except MissingError:
            return False
        return True

    def size(self, name: str) -> int:
        return self.head(name).size

    def head(self, name: str) -> Found:
        """Size and version. Raises MissingError."""
        return self._client().head(self.key(name), sure=name in self._published)

    def list(self, folder: str) -> list[str]:
        keys, _ = self._client().list_folder(self._prefix + (f"{folder.rstrip('/')}/" if folder else ""))
        names = (key.rpartition("/")[2] for key in keys)
        return sorted(name for name in names if name and not name.startswith("."))

    def folders(self) -> tuple[str, ...]:
        _, prefixes = self._client().list_folder(self._prefix)
        names = (prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes)
        return tuple(sorted(name for name in names if not name.startswith(".")))

    def remove(self, name: str) -> None:
        self._refuse_read_only(name)
        self.head(name)  # a store may not tell whether there was something to remove
        self._client().delete(self.key(name))
        self._published.discard(name)

    def read(self, name: str) -> bytes:
        return self._client().read(self.key(name), self.stats, sure=name in self._published)

    def get_range(self, name: str, offset: int, size: int) -> bytes:
        return self.open(name).read(offset, size)

    def open(self, name: str) -> Reader:
        if self._cache is not None and name.endswith(_WHOLE):
            return self._cached(name)
        return ObjectReader(self, name)

    def fetch(self, name: str) -> Reader:
        if self._cache is not None:
            return self._cached(name)
        path = self._download_aside(name)
        try:
            return LocalReader(path, self.stats)  # holds the file, which needs no name any more
        finally:
            path.unlink()

    def map(self, name: str) -> npt.NDArray[np.uint8]:
        found = self._client().head(self.key(name), sure=name in self._published)
        if found.size <= _IN_MEMORY:
            return np.frombuffer(self.read(name), np.uint8)
        if self._cache is not None:
            return map_entry(self._cache, _Origin(self, name, found))
        path = self._download_aside(name, found)
        try:
            with path.open("rb") as file:
                return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        finally:
            path.unlink()

    def forget(self, name: str) -> bool:
        if self._cache is not None:
            with suppress(MissingError):
                self._cache.drop(_Origin(self, name, self.head(name)))
        return True

    def create(self, name: str) -> Writing:
        self._refuse_read_only(name)
        self._check_writable()
        return Upload(self._client, self.key(name), published=partial(self._published.add, name))

    def together(self, calls: Sequence[Callable[[], T]]) -> Sequence[T]:
        return self._client().together(calls, outer=True)

    def put(self, name: str, data: bytes, *, replace: bool = False) -> None:
        self._refuse_read_only(name)
        upload = Upload(self._client, self.key(name), published=partial(self._published.add, name))
        try:
            upload.write(data)
            upload.publish(replace=replace)
        finally:
            upload.discard()

    def key(self, name: str) -> str:
        """The whole key of an object. Raises StorageError for a name that would leave the folder."""
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"{name!r} is not a name inside {self.url}: no empty part, . or .. is allowed")
        return self._prefix + name

    def read_parts(self, name: str, spans: Sequence[Span], *, etag: str = "") -> Sequence[Buffer]:
        """Exact ranges of an object that has them: neighbours in one request, all requests at once."""
        store = self._client()
        runs = coalesce(spans, gap=self.options.gap, largest=self.options.part)
        key = self.key(name)
        calls = [partial(store.read_range, key, run.start, run.size, self.stats, etag=etag) for run in runs]
        found: list[list[Buffer]] = [[] for _ in spans]
        for run, data in zip(runs, store.together(calls), strict=True):
            view = memoryview(data)
            for number, start, size in run.members:
                found[number].append(view[start - run.start : start - run.start + size])
        return [parts[0] if len(parts) == 1 else b"".join(parts) for parts in found]

    def download(self, name: str, found: Found, file: int) -> None:
        """Write a whole object into an open file."""
        step = self.options.part
        if found.size <= step:
            data = self._client().read(self.key(name), self.stats, sure=True)
            os.pwrite(file, data, 0)
            return
        store, key = self._client(), self.key(name)

        def part(start: int) -> None:
            size = min(step, found.size - start)
            data = store.read_range(key, start, size, self.stats, etag=found.etag)
            if os.pwrite(file, data, start) != size:
                raise StorageError(f"cannot keep {self.url}/{name}: the disk is full; free some space")

        store.together([partial(part, start) for start in range(0, found.size, step)])

    def _download_aside(self, name: str, found: Found | None = None) -> Path:
        if found is None:
            found = self._client().head(self.key(name), sure=name in self._published)
        handle, path = tempfile.mkstemp(prefix="vidprep-", suffix=f"-{name.rpartition('/')[2]}")
        try:
            self.download(name, found, handle)
        except OSError as error:
            Path(path).unlink()
            raise StorageError(
                f"cannot keep {self.url}/{name} in {path}: {error.strerror or error}; free some space there, or set "
                "TMPDIR or --storage cache=DIR to a larger disk"
            ) from error
        except BaseException:
            Path(path).unlink()
            raise
        finally:
            os.close(handle)
        return Path(path)

    def _client(self) -> Client:
        return client(Bucket(self._scheme, self._name), self.options, self._environment)

    @cached_property
    def _cache(self) -> Cache | None:
        return None if self.options.cache is None else Cache(Path(self.options.cache), self.options.cache_size)

    def _cached(self, name: str) -> Reader:
        assert self._cache is not None
        origin = _Origin(self, name, self._client().head(self.key(name), sure=True))
        folder = name.rpartition("/")[0]
        self._shard_sizes.setdefault(folder, {})[name] = origin.size
        return CachedReader(self._cache, origin, self.stats, fits=self._what_fits)

    def _what_fits(self) -> str:
        """The setting with which the cache holds what training uses: a window of shards, and one more at a change."""
        shard = sum(max(sizes.values()) for sizes in list(self._shard_sizes.values()))
        blocks = self.options.cache_size // shard - 1
        if blocks < 1:
            return f"two shards need --storage cache_size={2 * shard}"
        return (
            f"--set data.shuffle=blocks:{blocks} fits (windows of {blocks} shards), or give --storage cache_size more "
            f"than {self.options.cache_size}"
        )

    def _refuse_read_only(self, name: str) -> None:
        if not self.lists:
            raise StorageError(
                f"cannot write {self.url}/{name}: {self._scheme}:// is for reading only; write to a folder, or to "
                "s3://, gs:// or az://"
            )

    def _check_writable(self) -> None:
        """Find out before hours of work whether this place can be written. Once in every process."""
        store = self._client()
        if self._prefix in store.writable:
            return
        name = f".{secrets.token_hex(6)}.part"
        key = self.key(name)
        store.put(key, b"\n", create=False, sha256="")
        with suppress(StorageError):  # a right to write need not be one to remove
            store.delete(key)
        store.writable.add(self._prefix)


class ObjectReader:
    """An object that is read by ranges, as many at once as the options allow. Safe for threads."""

    def __init__(self, storage: ObjectStorage, name: str) -> None:
        self._storage, self._name = storage, name
        found = storage._client().head(storage.key(name), sure=True)
        self.size, self._etag = found.size, found.etag

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.read_many([(offset, size)])[0])

    def read_many(self, spans: Sequence[Span]) -> Sequence[Buffer]:
        inside = [(offset, max(0, min(size, self.size - offset))) for offset, size in spans]
        return self._storage.read_parts(self._name, inside, etag=self._etag)

    def doubt(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class _Origin:
    """An object as the cache sees it."""

    storage: ObjectStorage
    name: str
    found: Found

    @property
    def address(self) -> str:
        return f"{self.storage.url}/{self.name}"

    @property
    def size(self) -> int:
        return self.found.size

    @property
    def version(self) -> str:
        return self.found.etag

    def download(self, file: int) -> None:
        self.storage.download(self.name, self.found, file)
