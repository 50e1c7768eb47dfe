"""Tars of other tools in a bucket are indexed and read there, and frames exported to one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.check import check
from shards.dataset import open_dataset
from shards.spec import ClipSpec
from shards.storage import open_storage
from tests.vidprep.foreign.tars import video_samples, write_tar
from trainer.data.loader import Loader
from vidprep.export.exporting import export
from vidprep.foreign.indexing import index_shards


def test_tars_in_a_bucket(s3: str, tmp_path: Path) -> None:
    for shard in range(2):
        path = write_tar(tmp_path / f"t/{shard:03d}.tar", video_samples(tmp_path, range(2 * shard, 2 * shard + 2)))
        open_storage(f"{s3}/tars").put(path.name, path.read_bytes())
    index_shards([tmp_path / "t"], tmp_path / "here", workers=1)
    index_shards([f"{s3}/tars/*.tar"], workers=1)
    index_shards([f"{s3}/tars/{{000..001}}.tar"], tmp_path / "apart", workers=1)
    spec = ClipSpec(frames=4, strides=(3,), crop=32)
    batches = []
    for url in (tmp_path / "here", f"{s3}/tars", tmp_path / "apart"):
        with Loader(url, spec, batch=4, workers=1) as loader:
            batches.append([batch.clips.numpy().copy() for batch in loader.batches(0, 2)])
    assert np.array_equal(batches[0], batches[1]) and np.array_equal(batches[0], batches[2])
    assert list(check(f"{s3}/tars")) == []
    data = open_dataset(f"{s3}/tars")
    data.frames(1, [0])  # opens the shard
    before, size = data.storage.stats.bytes, int(data.records[1]["size"])
    data.frames(1, [16, 17])  # five packets, from the key frame at 15
    assert 0 < data.storage.stats.bytes - before < size / 2
    export(f"{s3}/tars", f"{s3}/frames", "webdataset-frames")
    assert open_storage(f"{s3}/frames").list("") == ["000000.tar", "000001.tar", "export.json"]
