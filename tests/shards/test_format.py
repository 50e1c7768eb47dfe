"""docs/format.md, taken literally."""

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import pytest

from shards.dataset import open_dataset
from tests.tiny import SIZE

DOC = Path(__file__).parents[2] / "docs/format.md"


def digest64(data: bytes) -> int:
    return struct.unpack("<Q", hashlib.blake2b(data, digest_size=8).digest())[0]


@pytest.fixture
def dest(tiny_dataset):
    return tiny_dataset(samples=7, frames=(5, 9), per_shard=3)


def test_index_bin(dest):
    data = (dest / "rgb/index.bin").read_bytes()
    magic, version, record_size, n, s, crc, frames, keys = struct.unpack_from("<8sIIQIIQQ", data)
    assert (magic, version, record_size, n, s) == (b"VPINDEX\0", 1, 64, 7, 3)
    assert crc == zlib.crc32(data[64:]) and len(data) == 64 + 64 * (n + s)
    hashes = b""
    for i in range(n):
        shard, place, offset, size, count, flags, fps, height, width, key_size, table, key_hash = struct.unpack_from(
            "<IIQQIIdHHIQQ", data, 64 + 64 * i
        )
        tar = (dest / f"rgb/{shard:06d}.tar").read_bytes()
        idx = (dest / f"rgb/{shard:06d}.idx").read_bytes()
        assert (shard, place, count, flags, fps) == (i // 3, i % 3, 5 + 4 * (i % 2), 0, 25.0)
        assert (height, width) == SIZE
        assert key_hash == digest64(f"video_{i:03d}".encode()) and key_size == 9
        hashes += struct.pack("<Q", key_hash)
        position = 0
        for j in range(count):
            start, length, frame_crc, time = struct.unpack_from("<QIIq", idx, table + 24 * j)
            image = tar[offset + start : offset + start + length]
            assert start == position and zlib.crc32(image) == frame_crc and time == 40_000 * j
            assert image.startswith(b"\xff\xd8") and image.endswith(b"\xff\xd9")
            position += length
        assert position == size
        frames -= count
    assert frames == 0 and keys == digest64(hashes)
    for number in range(s):
        tar_size, idx_size, first, samples, idx_crc, tar_digest, _ = struct.unpack_from(
            "<QQQII16sQ", data, 64 + 64 * n + 64 * number
        )
        tar = (dest / f"rgb/{number:06d}.tar").read_bytes()
        idx = (dest / f"rgb/{number:06d}.idx").read_bytes()
        assert (tar_size, idx_size, first) == (len(tar), len(idx), 3 * number)
        assert samples == min(3, 7 - first) and tar_digest == hashlib.sha256(tar).digest()[:16]
        assert idx_crc == zlib.crc32(idx[64:])


def test_idx(dest):
    for number in range(3):
        data = (dest / f"rgb/{number:06d}.idx").read_bytes()
        tar = (dest / f"rgb/{number:06d}.tar").read_bytes()
        index = (dest / "rgb/index.bin").read_bytes()
        magic, version, n, f, k, tar_size, crc, shard, tar_digest = struct.unpack_from("<8sIIQQQII16s", data)
        assert (magic, version, tar_size, shard) == (b"VPSHARD\0", 1, len(tar), number)
        assert crc == zlib.crc32(data[64:]) and tar_digest == hashlib.sha256(tar).digest()[:16]
        assert len(data) == 64 + 88 * n + 24 * f + k
        assert data[64 : 64 + 64 * n] == index[64 + 64 * 3 * number :][: 64 * n]
        keys = data[64 + 88 * n + 24 * f :]
        for place in range(n):
            at, size, key_at, key_size = struct.unpack_from("<QIII", data, 64 + 64 * n + 24 * place)
            key = keys[key_at : key_at + key_size].decode()
            assert key == f"video_{3 * number + place:03d}"
            assert json.loads(tar[at : at + size])["key"] == key


def test_sample_table(dest):
    data, text = (dest / "samples.bin").read_bytes(), (dest / "samples.jsonl").read_bytes()
    meta = json.loads((dest / "dataset.json").read_text())
    magic, version, record_size, n, groups, crc, size, text_crc, _, keys = struct.unpack_from("<8sIIQIIQI4sQ", data)
    assert (magic, version, record_size, n, groups) == (b"VPSAMPL\0", 1, 32, 7, 4)
    assert crc == zlib.crc32(data[64:]) and (size, text_crc) == (len(text), zlib.crc32(text))
    assert keys == struct.unpack_from("<Q", (dest / "rgb/index.bin").read_bytes(), 40)[0]
    for i in range(n):
        label, group, splits, line, line_size = struct.unpack_from("<iIQQI", data, 64 + 32 * i)
        row = json.loads(text[line : line + line_size])
        assert row["key"] == f"video_{i:03d}" and row["label"] == meta["classes"][label] and group == i // 2
        assert row["splits"] == [name for bit, name in enumerate(meta["splits"]) if splits >> bit & 1]


@pytest.mark.filterwarnings("ignore")
def test_the_example_of_the_documentation(tiny_dataset, capsys):
    pytest.importorskip("webdataset")
    (example,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)
    dest = tiny_dataset(samples=8, per_shard=4, frames=(3, 6))
    assert '"DEST/rgb/{000000..000001}.tar"' in example
    scope: dict = {}
    exec(example.replace("DEST", str(dest)), scope)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"video_{i:03d} {3 + 3 * (i % 2)} (24, 32, 3)" for i in range(8)]
    expected = open_dataset(dest).frames(7, range(6))
    assert all((a == b).all() for a, b in zip(scope["frames"], expected, strict=True))
