"""Shards of like size, from what the headers of the videos say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.plan import read_plan
from shards.storage import open_storage
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.packing.options import PackOptions
from vidprep.packing.probing import balanced, probe_videos
from vidprep.planning import plan
from vidprep.records import Video, write_manifest
from vidprep.resize import Resize
from vidprep.runs import ignore


def weights_of(bounds: list[tuple[int, int]], weights: np.ndarray) -> list[float]:
    return [float(weights[first:stop].sum()) for first, stop in bounds]


def check_bounds(bounds: list[tuple[int, int]], videos: int, shards: int) -> None:
    assert len(bounds) == shards and bounds[0][0] == 0 and bounds[-1][1] == videos
    assert all(first < stop for first, stop in bounds)
    assert all(a[1] == b[0] for a, b in pairwise(bounds))


@pytest.mark.parametrize("shards", [1, 2, 7, 40])
def test_balanced(shards: int) -> None:
    weights = np.random.default_rng(0).lognormal(0, 1, 1000)
    bounds = balanced(weights, shards)
    check_bounds(bounds, 1000, shards)
    even = weights.sum() / shards
    assert max(abs(weight - even) for weight in weights_of(bounds, weights)) <= 2 * weights.max()


def test_extreme_weights_leave_no_shard_empty() -> None:
    for weights in ([100, 1, 1, 1], [1, 1, 1, 100], [0, 0, 0, 0], [np.nan] * 4, [1, np.nan, 1e9, 1]):
        for shards in range(1, 5):
            check_bounds(balanced(np.array(weights, float), shards), 4, shards)
    assert balanced(np.array([1.0, np.nan, np.nan, 1.0]), 2) == [(0, 2), (2, 4)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    root = tmp_path_factory.mktemp("headers")
    for name, count in (("short", 5), ("long", 50)):
        write_clip(root / f"{name}.mp4", noise_frames(count, seed=count))
    (root / "bad.mp4").write_text("no video")
    return [Video(key=name, path=f"{name}.mp4", root=str(root)) for name in ("short", "long", "bad")]


def options(**changes: Any) -> PackOptions:
    return replace(PackOptions(name="x", resize=Resize(short_side=24)), **changes)


def test_weights_are_the_pixels_to_be_stored(videos: list[Video]) -> None:
    def weights(*its: Video, **changes: Any) -> list[float]:
        found = probe_videos(its, len(its), options(**changes), workers=1, timeout=60, tell=ignore)
        return found.weights.tolist()

    _, long, bad = videos
    found = probe_videos(videos, 3, options(), workers=2, timeout=60, tell=ignore)
    assert found.weights[:2].tolist() == [5 * 24 * 32, 50 * 24 * 32] and np.isnan(found.weights[2])
    assert found.bad == {"not-a-video": 1}
    assert weights(long, fps=5) == [10 * 24 * 32]
    assert weights(replace(long, start=0.4, end=1.2), long) == [20 * 24 * 32, 50 * 24 * 32]
    assert np.isnan(weights(replace(bad, path="none.mp4"))).all()


def test_long_videos_share_shards_with_fewer_others(videos: list[Video], tmp_path: Path) -> None:
    short, long, _ = videos
    lines = [replace(long if i < 10 else short, key=f"v{i}") for i in range(80)]
    write_manifest(tmp_path / "set.jsonl", lines)
    told: list[str] = []
    planned = plan(
        tmp_path / "set.jsonl",
        tmp_path / "set",
        short_side=24,
        workers=1,
        on_event=lambda event: told.append(event["message"]),
    )
    assert any("reading the headers of 80 videos" in text for text in told)
    sizes = [len(lines) for _, lines in read_plan(open_storage(tmp_path / "set")).entries()]
    assert len(sizes) == planned.shards == 8 and max(sizes[:4]) <= 3 and min(sizes[-2:]) >= 12
