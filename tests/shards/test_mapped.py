"""Checksums of mapped files."""

import zlib

import numpy as np
import pytest

from shards import mapped
from shards.storage import open_storage


@pytest.mark.parametrize("size", [0, 1, 4096, 10_000])
@pytest.mark.parametrize("start", [0, 64])
def test_checksums_are_those_of_zlib(tmp_path, monkeypatch, size, start):
    monkeypatch.setattr(mapped, "_CHUNK", 3000)
    content = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes()
    (tmp_path / "file").write_bytes(content)
    data = open_storage(tmp_path).map("file")
    assert mapped.checksum(data, start) == zlib.crc32(content[start:])
    assert mapped.checksum(np.frombuffer(content, np.uint8), start) == zlib.crc32(content[start:])
    assert data.tobytes() == content  # is mapped again where it is looked at
