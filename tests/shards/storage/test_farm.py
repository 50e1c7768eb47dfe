"""A data set in a bucket, made in parts by processes that share nothing else; retried and added to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shards.check import check
from shards.dataset import open_dataset
from shards.storage import open_storage
from tests.vidprep.clips import noise_frames, write_clip
from tests.vidprep.farm.sets import FLOW, said, vidprep, write_set
from vidprep.farm.append import append, retry
from vidprep.farm.beats import Leases, read_beats
from vidprep.farm.engines import Local, complete
from vidprep.farm.finish import finish_all
from vidprep.farm.status import Watch
from vidprep.farm.work import Job
from vidprep.planning import plan
from vidprep.runs import ignore

OPTIONS: dict[str, Any] = {"short_side": 16, "shard_size": 5_000, "max_bad": 0.5, "name": "set", "workers": 1}


def test_two_processes_and_what_is_added(s3: str, tmp_path: Path) -> None:
    dest = f"{s3}/set"
    planned = plan(write_set(tmp_path / "videos", (5, 8, 6)), dest, columns=("rgb", "flow"), flow=FLOW, **OPTIONS)
    assert planned.shards >= 2
    both = [vidprep("run", dest, "--shard", f"{i}/2", "--workers", 1) for i in (1, 0)]
    for process in both:
        said(process)
    assert finish_all(dest, max_bad=None, tell=ignore) == ("flow",)
    assert Watch(dest).status().next == f"vidprep run {dest} --column flow"
    write_clip(tmp_path / "videos/bad.mp4", noise_frames(7, seed=9))
    assert retry(dest, workers=1).videos == 1
    assert append(write_set(tmp_path / "more", (4,), bad=False, first=3), dest, workers=1).videos == 1
    complete(Job(url=dest, workers=1), Local(), ignore)
    data = open_dataset(dest, columns=("rgb", "flow"))
    assert sorted(data.key(i) for i in range(5)) == ["broken", "k0", "k1", "k2", "k3"]
    assert Watch(dest).status().finished and list(check(dest)) == []
    assert open_storage(dest).list(".run") == []


def test_leases(place: str) -> None:
    storage = open_storage(place)
    with Leases(storage, "rgb") as first, Leases(storage, "rgb") as second:
        assert first.take(0, 1) and not second.take(0, 1)
        assert [beat.shard for beat in read_beats(storage)] == [0]
        first.release(0)
        assert second.take(0, 1)
    assert list(read_beats(storage)) == []
