"""A data set of very many samples whose bytes are few: all samples of a shard show the same frames."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np

from shards import jpeg
from shards.index import FRAME, HEADER_SIZE, MEMBER, SAMPLE, SHARD, build_idx, build_index
from shards.keys import key_hash
from shards.meta import ColumnMeta, Meta, write_meta
from shards.samples import SampleRow, write_samples
from shards.storage import open_storage

FRAMES, SIZE = 32, (24, 32)


def write_wide(dest: Path, *, samples: int, per_shard: int = 500, classes: int = 400) -> Path:
    """A data set of `samples` samples of 32 frames, 24x32, in the order of their classes.

    Every shard's tar is a link to one file with one payload, which all its samples point to; indexes and sample table
    have their full size.
    """
    storage = open_storage(dest)
    rng = np.random.default_rng(0)
    pictures = [jpeg.encode(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)) for _ in range(FRAMES)]
    payload = b"".join(pictures)
    (dest / "rgb").mkdir(parents=True)
    first = dest / "rgb" / "000000.tar"
    first.write_bytes(payload)
    digest = hashlib.sha256(payload).hexdigest()
    names = tuple(f"class{c:03d}" for c in range(classes))
    keys = [f"{names[i * classes // samples]}--video_{i:07d}" for i in range(samples)]
    records = np.zeros(samples, SAMPLE)
    records["shard"], records["place"] = np.divmod(np.arange(samples), per_shard)
    records["size"], records["frames"], records["fps"] = len(payload), FRAMES, 25
    records["height"], records["width"] = SIZE
    records["key_size"] = [len(key) for key in keys]
    records["key_hash"] = [key_hash(key) for key in keys]
    sizes = np.array([len(picture) for picture in pictures])
    frames = np.zeros(FRAMES, FRAME)
    frames["offset"], frames["size"] = np.cumsum(sizes) - sizes, sizes
    frames["crc32"] = [zlib.crc32(picture) for picture in pictures]
    frames["time_us"] = np.arange(FRAMES) * 40_000
    shards = np.zeros(-(-samples // per_shard), SHARD)
    for number, shard in enumerate(shards):
        part = slice(number * per_shard, min(samples, (number + 1) * per_shard))
        mine = records[part].copy()  # whose frames begin at row 0, all of them
        members = np.zeros(len(mine), MEMBER)
        members["key_size"] = mine["key_size"]
        members["key_offset"] = np.cumsum(mine["key_size"]) - mine["key_size"]
        data = build_idx(
            shard=number,
            samples=mine,
            frames=frames,
            members=members,
            keys="".join(keys[part]).encode(),
            tar_size=len(payload),
            tar_sha256=digest,
        )
        storage.put(f"rgb/{number:06d}.idx", data)
        records[part] = np.frombuffer(data, SAMPLE, len(mine), HEADER_SIZE)
        if number:
            (dest / "rgb" / f"{number:06d}.tar").hardlink_to(first)
        shard["tar_size"], shard["idx_size"] = len(payload), len(data)
        shard["first"], shard["samples"], shard["frames"] = part.start, len(mine), FRAMES
        shard["idx_crc32"] = int.from_bytes(data[40:44], "little")
        shard["tar_digest"] = np.void(bytes.fromhex(digest)[:16])
    storage.put("rgb/index.bin", build_index(records, shards))
    rows = (SampleRow(key=key, label=key[:8], splits=("train",)) for key in keys)
    stem = write_samples(storage, rows, classes=names, splits=("train",), stem="samples")
    column = ColumnMeta(kind="rgb", folder="rgb", producer="benchmarks._index")
    size = {"height": SIZE[0], "width": SIZE[1]}
    meta = Meta(
        name="wide",
        columns={"rgb": column},
        size=size,
        classes=names,
        splits=("train",),
        samples=samples,
        shards=len(shards),
        samples_stem=stem,
    )
    write_meta(storage, meta)
    return dest
