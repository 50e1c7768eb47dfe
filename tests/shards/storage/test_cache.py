"""The cache of whole shards: shared, limited, and whole whatever happens to the processes that use it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import open_dataset
from shards.errors import StorageError, UserError
from shards.storage import Storage, open_storage
from tests.shards.storage.fork_targets import content
from tests.tiny import build_dataset

MEGABYTE = 1 << 20
NAMES = [f"rgb/{number:06d}.tar" for number in range(6)]


@pytest.fixture
def shards(s3: str) -> str:
    """The address of a folder with six objects of a megabyte."""
    storage = open_storage(s3)
    for name in NAMES:
        storage.put(name, content(name))
    return s3


def _open(url: str, folder: Path, megabytes: float) -> Storage:
    return open_storage(url, {"cache": folder, "cache_size": int(megabytes * MEGABYTE)})


def _used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _reader(url: str, folder: Path, megabytes: float, rounds: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.shards.storage.fork_targets", url, str(rounds), *NAMES]
    cache = {"VIDPREP_CACHE": str(folder), "VIDPREP_CACHE_SIZE": f"{megabytes * MEGABYTE:.0f}"}
    return subprocess.Popen(command, env={**os.environ, **cache, "PYTHONWARNINGS": "ignore"}, stderr=subprocess.PIPE)


def test_an_object_is_fetched_once(shards: str, tmp_path: Path) -> None:
    first, second = (_open(shards, tmp_path / "cache", 10) for _ in range(2))
    for storage in (first, second):
        for name in NAMES:
            reader = storage.open(name)
            assert reader.size == MEGABYTE
            assert reader.read_many([(5, 7), (100, 3)]) == [content(name)[5:12], content(name)[100:103]]
    assert first.stats.bytes == len(NAMES) * MEGABYTE
    assert second.stats.bytes == 0


def test_the_limit_is_kept_and_what_was_used_longest_ago_goes(shards: str, tmp_path: Path) -> None:
    storage = _open(shards, tmp_path / "cache", 3.5)
    for name in NAMES[:3]:
        storage.open(name).read(0, 1)
        time.sleep(0.02)
    storage.open(NAMES[0])
    before = storage.stats.bytes
    storage.open(NAMES[3])
    assert _used(tmp_path / "cache") <= 3.5 * MEGABYTE
    storage.open(NAMES[0])
    assert storage.stats.bytes == before + MEGABYTE
    storage.open(NAMES[1])
    assert storage.stats.bytes == before + 2 * MEGABYTE


def test_what_was_evicted_is_fetched_again_with_a_word_on_what_fits(shards: str, tmp_path: Path) -> None:
    storage = _open(shards, tmp_path / "cache", 4.5)
    readers = [storage.open(name) for name in NAMES]
    with pytest.warns(UserWarning, match=r"too small .* --set data\.shuffle=blocks:3 fits"):
        assert readers[0].read(0, 64) == content(NAMES[0])[:64]
    with pytest.raises(UserError, match=r"more than the cache in .* may take .* cache_size=2097152"):
        _open(shards, tmp_path / "other", 0.5).open(NAMES[0])


def test_a_replaced_object_is_another_entry(shards: str, tmp_path: Path) -> None:
    storage = _open(shards, tmp_path / "cache", 10)
    storage.open(NAMES[0])
    open_storage(shards).put(NAMES[0], b"new", replace=True)
    assert storage.open(NAMES[0]).read(0, 10) == b"new"


def test_a_damaged_entry_is_fetched_again(shards: str, tmp_path: Path) -> None:
    storage = _open(shards, tmp_path / "cache", 10)
    reader = storage.open(NAMES[0])
    (entry,) = (tmp_path / "cache").glob("*.data")
    entry.write_bytes(bytes(MEGABYTE))
    assert reader.doubt()
    assert reader.read(0, 64) == content(NAMES[0])[:64]


def test_processes_share_a_cache_that_is_too_small(shards: str, tmp_path: Path) -> None:
    running = [_reader(shards, tmp_path / "cache", 3, 5) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
    assert _used(tmp_path / "cache") <= 3 * MEGABYTE


def test_killed_processes_leave_nothing_broken(shards: str, tmp_path: Path) -> None:
    folder, draw = tmp_path / "cache", random.Random(0)
    for _ in range(5):
        process = _reader(shards, folder, 2.5, 1000)
        deadline = time.monotonic() + 20
        while not list(folder.glob("*.*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.1, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = _reader(shards, folder, 2.5, 1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert _used(folder) <= 2.5 * MEGABYTE


def test_a_cache_that_cannot_be_written(shards: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cache in .*file/cache cannot be used: .*--storage cache=DIR"):
        _open(shards, tmp_path / "file" / "cache", 10).open(NAMES[0])


def test_a_data_set_is_read_through_a_cache(s3: str, tmp_path: Path) -> None:
    build_dataset(s3)  # type: ignore[arg-type]
    sizes = sum(open_storage(s3).size(f"rgb/{shard:06d}.tar") for shard in range(3))
    options = {"cache": tmp_path / "cache"}
    dataset, direct = open_dataset(s3, storage_options=options), open_dataset(s3)
    for sample in (0, 5, 9, 1):
        assert np.array_equal(dataset.frames(sample, [3, 8]), direct.frames(sample, [3, 8]))
    assert _used(tmp_path / "cache") == sizes
    assert dataset.storage.stats.bytes < sizes + 20_000
    for entry in (tmp_path / "cache").glob("*.data"):
        entry.write_bytes(bytes(entry.stat().st_size))
    assert np.array_equal(dataset.frames(0, [3, 8]), direct.frames(0, [3, 8]))
