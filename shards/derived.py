"""Columns made from other columns: which folder they go to, putting them in force, and whether they are still true."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shards import captions
from shards.columns import COLUMNS
from shards.errors import DataError, UserError
from shards.finalize import common_parameters, join, load_shards
from shards.index import ColumnIndex, build_index, combined_digest, parse_index
from shards.meta import ColumnMeta, Meta, read_meta, write_meta
from shards.receipts import read_receipt, read_receipts, stem
from shards.samples import SampleTable
from shards.storage import MissingError, Storage, open_storage
from shards.text import to_json

_HEX = 8
_DIGEST = 16  # bytes of a SHA-256 that index.bin keeps


def column_index(storage: Storage, column: ColumnMeta) -> ColumnIndex:
    """The index.bin of a column. Raises DataError: there is none, or it is damaged."""
    name = f"{column.folder}/index.bin"
    try:
        return parse_index(storage.map(name), f"{storage.url}/{name}")
    except MissingError as error:
        raise DataError(f"{error}; run the same {column.producer} command again, it writes what is missing") from error


def source_digests(storage: Storage, meta: Meta, sources: Sequence[str]) -> dict[str, str]:
    """Digest of each of these columns, or of the captions, as they are now.

    Raises UserError: the data set has no such column.
    """
    for name in sources:
        if name != captions.SOURCE and name not in meta.columns:
            raise UserError(missing_column(storage.url, meta, name))
    return {name: combined_digest(_tar_digests(storage, meta, name)) for name in sources}


class Sources:
    """What the shards of derived columns are made from. The sample table is opened once, whatever its storage."""

    def __init__(self, storage: Storage, meta: Meta) -> None:
        self._storage, self._meta = storage, meta

    def sha256(self, source: str, shard: int) -> str:
        """Hex SHA-256 of what a shard is made from: of the source's tar, or of the captions of its samples."""
        if source == captions.SOURCE:
            return self._captions.sha256(shard)
        return read_receipt(self._storage, self._meta.columns[source].folder, shard).tar_sha256

    @cached_property
    def _captions(self) -> _Captions:
        return _Captions(self._storage, self._meta)


class _Captions:
    """What stands for the tars where the source is the sample table."""

    def __init__(self, storage: Storage, meta: Meta) -> None:
        self._table = SampleTable(storage, meta, verify=False)
        self._shards = column_index(storage, next(iter(meta.columns.values()))).shards

    def sha256(self, shard: int) -> str:
        first, count = int(self._shards[shard]["first"]), int(self._shards[shard]["samples"])
        return captions.sha256(self._table.captioned(first, count))

    def tar_digests(self) -> list[bytes]:
        return [bytes.fromhex(self.sha256(shard))[:_DIGEST] for shard in range(len(self._shards))]


def _tar_digests(storage: Storage, meta: Meta, source: str) -> list[bytes]:
    """The first bytes of `Sources.sha256` of every shard."""
    if source == captions.SOURCE:
        return _Captions(storage, meta).tar_digests()
    return [digest.tobytes() for digest in column_index(storage, meta.columns[source]).shards["tar_digest"]]


def missing_column(url: str, meta: Meta, name: str) -> str:
    """What to tell somebody who needs a column that is not there."""
    makers = {"flow": f"vidprep flow {url}", "statistics": f"vidprep labels {url}", "text": f"vidprep text {url}"}
    base = name.partition("-")[0]
    make = f"; make it with {makers[base]}" + ("" if name == base else f" --column {name}") if base in makers else ""
    return f"{url} has no column {name!r}; it has: {', '.join(meta.columns)}{make}"


def stale_sources(storage: Storage, meta: Meta, name: str) -> tuple[str, ...]:
    """The columns (or "captions") that a derived column was made from and that have changed, or gone, since."""
    recorded = meta.columns[name].sources
    return tuple(
        source
        for source, digest in recorded.items()
        if (source not in meta.columns and source != captions.SOURCE)
        or combined_digest(_tar_digests(storage, meta, source)) != digest
    )


def stale_columns(url: str | Path) -> dict[str, str]:
    """What to tell about every column that is no longer true: what changed, and the command that makes it anew.

    Raises: UserError: there is no finished data set. DataError: an index is damaged.
    """
    storage = open_storage(url)
    meta = read_meta(storage)
    found = {name: stale_column(storage, meta, name) for name in meta.columns}
    return {name: told for name, told in found.items() if told is not None}


def stale_column(storage: Storage, meta: Meta, name: str) -> str | None:
    """What to tell about a column if it is no longer true, else None."""
    stale, column = stale_sources(storage, meta, name), meta.columns[name]
    if not stale:
        return None
    options = "" if COLUMNS[column.kind].text else " and its options (vidprep info shows them)"
    return (
        f"column {name} was made from {', '.join(stale)} as before a change; make it anew with "
        f"{column.producer} {storage.url} --column {name}{options}"
    )


def folder_for(
    storage: Storage, meta: Meta, name: str, *, parameters: Mapping[str, Any], digests: Mapping[str, str]
) -> str:
    """Where a column of these parameters and sources goes: the folder of its name, unless that holds another.

    Then it is `NAME-` and 8 hex digits of parameters and sources. So a run that was ended goes on in its own folder,
    and what is in force is never written over.
    """
    plain = to_json({"parameters": dict(parameters), "sources": dict(digests)})
    marked = f"{name}-{hashlib.blake2b(plain.encode(), digest_size=_HEX // 2).hexdigest()}"
    sources = Sources(storage, meta)
    taken = {column.folder for other, column in meta.columns.items() if other != name}
    for receipt in read_receipts(storage, name):
        if dict(receipt.parameters) != dict(parameters) or set(receipt.sources) != set(digests):
            return marked
        if receipt.shard >= meta.shards or any(
            sources.sha256(s, receipt.shard) != d for s, d in receipt.sources.items()
        ):
            return marked
    return marked if name in taken else name


def finalize_column(
    storage: Storage, name: str, *, kind: str, folder: str, producer: str, sources: Sequence[str] = ()
) -> Meta:
    """Put a finished column in force: its index.bin, then one write of dataset.json.

    Args:
        name: of the column; kind: key of `shards.columns.COLUMNS`.
        folder: where its shards are.
        producer: the command that makes it.
        sources: the columns it was made from, or "captions".

    Raises:
        UserError: shards are missing (says how many), or a source is.
        DataError: the shards do not belong together, were made from other shards of a source, or hold other keys.
    """
    meta = read_meta(storage)
    again = f"run the same {producer} command again"
    shards = load_shards(storage, folder, meta.shards, again=again)
    samples, records = join(shards)
    digests = source_digests(storage, meta, sources)
    for source in sources:
        for shard, digest in zip(shards, _tar_digests(storage, meta, source), strict=True):
            if bytes.fromhex(shard.receipt.sources.get(source, ""))[:_DIGEST] != digest:
                what = "other captions" if source == captions.SOURCE else f"another {source} shard"
                raise DataError(
                    f"{storage.url}/{stem(folder, shard.receipt.shard)} was made from {what} than there is now; "
                    f"remove its .json and {again} to write it anew"
                )
    first = next(iter(meta.columns.values()))
    if not np.array_equal(samples["key_hash"], column_index(storage, first).samples["key_hash"]):
        raise DataError(
            f"{storage.url}/{folder} holds other samples, or in another order, than {first.folder}; remove the folder "
            f"and {again}"
        )
    where, index = f"{folder}/index.bin", build_index(samples, records)
    if not storage.exists(where) or storage.read(where) != index:
        storage.put(where, index, replace=True)
    column = ColumnMeta(
        kind=kind,
        folder=folder,
        producer=producer,
        parameters=common_parameters(storage, shards, again=again),
        sources=digests,
    )
    changed = replace(meta, columns={**meta.columns, name: column})
    if changed != meta:
        write_meta(storage, changed)
    return changed


def unreferenced(storage: Storage, meta: Meta) -> tuple[str, ...]:
    """Folders that look like columns of this data set and that dataset.json does not name."""
    used = {column.folder for column in meta.columns.values()}
    return tuple(folder for folder in storage.folders() if folder not in used and _holds_shards(storage, folder))


def _holds_shards(storage: Storage, folder: str) -> bool:
    parts = (name.partition(".") for name in storage.list(folder))
    return any(number.isdecimal() and extension in ("tar", "idx", "json") for number, _, extension in parts)
