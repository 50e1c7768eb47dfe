"""Duplicates are found whatever was done to them, and like scenes are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from cli.main import run
from shards import jpeg
from shards.dataset import open_dataset
from shards.errors import DataError, UserError
from shards.finalize import finalize
from shards.ops.dedupe import DedupeReport, dedupe
from shards.ops.operations import subset
from shards.ops.pictures import FrameHashes
from shards.ops.suspects import find_suspects
from shards.plan import Entry, write_plan
from shards.storage import open_storage
from shards.tarwriter import ShardWriter
from tests.shards.test_dataset import flip, frame_offset

Video = npt.NDArray[np.uint8]


def scene(background: int, actor: int, frames: int = 50, *, speed: float = 1.0) -> Video:
    """(T,96,128,3): two blobs move over a fixed background; the same background with other actors is another video."""
    rng = np.random.default_rng(background)
    still = cv2.resize(rng.integers(30, 220, (8, 10, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(1000 + actor)
    place, course, colour = rng.uniform(20, 70, (2, 2)), rng.uniform(-3, 3, (2, 2)), rng.integers(0, 255, (2, 3))
    turn = rng.uniform(0.15, 0.5, 2)
    out = np.empty((frames, 96, 128, 3), np.uint8)
    for t in range(frames):
        image = still.copy()
        for k in range(2):
            x, y = place[k] + course[k] * t * speed * 0.4 + 14 * np.sin(turn[k] * t * speed + np.array([0, 1.5]))
            cv2.circle(image, (int(x) % 128, int(y) % 96), 14, colour[k].tolist(), -1)
        out[t] = image
    return out


def write(dest: Path, videos: Mapping[str, tuple[Video, float, str]], *, quality: int = 90) -> Path:
    """A data set; key → frames, frames a second, split."""
    storage = open_storage(dest)
    options = {"name": "x", "classes": [], "size": {"short_side": 96}, "fps": None, "quality": quality}
    options |= {"segment_frames": None, "shard_size": 1, "estimate": None}
    write_plan(
        storage,
        options,
        (Entry(shard=i // 4, video={"key": key, "splits": [s]}) for i, (key, (*_, s)) in enumerate(videos.items())),
    )
    for shard in range(-(-len(videos) // 4)):
        with ShardWriter(storage, shard) as writer:
            for key, (frames, fps, _) in list(videos.items())[4 * shard : 4 * shard + 4]:
                data = [jpeg.encode(image, quality=quality) for image in frames]
                writer.add(key, {}, data, fps=fps, size=frames.shape[1:3])
            writer.finish()
    finalize(dest)
    return dest


CHANGES: dict[str, Callable[[Video], tuple[Video, float]]] = {
    "same": lambda video: (video, 25.0),
    "smaller": lambda video: (np.stack([cv2.resize(f, (80, 60), interpolation=cv2.INTER_AREA) for f in video]), 25.0),
    "darker": lambda video: ((video * 0.7 + 10).astype(np.uint8), 25.0),
    "trimmed": lambda video: (video[13:41], 25.0),
    "slower": lambda video: (video[np.round(np.arange(0, len(video) - 1, 25 / 15)).astype(int)], 15.0),
    "noisy": lambda video: (
        np.clip(video + np.random.default_rng(0).normal(0, 8, video.shape), 0, 255).astype(np.uint8),
        25.0,
    ),
}


@pytest.fixture(scope="module")
def dest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test videos of 12 actors before 2 backgrounds, and changed copies of six in train; t0 is no copy of anything."""
    videos = {f"v{i:02d}": (scene(i % 2, i), 25.0, "test") for i in range(12)}
    videos["t0"] = (scene(0, 50), 25.0, "train")
    for i, (name, change) in enumerate(CHANGES.items()):
        videos[f"d{i:02d}_{name}"] = (*change(scene(i % 2, i)), "train")
    videos["black"] = (np.zeros((30, 96, 128, 3), np.uint8), 25.0, "test")
    return write(tmp_path_factory.mktemp("dedupe") / "data", videos)


def found(report: DedupeReport) -> set[tuple[str, str]]:
    return {(pair.drop, pair.keep) for pair in report.pairs}


def test_copies_are_found_across_splits_and_nothing_else(dest: Path) -> None:
    report = dedupe(dest, splits=("train", "test"))
    assert found(report) == {(f"d{i:02d}_{name}", f"v{i:02d}") for i, name in enumerate(CHANGES)}
    by_name = {pair.drop[4:]: pair for pair in report.pairs}
    assert by_name["same"].exact and by_name["same"].score == 1 and not by_name["smaller"].exact
    assert by_name["trimmed"].offset == pytest.approx(-13 / 25, abs=0.05)
    assert by_name["trimmed"].overlap == pytest.approx(27 / 25, abs=0.1)
    assert abs(by_name["slower"].offset) < 0.07
    assert min(pair.score for pair in report.pairs) > 0.85
    assert report.drop == tuple(f"d{i:02d}_{name}" for i, name in enumerate(CHANGES))
    assert len(report.keep) == 14 and (report.samples, report.flat) == (20, 1)


def test_the_other_way_round_and_without_splits(dest: Path) -> None:
    there = dedupe(dest, splits=("test", "train"))
    assert found(there) == {(f"v{i:02d}", f"d{i:02d}_{name}") for i, name in enumerate(CHANGES)}
    assert next(p for p in there.pairs if p.drop == "v03").offset == pytest.approx(13 / 25, abs=0.05)
    assert found(dedupe(dest)) == found(dedupe(dest, splits=("train", "test")))


def test_workers_change_nothing(dest: Path) -> None:
    assert dedupe(dest, workers=2) == dedupe(dest)


def test_exact_copies_only(dest: Path) -> None:
    report = dedupe(dest, threshold=1.01)
    assert found(report) == {("d00_same", "v00")} and report.compared == 0


def test_against_another_data_set(dest: Path, tmp_path: Path) -> None:
    other = write(
        tmp_path / "other", {"x": (scene(0, 50, speed=1.0)[5:], 25.0, "train"), "y": (scene(1, 77), 25.0, "train")}
    )
    report = dedupe(dest, against=other)
    assert found(report) == {("t0", "x")}
    assert report.pairs[0].keep_in == str(other) and report.drop == ("t0",) and len(report.keep) == 19


def test_of_many_copies_one_stays(tmp_path: Path) -> None:
    a, b = scene(3, 3), scene(3, 4)
    videos = {f"a{i}": (a, 25.0, "x") for i in range(3)} | {"b": (b, 25.0, "x")}
    videos |= {"a3": ((a * 0.8).astype(np.uint8), 25.0, "x"), "a4": (a[10:], 25.0, "y"), "a5": (a, 25.0, "y")}
    dest = write(tmp_path / "many", videos)
    report = dedupe(dest)
    assert (report.drop, report.keep) == (("a1", "a2", "a3", "a4", "a5"), ("a0", "b"))
    across = dedupe(dest, splits=("y", "x"))
    assert (across.drop, across.keep) == (("a4", "a5"), ("a0", "a1", "a2", "b", "a3"))
    assert dedupe(dest, splits=("x", "y")).drop == ("a0", "a1", "a2", "a3")


def test_segments_of_one_video_are_no_duplicates(tmp_path: Path) -> None:
    dest = tmp_path / "segments"
    storage = open_storage(dest)
    options = {"name": "x", "classes": [], "size": {}, "fps": None, "quality": 90, "segment_frames": 30}
    write_plan(storage, options, [Entry(shard=0, video={"key": "x"}), Entry(shard=0, video={"key": "y"})])
    with ShardWriter(storage, 0) as writer:
        for key, n in (("x", 0), ("x", 1), ("y", 0)):
            data = [jpeg.encode(f) for f in scene(0, 0)[5 * n : 30 + 5 * n]]
            writer.add(f"{key}_s{n:03d}", {"video": key}, data, fps=25, size=(96, 128))
        writer.finish()
    finalize(dest)
    assert found(dedupe(dest)) == {("y_s000", "x_s000")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ("train",)}, "give two or more"),
        ({"splits": ("train", "train")}, "give two or more"),
        ({"splits": ("train", "val")}, "no split 'val'"),
        ({"threshold": 0.3}, "threshold is 0.3"),
        ({"least_share": 0.0}, "least_share is 0"),
        ({"column": "flow"}, "no column 'flow'"),
    ],
)
def test_wrong_options(dest: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dedupe(dest, **options)


def test_damage_is_an_error(tmp_path: Path) -> None:
    dest = write(tmp_path / "data", {"a": (scene(0, 0, 9), 25.0, "x"), "b": (scene(0, 1, 9), 25.0, "x")})
    flip(dest / "rgb/000000.tar", frame_offset(dest, 1, 0))
    with pytest.raises(DataError, match="sample b: frame 0"):
        dedupe(dest)


def test_on_the_command_line(dest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, drop, keep = tmp_path / "report.json", tmp_path / "drop.txt", tmp_path / "keep.txt"
    command = ["dedupe", str(dest), "--splits", "train,test", "-o", str(report), "--drop-list", str(drop)]
    assert run([*command, "--keep-list", str(keep)]) == 0
    shown = capsys.readouterr()
    assert "1 exact and 5 near duplicates; 6 to drop" in shown.out and "1 samples have no frame" in shown.err
    tree = json.loads(report.read_text())
    assert tree["threshold"] == 0.8 and len(tree["pairs"]) == 6 and tree["drop"] == drop.read_text().split()
    subset(dest, tmp_path / "clean", drop=drop)
    assert dedupe(tmp_path / "clean").pairs == ()
    assert open_dataset(dest).select(keep=keep).tolist() == [*range(13), 19]


def test_suspects_of_many_videos_with_the_same_frame() -> None:
    """A shared title frame must not hide what else is alike, nor compare everything with everything."""
    rng = np.random.default_rng(0)
    title = rng.integers(0, 2**63, (1, 2), np.uint64)
    bodies = rng.integers(0, 2**63, (600, 8, 2), np.uint64)
    bodies[1::2] = bodies[::2] ^ (np.uint64(1) << np.uint64(5))  # neighbours are copies, but for two bits
    times = np.arange(9, dtype=np.float32) / 4
    videos = [FrameHashes(np.concatenate([title, body]), times) for body in bodies]
    suspects = find_suspects(videos, np.zeros(600, np.int64), np.arange(600), across=False)
    pairs = set(zip(suspects.first.tolist(), suspects.second.tolist(), strict=True))
    assert {(i, i + 1) for i in range(0, 600, 2)} <= pairs
    assert len(pairs) < 600 * 128 and suspects.capped == 0


def test_too_many_videos_that_look_the_same_are_counted() -> None:
    videos = [FrameHashes(np.full((3, 2), 7, np.uint64), np.arange(3, dtype=np.float32))] * 200
    assert find_suspects(videos, np.zeros(200, np.int64), np.arange(200), across=False).capped == 200
