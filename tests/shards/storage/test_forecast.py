"""The forecast of a run on object storage against a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shards.dataset import Dataset, open_dataset
from shards.spec import ClipSpec
from shards.storage import open_storage
from tests.tiny import build_dataset
from trainer.data.forecast import forecast
from trainer.data.loader import Loader
from trainer.data.shard_use import Cluster

SPEC = ClipSpec(frames=4, strides=(1, 5), crop=16)


@pytest.fixture
def remote(s3: str, tmp_path: Path) -> str:
    """14 samples of 24 frames in 4 shards, in a bucket."""
    local, storage = build_dataset(tmp_path / "local", samples=14, frames=24), open_storage(s3)
    for path in sorted(local.rglob("*")):
        if path.is_file():
            storage.put(str(path.relative_to(local)), path.read_bytes())
    return s3


@pytest.mark.parametrize("gap", [0, 5000])
def test_ranged_reads_are_those_of_a_run(remote: str, monkeypatch: pytest.MonkeyPatch, gap: int) -> None:
    monkeypatch.setenv("VIDPREP_STORAGE", f"gap={gap}")
    loader = Loader(remote, SPEC, batch=4, seed=1, repeats=2, clips_per_read=2, workers=0, threads=1)
    assert isinstance(loader.dataset, Dataset)
    for i in range(14):
        loader.dataset.jpegs(i, [0])  # whatever has to be read to open a shard is read
    stats = loader.dataset.storage.stats
    before = replace(stats)
    for _ in loader.batches(0, 6):
        pass
    found = forecast(open_dataset(remote), SPEC, Cluster(), batch=4, steps=6, seed=1, repeats=2, clips_per_read=2)
    assert (stats.reads - before.reads, stats.bytes - before.bytes) == (found.reads, found.bytes)
    assert (found.reads > 12) == (gap == 0) and found.cached is None


def test_the_storages_cache_is_that_of_the_forecast(
    remote: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDPREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIDPREP_CACHE_SIZE", "1GB")
    found = forecast(open_dataset(remote), SPEC, Cluster(), batch=7, epochs=2)
    assert found.cached is not None and found.cached.size == 10**9 and found.cached.fits == 4
    assert (found.cached.misses, found.cached.bytes) == (4, found.tar_bytes)
    loader = Loader(remote, SPEC, batch=7, workers=0, threads=1)
    for _ in loader.batches(0, 4):
        pass
    tars = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    assert sum(path.stat().st_size for path in tars) == found.cached.bytes
