"""Re-reading a whole data set against everything that is recorded about it."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.columns import COLUMNS, ColumnKind
from shards.errors import DataError
from shards.foreign import find_tars
from shards.index import ColumnIndex, ShardIndex, build_index, parse_idx, parse_index
from shards.keys import key_hash
from shards.meta import ColumnMeta, Meta, read_meta
from shards.receipts import Receipt, read_receipt, stem
from shards.samples import SampleTable, build_samples
from shards.storage import MissingError, Reader, Storage, open_storage
from shards.tarwriter import read_info

_CHUNK = 1 << 22
_MISSING = "it does not exist"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: relative to the data set.
        shard: its number, None for files that belong to no shard.
        key: the sample, None where the whole file is concerned.
        message: what is wrong.
        command: what repairs it; empty where the message says that.
    """

    file: str
    message: str
    command: str
    shard: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        sample = f", sample {self.key}" if self.key else ""
        return f"{self.file}{sample}: {self.message}" + (f"; {self.command}" if self.command else "")


def check(url: str | Path) -> Iterator[Problem]:
    """Read every byte of a data set and yield what does not agree.

    Compared are: the structure of every tar (by the standard library's reader), sizes and SHA-256 with the
    receipts, every member with its index entry, every frame with its CRC-32, the shard indexes with index.bin, and
    the sample table with samples.jsonl and with the keys.

    Raises:
        UserError: there is no finished data set at this place.
    """
    storage = open_storage(url)
    meta = read_meta(storage)
    table: SampleTable | None = None
    try:
        table = SampleTable(storage, meta)
        yield from check_rows(storage, meta, table)
    except DataError as error:
        yield Problem(file=f"{meta.samples_stem}.jsonl", message=str(error), command="")
    for column in meta.columns.values():
        yield from _check_column(storage, meta, column, table)


def _again(storage: Storage, producer: str = "vidprep pack") -> str:
    return f"run the same {producer} command into {storage.url} again"


def check_rows(storage: Storage, meta: Meta, table: SampleTable) -> Iterator[Problem]:
    """Whether samples.bin is what samples.jsonl compiles to."""
    bit_of = {split: 1 << bit for bit, split in enumerate(meta.splits)}
    rows, agree = list(table.rows()), True
    for row, record in zip(rows, table.records, strict=True):
        label = int(record["label"])
        named = meta.classes[label] if 0 <= label < len(meta.classes) else None
        bits = sum(bit_of.get(split, 0) for split in set(row.splits))
        if named != row.label or int(record["splits"]) != bits:
            agree = False
            message = "its label or splits differ between samples.jsonl, samples.bin and dataset.json"
            yield Problem(file=f"{meta.samples_stem}.jsonl", key=row.key, message=message, command=_again(storage))
    name = f"{meta.samples_stem}.bin"
    if agree and build_samples(rows, classes=meta.classes, splits=meta.splits)[1] != storage.read(name):
        message = f"it is not what {meta.samples_stem}.jsonl compiles to"
        yield Problem(file=name, message=message, command=_again(storage))


def _check_column(storage: Storage, meta: Meta, column: ColumnMeta, table: SampleTable | None) -> Iterator[Problem]:
    name = f"{column.folder}/index.bin"
    again = _again(storage, column.producer)
    repair = f"remove it and {again}"
    try:
        data = storage.map(name)
        index = parse_index(data, name, verify=True)
    except MissingError:
        yield Problem(file=name, message=_MISSING, command=again)
        return
    except DataError as error:
        yield Problem(file=name, message=str(error), command=repair)
        return
    if (len(index.samples), len(index.shards)) != (meta.samples, meta.shards):
        message = (
            f"it has {len(index.samples)} samples in {len(index.shards)} shards, dataset.json says "
            f"{meta.samples} in {meta.shards}"
        )
        yield Problem(file=name, message=message, command=repair)
        return
    if build_index(index.samples, index.shards) != data.tobytes():
        yield Problem(file=name, message="its header does not agree with its records", command=repair)
    elif table is not None and table.header["keys_digest"] != index.header["keys_digest"]:
        yield Problem(file=name, message="its keys are not those of the sample table", command=repair)
    for number in range(meta.shards):
        yield from _Shard(storage, column, number).check(index)


@dataclass(frozen=True)
class _Shard:
    storage: Storage
    column: ColumnMeta
    number: int

    @property
    def again(self) -> str:
        return _again(self.storage, self.column.producer)

    @property
    def stem(self) -> str:
        return stem(self.column.folder, self.number)

    def problem(self, extension: str, message: str, key: str | None = None) -> Problem:
        command = f"to write the shard anew remove {self.storage.url}/{self.stem}.json and {self.again}"
        if extension == "tar" and COLUMNS[self.column.kind].foreign:
            message = f"{find_tars(self.storage, self.column.folder).where(self.number)}: {message}"
        return Problem(file=f"{self.stem}.{extension}", message=message, command=command, shard=self.number, key=key)

    def check(self, whole: ColumnIndex) -> Iterator[Problem]:
        try:
            receipt = read_receipt(self.storage, self.column.folder, self.number)
        except MissingError:
            file = f"{self.stem}.json"
            yield Problem(file=file, message=_MISSING, command=self.again, shard=self.number)
            return
        except DataError as error:
            yield Problem(file=f"{self.stem}.json", message=str(error), command="", shard=self.number)
            return
        try:
            data = self.storage.map(f"{self.stem}.idx")
            if hashlib.sha256(data.data).hexdigest() != receipt.idx_sha256:
                yield self.problem("idx", "its SHA-256 is not that of the receipt")
            index = parse_idx(data, f"{self.stem}.idx")
        except MissingError:
            yield self.problem("idx", _MISSING)
            return
        except DataError as error:
            yield self.problem("idx", str(error))
            return
        record = whole.shards[self.number]
        first, count = int(record["first"]), int(record["samples"])
        if (
            whole.samples[first : first + count].tobytes() != index.samples.tobytes()
            or record["tar_digest"] != index.header["tar_digest"]
            or record["idx_crc32"] != index.header["crc32"]
        ):
            yield self.problem("idx", "it is not the index that index.bin was made from")
        try:
            yield from self._check_tar(receipt, index)
        except MissingError:
            yield self.problem("tar", _MISSING)

    def _check_tar(self, receipt: Receipt, index: ShardIndex) -> Iterator[Problem]:
        kind = COLUMNS[self.column.kind]
        if kind.foreign:
            reader = find_tars(self.storage, self.column.folder).open(self.number, whole=True)
            infos = self.storage.open(f"{self.stem}.info")
        else:
            reader = infos = self.storage.fetch(f"{self.stem}.tar")
        size = reader.size
        if size != receipt.tar_size:
            yield self.problem("tar", f"it has {size} bytes instead of {receipt.tar_size}")
        elif _sha256(reader) != receipt.tar_sha256:
            yield self.problem("tar", "its SHA-256 is not that of the receipt")
        if bytes.fromhex(receipt.tar_sha256)[:16] != index.header["tar_digest"].tobytes():
            yield self.problem("idx", "it is the index of another tar")
        keys = index.all_keys()
        if not kind.foreign:
            yield from self._check_members(kind, index, keys, reader)
        for place, key in enumerate(keys):
            yield from self._check_description(kind, index, place, key, infos)
            yield from self._check_payload(kind, index, place, key, reader)
        reader.close()
        infos.close()

    def _check_members(self, kind: ColumnKind, index: ShardIndex, keys: list[str], reader: Reader) -> Iterator[Problem]:
        """Names, order, places and sizes as any tar reader sees them."""
        expected: list[tuple[str, int, int]] = []
        rows = zip(keys, index.members.tolist(), index.samples.tolist(), strict=True)
        for key, (info_at, info_size, *_), (_, _, payload_at, payload_size, *_) in rows:
            if kind.describes:
                expected.append((f"{key}.json", info_at, info_size))
            expected.append((f"{key}.{kind.suffix}", payload_at, payload_size))
        found: list[tuple[str, int, int]] = []
        try:
            with tarfile.open(fileobj=io.BufferedReader(StoredFile(reader)), mode="r:") as tar:
                found.extend((member.name, member.offset_data, member.size) for member in tar)
        except tarfile.TarError as error:
            yield self.problem("tar", f"it is not a whole tar: {error}")
        if found == expected:
            return
        for want, have in zip(expected, found, strict=False):
            if want != have:
                key = want[0].rpartition(".")[0]
                yield self.problem("tar", f"member (name, offset, size) {have} stands where {want} should", key)
                return
        yield self.problem("tar", f"it has {len(found)} members instead of {len(expected)}")

    def _check_description(
        self, kind: ColumnKind, index: ShardIndex, place: int, key: str, reader: Reader
    ) -> Iterator[Problem]:
        record, member = index.samples[place], index.members[place]
        if key_hash(key) != record["key_hash"]:
            yield self.problem("idx", "its key does not agree with its hash", key)
        if not kind.describes:
            return
        where = "info" if kind.foreign else "tar"
        text = reader.read(int(member["info_offset"]), int(member["info_size"]))
        try:
            if read_info(text).get("key") != key:
                yield self.problem(where, "its description is that of another sample", key)
        except ValueError as error:
            yield self.problem(where, f"its description is not JSON: {error}", key)

    def _check_payload(
        self, kind: ColumnKind, index: ShardIndex, place: int, key: str, reader: Reader
    ) -> Iterator[Problem]:
        record = index.samples[place]
        if not record["frames"]:
            return
        payload = reader.read(int(record["offset"]), int(record["size"]))
        first = index.first_frame(place)
        rows = index.frames[first : first + int(record["frames"])]
        position, wrong = 0, []
        if kind.foreign:  # other members lie between, and all records may be of the whole file
            rows = np.unique(rows[["offset", "size", "crc32"]])
            wrong = [n for n, (o, size, crc) in enumerate(rows.tolist()) if zlib.crc32(payload[o : o + size]) != crc]
            if wrong:
                yield self.problem(
                    "tar", f"{len(wrong)} of its {len(rows)} parts do not agree with their checksums", key
                )
            return
        for number, (offset, size, crc, _) in enumerate(rows.tolist()):
            if offset != position or zlib.crc32(payload[offset : offset + size]) != crc:
                wrong.append(number)
            position += size
        if wrong:
            yield self.problem("tar", f"frames {_listing(wrong)} do not agree with their checksums", key)
        if position != record["size"]:
            yield self.problem("idx", f"its frames make {position} bytes of {record['size']}", key)


def _listing(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return shown if len(numbers) <= 5 else f"{shown} and {len(numbers) - 5} more"


def _sha256(reader: Reader) -> str:
    digest = hashlib.sha256()
    for offset in range(0, reader.size, _CHUNK):
        digest.update(reader.read(offset, _CHUNK))
    return digest.hexdigest()


class StoredFile(io.RawIOBase):
    """A stored object as the file that the standard library's tar reader wants."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._reader.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
