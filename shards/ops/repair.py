"""Mending what is damaged in a data set and nothing else, from what is whole in it and from a copy.

A file is written only when it is proved to be the lost one: a tar or index by the SHA-256 in its receipt, a receipt by
the digest in index.bin or in the shard's index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from shards.columns import COLUMNS
from shards.derived import stale_sources
from shards.errors import DataError, UserError
from shards.finalize import join, load_shards
from shards.index import ColumnIndex, ShardIndex, build_index, parse_idx, parse_index
from shards.meta import NAME, VERSION, ColumnMeta, Meta, read_meta
from shards.ops.parts import column_order
from shards.ops.rebuild import Hint, rebuild_idx
from shards.ops.tables import mend_table
from shards.plan import NAME as PLAN
from shards.receipts import Receipt, read_receipt, stem
from shards.storage import MissingError, Reader, Storage, open_storage

_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Mended:
    """A file that was written anew, and from what."""

    file: str
    how: str

    def __str__(self) -> str:
        return f"{self.file}: {self.how}"


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A shard that cannot be mended from what there is; `why` says what is wrong with it."""

    column: str
    shard: int
    why: str


@dataclass
class Repair:
    """What was mended, and which shards need to be made again."""

    mended: list[Mended] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)


def mend(url: str | Path, *, other: str | Path | None = None) -> Repair:
    """Mend tars, indexes, receipts, the sample table and dataset.json as far as possible.

    Args:
        other: a copy of the data set. Nothing is taken from it without proof that it is what was here.

    Raises:
        UserError: there is no data set, here or at the other place, or the other one is another data set.
        StorageError: a place cannot be read or written.
    """
    storage = open_storage(url)
    copy = None if other is None else open_storage(other)
    found = Repair()
    meta = _meta(storage, copy, found)
    there = None if copy is None else read_meta(copy)
    if copy is not None and there is not None and (there.samples, there.shards) != (meta.samples, meta.shards):
        raise UserError(
            f"{copy.url} has {there.samples} samples in {there.shards} shards, {storage.url} has {meta.samples} in "
            f"{meta.shards}: it is not a copy of it"
        )
    if copy is not None and not storage.exists(PLAN) and copy.exists(PLAN):
        storage.put(PLAN, copy.read(PLAN))
        found.mended.append(Mended(file=PLAN, how=f"fetched from {copy.url}"))
    for name in column_order(meta, None):
        _Column(storage, meta, name, copy, there, found).mend()
    keys = _keys(storage, meta)
    for file, how in () if keys is None else mend_table(storage, meta, keys, copy, there):
        found.mended.append(Mended(file=file, how=how))
    return found


def _meta(storage: Storage, copy: Storage | None, found: Repair) -> Meta:
    """dataset.json, fetched from the copy where it is missing or cannot be understood."""
    try:
        return read_meta(storage)
    except UserError:
        if copy is None or (storage.exists(NAME) and _newer(storage.read(NAME))):
            raise
    meta = read_meta(copy)
    if storage.exists(PLAN) and copy.exists(PLAN) and storage.read(PLAN) != copy.read(PLAN):
        raise UserError(f"{copy.url} was planned from other videos than {storage.url}: it is not a copy of it")
    storage.put(NAME, copy.read(NAME), replace=True)
    found.mended.append(Mended(file=NAME, how=f"fetched from {copy.url}"))
    return meta


def _keys(storage: Storage, meta: Meta) -> int | None:
    """Digest of the data set's keys, from the first index.bin that is whole."""
    for column in meta.columns.values():
        name = f"{column.folder}/index.bin"
        try:
            header = parse_index(storage.map(name), name, verify=True).header
        except (MissingError, DataError):
            continue
        if header["samples"] == meta.samples:
            return int(header["keys_digest"])
    return None


def _newer(text: bytes) -> bool:
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(version, int) and version > VERSION


class _Column:
    """One column under repair."""

    def __init__(
        self, storage: Storage, meta: Meta, name: str, copy: Storage | None, there: Meta | None, found: Repair
    ) -> None:
        self._storage, self._meta, self._name, self._found = storage, meta, name, found
        self._column: ColumnMeta = meta.columns[name]
        self._kind = COLUMNS[self._column.kind]
        self._copy = copy if there is not None and name in there.columns else None
        self._folder_there = there.columns[name].folder if there is not None and name in there.columns else ""

    def mend(self) -> None:
        if self._kind.foreign:
            return  # its tars belong to others; vidprep index-shards makes the index again
        if self._is_stale():
            return  # what it was made from is gone; it is made anew as a whole
        lost = len(self._found.lost)
        for shard in range(self._meta.shards):
            if why := self._mend_shard(shard):
                self._found.lost.append(Lost(column=self._name, shard=shard, why=why))
        if len(self._found.lost) == lost:
            self._mend_index()
        elif self._index is None:
            with suppress(UserError):  # receipts and indexes are enough for it; it says what the lost tars were
                self._mend_index()

    def _is_stale(self) -> bool:
        try:
            return bool(stale_sources(self._storage, self._meta, self._name))
        except DataError:
            return False  # a source has lost its index; it comes before and could not be mended

    @cached_property
    def _index(self) -> ColumnIndex | None:
        """index.bin, if it is whole."""
        name = f"{self._column.folder}/index.bin"
        try:
            index = parse_index(self._storage.map(name), name, verify=True)
        except (MissingError, DataError):
            return None
        whole = (len(index.samples), len(index.shards)) == (self._meta.samples, self._meta.shards)
        return index if whole and build_index(index.samples, index.shards) == self._storage.read(name) else None

    def _mend_shard(self, shard: int) -> str:
        """Why it cannot be mended; empty where it is whole."""
        receipt = self._receipt(shard)
        if receipt is None:
            return "its receipt is lost"
        name = f"{stem(self._column.folder, shard)}.tar"
        if _sha256(self._storage, name) != receipt.tar_sha256 and not self._fetch(
            name, stem(self._folder_there, shard) + ".tar", receipt.tar_size, receipt.tar_sha256
        ):
            return "its tar is damaged or missing"
        name = f"{stem(self._column.folder, shard)}.idx"
        if _sha256(self._storage, name) == receipt.idx_sha256:
            return ""
        if self._rebuild(shard, receipt):
            return ""
        there = stem(self._folder_there, shard) + ".idx"
        fetched = self._fetch(name, there, receipt.idx_size, receipt.idx_sha256)
        return "" if fetched else "its index is damaged or missing"

    def _receipt(self, shard: int) -> Receipt | None:
        folder, storage, copy = self._column.folder, self._storage, self._copy
        try:
            return read_receipt(storage, folder, shard)
        except (MissingError, DataError):
            if copy is None or self._folder_there != folder:
                return None
        try:
            receipt = read_receipt(copy, folder, shard)
        except (MissingError, DataError):
            return None
        if bytes.fromhex(receipt.tar_sha256)[:16] not in set(self._witnesses(shard)):
            return None
        name = f"{stem(folder, shard)}.json"
        storage.put(name, copy.read(name), replace=True)
        self._mended(name, f"fetched from {copy.url}")
        return receipt

    def _witnesses(self, shard: int) -> Iterator[bytes]:
        """First bytes of the tar's SHA-256, as far as it is known without the receipt."""
        if self._index is not None:
            yield self._index.shards[shard]["tar_digest"].tobytes()
            return
        index = _parsed(self._storage, stem(self._column.folder, shard))
        if index is not None:
            yield index.header["tar_digest"].tobytes()
        digest = _sha256(self._storage, f"{stem(self._column.folder, shard)}.tar")
        if digest is not None:
            yield bytes.fromhex(digest)[:16]

    def _fetch(self, name: str, there: str, size: int, sha256: str) -> bool:
        """Copy a file from the other place, if it is the one that was here."""
        if self._copy is None:
            return False
        try:
            reader = self._copy.open(there)
        except MissingError:
            return False
        if reader.size != size:
            return False
        aside = self._storage.create(name)
        try:
            for part in _parts(reader):
                aside.write(part)
            if aside.sha256 != sha256:
                return False
            aside.publish(replace=True)
        finally:
            aside.discard()
            reader.close()
        self._mended(name, f"fetched from {self._copy.url}")
        return True

    def _rebuild(self, shard: int, receipt: Receipt) -> bool:
        name = stem(self._column.folder, shard)
        # Images of a flow column may have the times of frames, or evenly spaced ones; the checksum tells.
        for timed in (True, False):
            data = self._rebuilt(name, shard, receipt, timed=timed)
            if hashlib.sha256(data).hexdigest() == receipt.idx_sha256:
                break
        else:
            return False
        self._storage.put(f"{name}.idx", data, replace=True)
        self._mended(f"{name}.idx", "made again from its tar")
        return True

    def _rebuilt(self, name: str, shard: int, receipt: Receipt, *, timed: bool) -> bytes:
        """What the index of a tar may have been; empty where it cannot be read."""
        reader = self._storage.open(f"{name}.tar")
        try:
            hints = _Hints(self, shard, timed=timed)
            return rebuild_idx(reader, self._kind, shard=shard, tar_sha256=receipt.tar_sha256, hint=hints)
        except ValueError:
            return b""
        finally:
            reader.close()

    def hint(self, key: str, source: ShardIndex | None, places: dict[str, int], *, timed: bool) -> Hint | None:
        """What is known of a sample of a derived column from the column it was made from."""
        if source is None or key not in places:
            return None
        record, first = source.samples[places[key]], source.first_frame(places[key])
        times = source.frames["time_us"][first : first + int(record["frames"])].astype(np.int64)
        size = (int(record["height"]), int(record["width"]))
        if self._kind.planes > 1:
            times = np.repeat(times[:-1], self._kind.planes)
        return Hint(fps=float(record["fps"]), size=size, times_us=times if timed else None)

    def main_index(self, shard: int) -> ShardIndex | None:
        """The same shard's index in the column that the others go with; None for that column itself."""
        first = column_order(self._meta, None)[0]
        if first == self._name:
            return None
        return _parsed(self._storage, stem(self._meta.columns[first].folder, shard))

    def _mend_index(self) -> None:
        name = f"{self._column.folder}/index.bin"
        again = f"run the same {self._column.producer} command again"
        samples, shards = join(load_shards(self._storage, self._column.folder, self._meta.shards, again=again))
        data = build_index(samples, shards)
        if self._index is not None and self._storage.read(name) == data:
            return
        self._storage.put(name, data, replace=True)
        self._mended(name, "made again from the indexes of its shards")

    def _mended(self, file: str, how: str) -> None:
        self._found.mended.append(Mended(file=file, how=how))


class _Hints:
    """Sample key → hint, for one shard."""

    def __init__(self, column: _Column, shard: int, *, timed: bool) -> None:
        self._column, self._timed = column, timed
        self._source = column.main_index(shard)
        keys: Sequence[str] = [] if self._source is None else self._source.all_keys()
        self._places = {key: place for place, key in enumerate(keys)}

    def __call__(self, key: str) -> Hint | None:
        return self._column.hint(key, self._source, self._places, timed=self._timed)


def _parsed(storage: Storage, name: str) -> ShardIndex | None:
    """An .idx that agrees with its own checksum, or None."""
    try:
        return parse_idx(storage.map(f"{name}.idx"), f"{name}.idx")
    except (MissingError, DataError):
        return None


def _sha256(storage: Storage, name: str) -> str | None:
    try:
        reader = storage.open(name)
    except MissingError:
        return None
    digest = hashlib.sha256()
    for part in _parts(reader):
        digest.update(part)
    reader.close()
    return digest.hexdigest()


def _parts(reader: Reader) -> Iterator[bytes]:
    for offset in range(0, reader.size, _CHUNK):
        yield reader.read(offset, _CHUNK)
