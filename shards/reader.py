"""Reading one column: from a sample's number and frame numbers to verified bytes. The hot path of training."""

from __future__ import annotations

import resource
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.columns import COLUMNS
from shards.errors import DataError
from shards.index import FAILED, FRAME, ShardIndex, frames_at, parse_idx, parse_index
from shards.meta import ColumnMeta, Meta
from shards.receipts import stem
from shards.storage import MissingError, Reader, Storage

# Two descriptors a shard (tar, mapped index), up to four columns, and as much left for everything else.
_OPEN_SHARDS = max(16, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 16384) // 16)


@dataclass(frozen=True)
class OpenShard:
    tar: Reader
    index: ShardIndex
    table: int  # offset of the first frame record in the .idx file


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
        self._verified: set[int] = set()

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
        read, crc32 = shard.tar.read, zlib.crc32
        found: dict[int, memoryview] = {}
        at = 0
        while at < len(rows):
            start, size, _, _ = rows[at]
            stop, end = at + 1, start + size
            while stop < len(rows) and rows[stop][0] == end:
                end += rows[stop][1]
                stop += 1
            data = memoryview(read(base + start, end - start))
            for k in range(at, stop):
                offset, size, crc, _ = rows[k]
                view = data[offset - start : offset - start + size]
                if crc32(view) != crc:
                    raise self.damaged(number, place, f"frame {numbers[k]} does not agree with its checksum")
                found[numbers[k]] = view
            at = stop
        return found

    def payload(self, i: int) -> memoryview:
        """The whole payload of a sample in a column without frames, verified. Errors as `read`."""
        return self.read(i, [0])[0]

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
        """Contents of KEY.json."""
        record = self.samples[i]
        shard = self._shard(int(record["shard"]))
        member = shard.index.members[int(record["place"])]
        size = int(member["info_size"])
        data = shard.tar.read(int(member["info_offset"]), size)
        if len(data) != size:
            raise self.damaged(int(record["shard"]), int(record["place"]), "its description is cut short")
        return data

    def damaged(self, shard: int, place: int | None, what: str) -> DataError:
        """The error for bytes that are not what they should be."""
        name = f"{self._storage.url}/{stem(self._folder, shard)}"
        sample = ""
        if place is not None:
            sample = f", sample {self._shard(shard).index.key(place)}"
        return DataError(
            f"{name}.tar{sample}: {what}; vidprep check {self._storage.url} lists all damage; to write the shard "
            f"anew remove {name}.json and {self._again}"
        )

    def _shard(self, number: int) -> OpenShard:
        return self._open.get(number) or self._open_shard(number)

    def _open_shard(self, number: int) -> OpenShard:
        record = self.shards[number]
        try:
            tar = self._storage.open(f"{stem(self._folder, number)}.tar")
            data = self._storage.map(f"{stem(self._folder, number)}.idx")
        except MissingError as error:
            raise self.damaged(number, None, str(error)) from error
        if tar.size != record["tar_size"]:
            raise self.damaged(number, None, f"it has {tar.size} bytes instead of {record['tar_size']}")
        try:
            index = parse_idx(data, f"{stem(self._folder, number)}.idx", verify=number not in self._verified)
        except DataError as error:
            raise self.damaged(number, None, str(error)) from error
        first, count = int(record["first"]), int(record["samples"])
        header = index.header
        same = (header["tar_digest"], header["crc32"]) == (record["tar_digest"], record["idx_crc32"])
        if not same or (
            number not in self._verified and index.samples.tobytes() != self.samples[first : first + count].tobytes()
        ):
            raise self.damaged(number, None, "its .idx is that of another tar, or index.bin of another data set")
        shard = OpenShard(tar, index, frames_at(count))
        self._verified.add(number)
        self._open[number] = shard
        while len(self._open) > _OPEN_SHARDS:
            # Not closed here: another thread may be reading; the last reference closes it.
            self._open.popitem(last=False)
        return shard

    def _outside(self, number: int, place: int, wanted: list[int], count: int, flags: int) -> str:
        key = self._shard(number).index.key(place)
        if flags & FAILED:
            return f"sample {key} failed in column {self.name}: it holds nothing there"
        wrong = wanted[0] if wanted[0] < 0 else wanted[-1]
        return f"frame {wrong} of sample {key} does not exist; it has frames 0 to {count - 1}"
