"""Where data sets live. Every access of this package to stored bytes goes through a `Storage`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shards.errors import UserError
from shards.storage.base import MissingError, Reader, ReadStats, Storage, T, Writing
from shards.storage.local import LocalReader, LocalStorage
from shards.storage.options import SCHEMES, StorageOptions, current_options, use_storage_options

__all__ = [
    "LocalReader",
    "LocalStorage",
    "MissingError",
    "ReadStats",
    "Reader",
    "Storage",
    "StorageOptions",
    "Writing",
    "open_storage",
    "read_together",
    "use_storage_options",
]


def open_storage(url: str | Path, options: Mapping[str, object] | None = None) -> Storage:
    """The storage of a path or URL: file://, s3://, gs://, az://, and https:// for reading.

    Args:
        options: of object storage, before those of the environment; see `shards.storage.options`.

    Raises:
        UserError: another scheme, or an option that cannot be understood.
    """
    text = str(url)
    if "://" not in text:
        return LocalStorage(Path(text))
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return LocalStorage(Path(unquote(parts.path)))
    if parts.scheme in SCHEMES:
        from shards.storage.objects import ObjectStorage  # noqa: PLC0415 - loads the client of object storage

        return ObjectStorage(text, current_options(options))
    raise UserError(
        f"{text} is not a place this version can use: allowed are a path, file:///path, s3://bucket/folder, "
        "gs://bucket/folder, az://container/folder and, for reading, https://host/folder"
    )


def read_together(storages: Iterable[Storage], calls: Sequence[Callable[[], T]]) -> Sequence[T]:
    """Results of calls that read from these storages, in order; at the same time where one of them is far away."""
    far = next((storage for storage in storages if not storage.near), None)
    return [call() for call in calls] if far is None else far.together(calls)
