"""Where data sets live. Every access of this package to stored bytes goes through a `Storage`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from shards.errors import UserError
from shards.storage.base import MissingError, Reader, ReadStats, Storage, Writing
from shards.storage.local import LocalReader, LocalStorage

__all__ = [
    "LocalReader",
    "LocalStorage",
    "MissingError",
    "ReadStats",
    "Reader",
    "Storage",
    "Writing",
    "open_storage",
]


def open_storage(url: str | Path) -> Storage:
    """The storage of a path or a `file://` URL.

    Raises:
        UserError: another scheme.
    """
    text = str(url)
    parts = urlsplit(text)
    if "://" not in text:
        return LocalStorage(Path(text))
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return LocalStorage(Path(unquote(parts.path)))
    raise UserError(
        f"{text} is not a place this version can use: allowed are a local path or file:///path; "
        "mount the bucket or copy the data set to a disk first"
    )
