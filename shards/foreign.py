"""Tars that other tools wrote: a column whose tars lie elsewhere and stay as they are.

`<folder>/tars.jsonl` says where they are: a line with the options of the index, then one line a shard. A tar in the
data set's own folder stands there by its name, so that both can be moved together; others with path or URL. The
column holds `NNNNNN.idx` and receipts as any, and `NNNNNN.info` in place of KEY.json: the samples' descriptions, one
JSON object a line, to which the index's member records point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shards.errors import DataError
from shards.storage import MissingError, Reader, Storage, open_storage
from shards.text import to_json

NAME = "tars.jsonl"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Tars:
    """Where a column's tars are.

    Attributes:
        storage: of the data set.
        options: of the index.
        names: of shard 0, 1, …: a file name, or a path or URL.
    """

    storage: Storage
    options: Mapping[str, Any]
    names: Sequence[str]

    def where(self, shard: int) -> str:
        """Path or URL of a shard's tar."""
        name = self.names[shard]
        return name if "/" in name else f"{self.storage.url.rstrip('/')}/{name}"

    def open(self, shard: int, *, whole: bool = False) -> Reader:
        """For reads of parts; `whole`: for reading all of it.

        Raises:
            MissingError: there is no such tar. StorageError: it cannot be reached. DataError: none is known.
        """
        if shard >= len(self.names):
            raise DataError(f"{self.storage.url} lists {len(self.names)} tars, none for shard {shard}")
        folder, name = split_url(self.where(shard))
        storage = open_storage(folder) if "/" in self.names[shard] else self.storage
        return storage.fetch(name) if whole else storage.open(name)


def split_url(url: str) -> tuple[str, str]:
    """Folder and name of a file. A folder on the root of a file system is `/`."""
    folder, _, name = url.rpartition("/")
    return folder or "/", name


def write_tars(storage: Storage, folder: str, options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write down where the tars are, replacing what stood there."""
    lines = [{"foreign": VERSION, "options": dict(options)}]
    lines += [{"shard": shard, "tar": name} for shard, name in enumerate(names)]
    text = "".join(to_json(line) + "\n" for line in lines)
    storage.put(f"{folder}/{NAME}", text.encode(), replace=True)


def read_tars(storage: Storage, folder: str) -> Tars:
    """Raises: MissingError: the column has no such list. DataError: it cannot be understood."""
    where = f"{storage.url}/{folder}/{NAME}"
    lines = storage.read(f"{folder}/{NAME}").splitlines()
    try:
        head, *rest = map(json.loads, lines)
        if head["foreign"] > VERSION:
            raise DataError(
                f"{where} has format version {head['foreign']}; this vidprep reads up to {VERSION}: "
                "pip install -U vidprep"
            )
        names = [str(line["tar"]) for line in rest]
        if [line["shard"] for line in rest] != list(range(len(rest))):
            raise ValueError("its shards are not numbered from 0")
        return Tars(storage=storage, options=dict(head["options"]), names=names)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where} is no list of tars ({error}); remove it and run vidprep index-shards again"
        ) from error


def find_tars(storage: Storage, folder: str) -> Tars:
    """As `read_tars`, for readers of a finished column. Raises DataError: there is no list."""
    try:
        return read_tars(storage, folder)
    except MissingError as error:
        raise DataError(
            f"{error}; run the same vidprep index-shards command again, it writes what is missing"
        ) from error
