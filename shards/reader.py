"""Reading one column: from a sample's number and frame numbers to verified bytes. The hot path of training."""

from __future__ import annotations

import json
import resource
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.columns import COLUMNS
from shards.errors import DataError
from shards.foreign import find_tars
from shards.index import FAILED, FRAME, ShardIndex, frames_at, parse_idx, parse_index
from shards.meta import ColumnMeta, Meta
from shards.receipts import stem
from shards.storage import MissingError, Reader, Storage
from shards.storage.base import Span
from shards.video import Coding

# Two descriptors a shard (tar, mapped index), up to four columns, and as much left for everything else.
_OPEN_SHARDS = max(16, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 16384) // 16)
_CODINGS = 4096  # descriptions of encoded videos that are kept
_REREADS = 3  # of what arrives damaged from far away


@dataclass(frozen=True)
class OpenShard:
    tar: Reader
    index: ShardIndex
    table: int  # offset of the first frame record in the .idx file
    info: npt.NDArray[np.uint8] | None = None  # descriptions, where the tar is another tool's


class ColumnReader:
    """Verified access to the payloads of a column.

    Everything is compared when it is first touched: when a shard is opened, the size of its tar, the digest its index
    was made for, the index's checksum and its agreement with index.bin; and the CRC-32 of every frame that is read.
    Safe for threads; keeps a bounded number of shards open.

    Attributes:
        name: of the column; kind: what it holds.
        samples: (N,) records `shards.index.SAMPLE`.

    Raises:
        DataError: index.bin is missing, damaged, or not of this data set.
    """

    def __init__(self, storage: Storage, name: str, column: ColumnMeta, meta: Meta) -> None:
        self.name, self.kind = name, COLUMNS[column.kind]
        self._storage, self._folder = storage, column.folder
        self._again = f"run the same {column.producer} command again"
        where = f"{column.folder}/index.bin"
        try:
            index = parse_index(storage.map(where), f"{storage.url}/{where}")
        except MissingError as error:
            raise DataError(f"{error}; {self._again}, it writes what is missing") from error
        if (index.header["samples"], index.header["shards"]) != (meta.samples, meta.shards):
            raise DataError(
                f"{storage.url}/{where} is of {index.header['samples']} samples in {index.header['shards']} shards, "
                f"dataset.json of {meta.samples} in {meta.shards}; {self._again}"
            )
        self.keys_digest = int(index.header["keys_digest"])
        self.samples, self.shards = index.samples, index.shards
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._tars = find_tars(storage, column.folder) if self.kind.foreign else None
        self._codings: OrderedDict[int, Coding] = OrderedDict()
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()
        self._verified: set[int] = set()
        self._opening: dict[int, Lock] = {}

    def read(self, i: int, wanted: Sequence[int] | npt.NDArray[Any]) -> dict[int, memoryview]:
        """The frames of sample `i` by frame number; each read once, neighbours in one read.

        Raises:
            IndexError: a frame number is outside 0..frames−1.
            DataError: the stored bytes are not those that were written.
        """
        number, place, base, _, count, flags, *_, table, _ = self.samples[i].item()
        shard = self._open.get(number) or self._open_shard(number)
        numbers = sorted({*(wanted.tolist() if isinstance(wanted, np.ndarray) else wanted)})
        if not numbers:
            return {}
        if numbers[0] < 0 or numbers[-1] >= count:
            raise IndexError(self._outside(number, place, numbers, count, flags))
        first = (table - shard.table) // FRAME.itemsize
        rows = shard.index.frames[first : first + count].take(np.array(numbers)).tolist()
        spans, runs = _runs(base, rows)
        crc32 = zlib.crc32
        found: dict[int, memoryview] = {}
        for (start, stop), (begin, _), data in zip(runs, spans, shard.tar.read_many(spans), strict=True):
            whole = memoryview(data)
            for k in range(start, stop):
                offset, size, crc, _ = rows[k]
                view = whole[base + offset - begin : base + offset - begin + size]
                if crc32(view) != crc:
                    again = self._reread(shard, base + offset, size, crc)
                    if again is None:
                        raise self.damaged(number, place, f"frame {numbers[k]} does not agree with its checksum")
                    view = again
                found[numbers[k]] = view
        return found

    def _reread(self, shard: OpenShard, offset: int, size: int, crc: int) -> memoryview | None:
        """Bytes that arrived damaged, read again; None where they stay so."""
        for _ in range(_REREADS):
            if not shard.tar.doubt():
                return None
            view = memoryview(shard.tar.read(offset, size))
            if zlib.crc32(view) == crc:
                return view
        return None

    def spans(self, i: int, wanted: Sequence[int] | npt.NDArray[Any]) -> tuple[int, list[Span]]:
        """The shard of sample `i`, and (offset, size) in its tar of the frames that `read` would read, ascending.
        Looks at the index alone, which is not verified here."""
        record = self.samples[i]
        number = int(record["shard"])
        index = self._open[number].index if number in self._open else self._looked_up(number)
        first = (int(record["table"]) - frames_at(len(index.samples))) // FRAME.itemsize
        rows = index.frames[first : first + int(record["frames"])].take(np.unique(wanted))
        starts = rows["offset"].astype(np.int64) + int(record["offset"])
        return number, list(zip(starts.tolist(), rows["size"].tolist(), strict=True))

    def _looked_up(self, number: int) -> ShardIndex:
        """The index of a shard whose tar is not opened, which may mean that it is fetched."""
        if number not in self._indexes:
            name = f"{stem(self._folder, number)}.idx"
            self._indexes[number] = parse_idx(self._storage.map(name), name, verify=False)
            _shorten(self._indexes, _OPEN_SHARDS)
        return self._indexes[number]

    def payload(self, i: int) -> memoryview:
        """The whole payload of a sample in a column without frames, verified. Errors as `read`."""
        return self.read(i, [0])[0]

    def payloads(self, samples: Sequence[int]) -> dict[int, memoryview]:
        """The whole payloads of many samples in a column without frames, verified; those that failed are left out.

        One call for each shard that they are in, so that storage far away is asked for many at once. Errors as `read`.
        """
        there = sorted({i for i in samples if self.valid[i]})
        found: dict[int, memoryview] = {}
        for number, group in groupby(there, key=lambda i: int(self.samples[i]["shard"])):
            shard, its = self._shard(number), list(group)
            spans = [(int(self.samples[i]["offset"]), int(self.samples[i]["size"])) for i in its]
            for i, (offset, size), data in zip(its, spans, shard.tar.read_many(spans), strict=True):
                view: memoryview | None = memoryview(data)
                row = shard.index.frames[(int(self.samples[i]["table"]) - shard.table) // FRAME.itemsize]
                if zlib.crc32(data) != int(row["crc32"]):
                    view = self._reread(shard, offset, size, int(row["crc32"]))
                if view is None:
                    place = int(self.samples[i]["place"])
                    raise self.damaged(number, place, "its contents do not agree with their checksum")
                found[i] = view
        return found

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """(N,): False where a sample failed in this column."""
        return np.asarray(self.samples["flags"] & FAILED == 0)

    def times_us(self, i: int) -> npt.NDArray[np.int64]:
        """(frames,) microseconds since the first frame."""
        record = self.samples[i]
        shard = self._shard(int(record["shard"]))
        first = (int(record["table"]) - shard.table) // FRAME.itemsize
        return np.ascontiguousarray(shard.index.frames["time_us"][first : first + int(record["frames"])])

    def key(self, i: int) -> str:
        record = self.samples[i]
        return self._shard(int(record["shard"])).index.key(int(record["place"]))

    def info(self, i: int) -> bytes:
        """Contents of KEY.json, or what stands for it."""
        record = self.samples[i]
        shard = self._shard(int(record["shard"]))
        member = shard.index.members[int(record["place"])]
        start, size = int(member["info_offset"]), int(member["info_size"])
        data = shard.tar.read(start, size) if shard.info is None else shard.info[start : start + size].tobytes()
        if len(data) != size:
            raise self.damaged(int(record["shard"]), int(record["place"]), "its description is cut short")
        return data

    def coding(self, i: int) -> Coding:
        """How the frames of a sample of an encoded column are reached. Raises DataError: its description is damaged."""
        coding = self._codings.get(i)
        if coding is None:
            record = self.samples[i]
            try:
                coding = Coding.of(json.loads(self.info(i))["coding"])
            except (ValueError, KeyError, TypeError) as error:
                what = f"its description cannot be understood ({error!r})"
                raise self.damaged(int(record["shard"]), int(record["place"]), what) from error
            self._codings[i] = coding
            _shorten(self._codings, _CODINGS)
        return coding

    def damaged(self, shard: int, place: int | None, what: str) -> DataError:
        """The error for bytes that are not what they should be."""
        name = f"{self._storage.url}/{stem(self._folder, shard)}"
        sample = ""
        if place is not None:
            sample = f", sample {self._shard(shard).index.key(place)}"
        tar = f"{name}.tar" if self._tars is None else self._tars.where(shard)
        return DataError(
            f"{tar}{sample}: {what}; vidprep check {self._storage.url} lists all damage; to write the shard "
            f"anew remove {name}.json and {self._again}"
        )

    def _shard(self, number: int) -> OpenShard:
        return self._open.get(number) or self._open_shard(number)

    def _open_shard(self, number: int) -> OpenShard:
        with self._opening.setdefault(number, Lock()):  # threads that want the same shard open it once
            shard = self._open.get(number) or self._load_shard(number)
            self._verified.add(number)
            self._open[number] = shard
        # Not closed here: another thread may be reading; the last reference closes it.
        _shorten(self._open, _OPEN_SHARDS)
        return shard

    def _load_shard(self, number: int) -> OpenShard:
        record = self.shards[number]
        try:
            if self._tars is None:
                tar, info = self._storage.open(f"{stem(self._folder, number)}.tar"), None
            else:
                tar, info = self._tars.open(number), self._storage.map(f"{stem(self._folder, number)}.info")
        except MissingError as error:
            raise self.damaged(number, None, str(error)) from error
        if tar.size != record["tar_size"]:
            raise self.damaged(number, None, f"it has {tar.size} bytes instead of {record['tar_size']}")
        for last in (*(False,) * _REREADS, True):
            try:
                return OpenShard(tar, self._index(number), frames_at(int(record["samples"])), info)
            except DataError as error:
                if last or not self._storage.forget(f"{stem(self._folder, number)}.idx"):
                    raise self.damaged(number, None, str(error)) from error
        raise AssertionError("the last try returns or raises")

    def _index(self, number: int) -> ShardIndex:
        """The index of a shard. Raises DataError: it is damaged, or not of this data set."""
        record = self.shards[number]
        name = f"{stem(self._folder, number)}.idx"
        try:
            data = self._storage.map(name)
        except MissingError as error:
            raise DataError(str(error)) from error
        index = parse_idx(data, name, verify=number not in self._verified)
        first, count, header = int(record["first"]), int(record["samples"]), index.header
        same = (header["tar_digest"], header["crc32"]) == (record["tar_digest"], record["idx_crc32"])
        if not same or (
            number not in self._verified and index.samples.tobytes() != self.samples[first : first + count].tobytes()
        ):
            raise DataError("its .idx is that of another tar, or index.bin of another data set")
        return index

    def _outside(self, number: int, place: int, wanted: list[int], count: int, flags: int) -> str:
        key = self._shard(number).index.key(place)
        if flags & FAILED:
            return f"sample {key} failed in column {self.name}: it holds nothing there"
        wrong = wanted[0] if wanted[0] < 0 else wanted[-1]
        return f"frame {wrong} of sample {key} does not exist; it has frames 0 to {count - 1}"


def _runs(base: int, rows: list[Any]) -> tuple[list[Span], list[tuple[int, int]]]:
    """(offset, size) in the tar of every run of neighbouring frames, and the (first, last + 1) rows it is of."""
    spans: list[Span] = []
    runs: list[tuple[int, int]] = []
    at = 0
    while at < len(rows):
        start, size, _, _ = rows[at]
        stop, end = at + 1, start + size
        while stop < len(rows) and rows[stop][0] == end:
            end += rows[stop][1]
            stop += 1
        spans.append((base + start, end - start))
        runs.append((at, stop))
        at = stop
    return spans, runs


def _shorten(entries: OrderedDict[int, Any], most: int) -> None:
    """Drop the oldest entries."""
    while len(entries) > most:
        with suppress(KeyError):  # another thread dropped the same one
            entries.popitem(last=False)
