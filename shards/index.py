"""The binary indexes: `<column>/index.bin` over all samples and `<column>/NNNNNN.idx` beside every tar.

docs/format.md gives every offset. All numbers are little endian, all records are numpy structures that can be used in
mapped memory as they are.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import DataError

VERSION = 1
FAILED = 1  # flag: the sample failed in this column; its payload is a member of zero bytes

HEADER_SIZE = 64
INDEX_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("record_size", "<u4"),
        ("samples", "<u8"),
        ("shards", "<u4"),
        ("crc32", "<u4"),  # of everything after the header
        ("frames", "<u8"),
        ("keys_digest", "<u8"),
        ("reserved", "V16"),
    ]
)
SAMPLE = np.dtype(
    [
        ("shard", "<u4"),
        ("place", "<u4"),  # number of the sample within its shard
        ("offset", "<u8"),  # of the payload in the tar
        ("size", "<u8"),  # of the payload
        ("frames", "<u4"),
        ("flags", "<u4"),
        ("fps", "<f8"),
        ("height", "<u2"),
        ("width", "<u2"),
        ("key_size", "<u4"),
        ("table", "<u8"),  # offset of the sample's first frame record in the .idx file
        ("key_hash", "<u8"),
    ]
)
SHARD = np.dtype(
    [
        ("tar_size", "<u8"),
        ("idx_size", "<u8"),
        ("first", "<u8"),  # number of the shard's first sample in the data set
        ("samples", "<u4"),
        ("idx_crc32", "<u4"),  # the crc32 field of the .idx header
        ("tar_digest", "V16"),
        ("frames", "<u8"),
        ("reserved", "V8"),
    ]
)
IDX_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("samples", "<u4"),
        ("frames", "<u8"),
        ("keys_size", "<u8"),
        ("tar_size", "<u8"),
        ("crc32", "<u4"),  # of everything after the header
        ("shard", "<u4"),
        ("tar_digest", "V16"),  # first 16 bytes of the tar's SHA-256
    ]
)
MEMBER = np.dtype(
    [
        ("info_offset", "<u8"),  # of the contents of KEY.json in the tar
        ("info_size", "<u4"),
        ("key_offset", "<u4"),  # in the key blob
        ("key_size", "<u4"),
        ("reserved", "V4"),
    ]
)
FRAME = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("time_us", "<i8")])

_INDEX_MAGIC, _IDX_MAGIC = b"VPINDEX\0", b"VPSHARD\0"

Records = npt.NDArray[np.void]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShardIndex:
    """A parsed .idx: `samples` (n,) SAMPLE, `members` (n,) MEMBER, `frames` (f,) FRAME, `keys` uint8."""

    header: Any
    samples: Records
    members: Records
    frames: Records
    keys: Bytes

    def key(self, place: int) -> str:
        member = self.members[place]
        start = int(member["key_offset"])
        return self.keys[start : start + int(member["key_size"])].tobytes().decode()

    def all_keys(self) -> list[str]:
        blob = self.keys.tobytes()
        spans = zip(self.members["key_offset"].tolist(), self.members["key_size"].tolist(), strict=True)
        return [blob[start : start + size].decode() for start, size in spans]

    def first_frame(self, place: int) -> int:
        """Row of the sample's first frame in `frames`."""
        return (int(self.samples[place]["table"]) - frames_at(len(self.samples))) // FRAME.itemsize


@dataclass(frozen=True)
class ColumnIndex:
    """A parsed index.bin: `samples` (N,) SAMPLE in the order of the data set, `shards` (S,) SHARD."""

    header: Any
    samples: Records
    shards: Records


def frames_at(samples: int) -> int:
    """Offset of the frame records in an .idx of `samples` samples."""
    return HEADER_SIZE + samples * (SAMPLE.itemsize + MEMBER.itemsize)


def keys_digest(hashes: npt.NDArray[np.uint64]) -> int:
    """One number for the keys of a data set in their order: the first 8 bytes of BLAKE2b of all key hashes."""
    data = np.ascontiguousarray(hashes, dtype="<u8")
    return int.from_bytes(hashlib.blake2b(data.data, digest_size=8).digest(), "little")


def column_digest(index: ColumnIndex) -> str:
    """16 hex digits for what a column holds: BLAKE2b of the digests of its tars in order."""
    return combined_digest(digest.tobytes() for digest in index.shards["tar_digest"])


def combined_digest(digests: Iterable[bytes]) -> str:
    """16 hex digits for digests of shards in order."""
    return hashlib.blake2b(b"".join(digests), digest_size=8).hexdigest()


def build_idx(
    *, shard: int, samples: Records, frames: Records, members: Records, keys: bytes, tar_size: int, tar_sha256: str
) -> bytes:
    """Contents of an .idx file. `samples["table"]` is given as frame rows and becomes file offsets."""
    samples = samples.copy()
    samples["table"] = frames_at(len(samples)) + samples["table"] * FRAME.itemsize
    body = samples.tobytes() + members.tobytes() + frames.tobytes() + keys
    header = np.zeros((), IDX_HEADER)
    values = {
        "magic": _IDX_MAGIC,
        "version": VERSION,
        "samples": len(samples),
        "frames": len(frames),
        "keys_size": len(keys),
        "tar_size": tar_size,
        "crc32": zlib.crc32(body),
        "shard": shard,
        "tar_digest": np.void(bytes.fromhex(tar_sha256)[:16]),
    }
    for name, value in values.items():
        header[name] = value
    return header.tobytes() + body


def parse_idx(data: Bytes, where: str, *, verify: bool = True) -> ShardIndex:
    """Views into the bytes of an .idx file.

    Raises:
        DataError: wrong magic, newer version, wrong length, or (with `verify`) wrong checksum.
    """
    header = _header(data, IDX_HEADER, _IDX_MAGIC, where)
    n, f, k = int(header["samples"]), int(header["frames"]), int(header["keys_size"])
    start = frames_at(n)
    if data.size != start + f * FRAME.itemsize + k:
        raise DataError(f"{where} has {data.size} bytes where its header announces {start + f * FRAME.itemsize + k}")
    if verify and zlib.crc32(data[HEADER_SIZE:].data) != header["crc32"]:
        raise DataError(f"{where} does not agree with its own checksum")
    split = HEADER_SIZE + n * SAMPLE.itemsize
    return ShardIndex(
        header=header,
        samples=data[HEADER_SIZE:split].view(SAMPLE),
        members=data[split:start].view(MEMBER),
        frames=data[start : start + f * FRAME.itemsize].view(FRAME),
        keys=data[start + f * FRAME.itemsize :],
    )


def build_index(samples: Records, shards: Records) -> bytes:
    """Contents of an index.bin."""
    body = samples.tobytes() + shards.tobytes()
    header = np.zeros((), INDEX_HEADER)
    values = {
        "magic": _INDEX_MAGIC,
        "version": VERSION,
        "record_size": SAMPLE.itemsize,
        "samples": len(samples),
        "shards": len(shards),
        "crc32": zlib.crc32(body),
        "frames": int(samples["frames"].sum(dtype=np.uint64)),
        "keys_digest": keys_digest(samples["key_hash"]),
    }
    for name, value in values.items():
        header[name] = value
    return header.tobytes() + body


def parse_index(data: Bytes, where: str, *, verify: bool = False) -> ColumnIndex:
    """Views into the bytes of an index.bin. Raises as `parse_idx`; the checksum is off by default, for it reads
    all of a large file; every shard's part is compared with its .idx when the shard is opened."""
    header = _header(data, INDEX_HEADER, _INDEX_MAGIC, where)
    n, s = int(header["samples"]), int(header["shards"])
    split = HEADER_SIZE + n * SAMPLE.itemsize
    if header["record_size"] != SAMPLE.itemsize or data.size != split + s * SHARD.itemsize:
        raise DataError(f"{where} has {data.size} bytes where its header announces {split + s * SHARD.itemsize}")
    if verify and zlib.crc32(data[HEADER_SIZE:].data) != header["crc32"]:
        raise DataError(f"{where} does not agree with its own checksum")
    return ColumnIndex(header=header, samples=data[HEADER_SIZE:split].view(SAMPLE), shards=data[split:].view(SHARD))


def _header(data: Bytes, dtype: np.dtype[Any], magic: bytes, where: str) -> Any:
    if data.size < HEADER_SIZE or data[:8].tobytes() != magic:
        raise DataError(f"{where} is not an index ({data.size} bytes); it does not begin with {magic!r}")
    header = data[:HEADER_SIZE].view(dtype)[0]
    if header["version"] > VERSION:
        raise DataError(
            f"{where} has format version {header['version']}; this vidprep reads up to {VERSION}: "
            "pip install -U vidprep"
        )
    return header
