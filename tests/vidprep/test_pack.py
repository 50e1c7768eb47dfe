"""Packing: what is stored is the videos; whatever happens on the way, the bytes are the same."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shards import jpeg
from shards.check import check
from shards.dataset import open_dataset
from shards.errors import StorageError, UserError
from shards.receipts import Verdict, read_receipts
from shards.storage import open_storage
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.decode import decode
from vidprep.pack import PackReport, estimate_pack, pack
from vidprep.packing.planning import read_whole_manifest
from vidprep.records import Video, read_manifest, write_manifest
from vidprep.resize import Resize

ROOT = Path(__file__).parents[2]
COUNTS = (9, 1, 12, 30, 7, 16, 20, 5, 11, 25, 8)
# Eleven good videos and a bad one into four or more shards.
OPTIONS: dict[str, Any] = {"short_side": 32, "shard_size": 40_000, "max_bad": 0.2, "name": "set", "workers": 1}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small videos, with a manifest beside it."""
    root = tmp_path_factory.mktemp("videos")
    lines = []
    for i, count in enumerate(COUNTS):
        name = f"{'ab'[i % 2]}/clip {i}.{('mp4', 'avi', 'mkv')[i % 3]}"
        times = [40 * k + 7 * (k % 3) for k in range(count)] if i == 2 else None
        write_clip(root / name, noise_frames(count, seed=i), fps=(25, 20)[i % 2], times_ms=times)
        splits = ("test",) if i % 4 == 0 else ("train",)
        label = {"label": "ab"[i % 2], "label_index": i % 2}
        lines.append(Video(key=f"k{i}", path=name, root=str(root), splits=splits, group=f"g{i // 3}", **label))
    (root / "bad.mp4").write_text("no video")
    lines.insert(4, Video(key="broken", path="bad.mp4", root=str(root), label="a", label_index=0))
    write_manifest(root / "set.jsonl", lines)
    return root


@pytest.fixture(scope="module")
def packed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set packed without interruption by one process."""
    dest = tmp_path_factory.mktemp("packed") / "set"
    pack(videos / "set.jsonl", dest, **OPTIONS)
    return dest


def contents(dest: Path) -> dict[str, str]:
    """Digest of every file; of receipts without their `run` block."""
    found = {}
    for path in sorted(dest.rglob("*")):
        if path.is_dir() or path.suffix == ".part":  # hidden leftovers of a killed process are no part of the set
            continue
        data = path.read_bytes()
        if path.parent.name == "rgb" and path.suffix == ".json":
            fields = json.loads(data)
            del fields["run"]
            data = json.dumps(fields).encode()
        found[str(path.relative_to(dest))] = hashlib.sha256(data).hexdigest()
    return found


def verdicts(dest: Path) -> list[Verdict]:
    return [found for receipt in read_receipts(open_storage(dest), "rgb") for found in receipt.verdicts]


def test_what_is_stored_is_the_videos(videos: Path, packed: Path) -> None:
    data = open_dataset(packed)
    assert list(check(packed)) == []
    assert data.classes == ("a", "b") and data.meta.name == "set" and data.meta.size == {"short_side": 32}
    lines = [video for video in read_manifest(videos / "set.jsonl") if video.key != "broken"]
    assert [data[i].key for i in range(len(data))] == [video.key for video in lines]
    for i, video in enumerate(lines):
        sample = data[i]
        source = decode(video.location, resize=Resize(short_side=32))
        images = [image for image, _ in source]
        assert (sample.frames, sample.height, sample.width) == (len(images), 32, 43) == (COUNTS[i], 32, 43)
        lossy = [jpeg.decode(jpeg.encode(image, quality=90)) for image in images]
        np.testing.assert_array_equal(data.frames(i, range(sample.frames)), np.stack(lossy))
        np.testing.assert_array_equal(data.facts(i).times_us, source.facts.times_us)
        assert (sample.label, sample.splits, sample.group) == (video.label, video.splits, video.group)
        info = sample.info
        assert info["source"] == video.path and info["codec"] == source.facts.info.codec
        assert (info["source_height"], info["source_width"], info["rotation"]) == (48, 64, 0)
        assert ("times_us" in info) == (i == 2)
    [bad] = [found for found in verdicts(packed) if found.level == "bad"]
    assert (bad.key, bad.code, bad.source) == ("broken", "not-a-video", "bad.mp4")
    assert [found.code for found in verdicts(packed) if found.key == "k1"] == ["one-frame"]


def test_the_report_counts(videos: Path, packed: Path) -> None:
    events: list[dict[str, Any]] = []
    report = pack(videos / "set.jsonl", packed, on_event=events.append, **OPTIONS)
    assert (report.videos, report.samples, report.frames) == (12, 11, sum(COUNTS))
    assert (report.bad, report.warned, report.smaller) == (1, 1, 0)
    assert report.bytes == sum(path.stat().st_size for path in packed.glob("rgb/*.tar"))
    assert report.verdicts == {"not-a-video": 1, "one-frame": 1}
    assert "1 bad, 1 with warnings, 0 smaller" in str(report)
    # Nothing was left to do.
    assert [event["event"] for event in events] == ["start", "done"]
    assert (events[0]["total"], events[0]["done"], events[0]["shards"]) == (12, 12, 0)


def test_events_tell_what_happens(videos: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    pack(videos / "set.jsonl", tmp_path / "d", on_event=events.append, **OPTIONS)
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["plan", "start"] and kinds[-1] == "done"
    shards = [event for event in events if event["event"] == "shard"]
    assert len(shards) >= 4 and sum(event["frames"] for event in shards) == sum(COUNTS)
    assert {event["code"] for event in events if event["event"] == "verdict"} == {"not-a-video", "one-frame"}
    assert [event for event in events if event["event"] == "progress"][-1]["done"] == 12
    json.dumps(events)


def test_any_number_of_workers_gives_the_same_bytes(videos: Path, packed: Path, tmp_path: Path) -> None:
    pack(videos / "set.jsonl", tmp_path / "set", **{**OPTIONS, "workers": 3})
    assert contents(tmp_path / "set") == contents(packed)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_and_run_again(videos: Path, packed: Path, tmp_path: Path, seed: int) -> None:
    dest, rng = tmp_path / "set", random.Random(seed)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from vidprep.pack import pack\n"
        f"pack({str(videos / 'set.jsonl')!r}, {str(dest)!r}, **{ {**OPTIONS, 'workers': 2}!r})\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script])
        time.sleep(rng.uniform(0.3, 1.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for receipt in read_receipts(open_storage(dest), "rgb"):
            data = (dest / f"rgb/{receipt.shard:06d}.tar").read_bytes()
            assert hashlib.sha256(data).hexdigest() == receipt.tar_sha256
    _wait_for_workers(dest)
    pack(videos / "set.jsonl", dest, **OPTIONS)
    assert contents(dest) == contents(packed)


def _wait_for_workers(dest: Path) -> None:
    """Orphaned workers end by themselves, but not at once: what they write meanwhile has its own name."""
    before = None
    while before != (now := {path: path.stat().st_mtime_ns for path in dest.rglob("*")}):
        before = now
        time.sleep(0.3)


def test_finished_shards_are_not_done_again(videos: Path, packed: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    shutil.copytree(packed, dest)
    (dest / "dataset.json").unlink()
    for suffix in ("json", "tar"):
        (dest / f"rgb/000001.{suffix}").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in dest.glob("rgb/0*")}
    events: list[dict[str, Any]] = []
    pack(videos / "set.jsonl", dest, on_event=events.append, **OPTIONS)
    assert [event["shard"] for event in events if event["event"] == "shard"] == [1]
    after = {path.name: path.stat().st_mtime_ns for path in dest.glob("rgb/0*")}
    assert {name for name in after if after[name] != before.get(name)} == {
        "000001.tar",
        "000001.idx",
        "000001.json",
    }
    assert contents(dest) == contents(packed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"short_side": 24}, r"size.*short side 32.*short side 24.*--short-side 32"),
        ({"short_side": None, "size": (8, 9)}, r"short side 32.*size 8x9.*--short-side 32"),
        ({"fps": 5}, r"fps unset.*5.*leave --fps out"),
        ({"quality": 80}, r"quality 90.*80.*--quality 90"),
        ({"segment_frames": 4}, r"segment frames unset.*4.*leave --segment-frames out"),
        ({"shard_size": 50_000}, r"shard size 40000.*50000.*--shard-size 40000"),
        ({"name": "other"}, r"name set.*other.*--name set"),
    ],
)
def test_other_options_than_the_plans(videos: Path, packed: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pack(videos / "set.jsonl", packed, **{**OPTIONS, **change})


def test_another_manifest_than_the_plans(videos: Path, packed: Path, tmp_path: Path) -> None:
    lines = list(read_manifest(videos / "set.jsonl"))
    other = tmp_path / "other.jsonl"
    for change, words in (
        ([*lines[:3], replace(lines[3], group="x"), *lines[4:]], r"group of k3 was 'g1' and is 'x'.*vidprep annotate"),
        (lines[:-1], r"11 videos, not as many"),
        ([*lines, replace(lines[0], key="new")], r"13 videos, not as many"),
    ):
        write_manifest(other, change)
        with pytest.raises(UserError, match=words):
            pack(other, packed, **OPTIONS)


def test_too_many_bad_videos_publish_nothing(videos: Path, packed: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    words = r"(?s)1 of 12.*1 not-a-video.*--max-bad 2%.*bad\.mp4.*--max-bad.*rgb/\d{6}\.json"
    with pytest.raises(UserError, match=words) as caught:
        pack(videos / "set.jsonl", dest, **{**OPTIONS, "max_bad": 0.02})
    assert not (dest / "dataset.json").exists()
    with pytest.raises(UserError, match=r"not finished.*run the same vidprep pack"):
        open_dataset(dest)
    assert "so far" not in str(caught.value) or "100%" in str(caught.value)
    pack(videos / "set.jsonl", dest, **OPTIONS)
    made, expected = contents(dest), contents(packed)
    assert made.pop("plan.jsonl") != expected.pop("plan.jsonl")  # it says 2 %, which the later command overruled
    assert made == expected


def small(tmp_path: Path, names: list[str], **fields: Any) -> Path:
    """A manifest of one-second videos with these file names."""
    for i, name in enumerate(names):
        if not (tmp_path / name).exists():
            write_clip(tmp_path / name, noise_frames(25, seed=i))
    lines = [Video(key=name.rpartition(".")[0], path=name, root=str(tmp_path), **fields) for name in names]
    write_manifest(tmp_path / "small.jsonl", lines)
    return tmp_path / "small.jsonl"


def test_a_video_that_ends_or_hangs_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = small(tmp_path, ["a.mp4", "crash.mp4", "b.mp4", "hang.mp4", "c.mp4"])
    monkeypatch.setattr("vidprep.packing.shards._PACK_SHARD", "tests.vidprep.pack_targets:pack_with_killers")
    report = pack(manifest, tmp_path / "one", short_side=16, timeout=3, max_bad=0.5, workers=2)
    assert (report.samples, report.bad, report.verdicts) == (3, 2, {"crashed": 1, "timeout": 1})
    assert list(check(tmp_path / "one")) == []
    crashed, hung = verdicts(tmp_path / "one")
    assert (crashed.key, hung.key) == ("crash", "hang")
    assert "SIGSEGV" in crashed.message and "3 s" in hung.message and crashed.command.startswith("ffmpeg")


def test_a_single_kill_is_not_held_against_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = small(tmp_path, ["a.mp4", "b.mp4"])
    monkeypatch.setattr("vidprep.packing.shards._PACK_SHARD", "tests.vidprep.pack_targets:pack_killed_once")
    report = pack(manifest, tmp_path / "d", short_side=16, workers=1)
    assert (tmp_path / "d/killed").exists() and (report.samples, report.bad) == (2, 0)


def test_a_full_disk_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = small(tmp_path, ["a.mp4"])
    dest = tmp_path / "d"
    monkeypatch.setattr("vidprep.packing.shards._PACK_SHARD", "tests.vidprep.pack_targets:pack_on_full_disk")
    with pytest.raises(StorageError, match=r"000000\.tar: No space left.*run the same command again"):
        pack(manifest, dest, short_side=16)
    assert [path.name for path in (dest / "rgb").iterdir()] == []
    monkeypatch.undo()
    assert pack(manifest, dest, short_side=16).samples == 1


def test_destinations_that_cannot_be(tmp_path: Path) -> None:
    manifest = small(tmp_path, ["a.mp4"])
    (tmp_path / "file").write_text("x")
    for dest in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(StorageError, match="cannot write"):
            pack(manifest, dest, short_side=16)
    for dest in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="a file; choose another destination"):
            pack(manifest, dest, short_side=16)
        with pytest.raises(StorageError, match="a file; choose another destination"):
            estimate_pack(manifest, dest, short_side=16)
    with pytest.raises(UserError, match="not a place this version can use"):
        estimate_pack(manifest, "ftp://host/set", short_side=16)
    (tmp_path / "other" / "rgb").mkdir(parents=True)
    (tmp_path / "other" / "rgb" / "000000.tar").write_text("x")
    with pytest.raises(StorageError, match="shards but no plan"):
        pack(manifest, tmp_path / "other", short_side=16)


def test_videos_that_moved(videos: Path, packed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(videos, moved)
    manifest = tmp_path / "set.jsonl"
    gone = [replace(video, root="/nonexistent") for video in read_manifest(videos / "set.jsonl")]
    write_manifest(manifest, gone)
    with pytest.raises(StorageError, match=r"/nonexistent.*--root DIR"):
        pack(manifest, tmp_path / "set", **OPTIONS)
    pack(manifest, tmp_path / "set", root=moved, **OPTIONS)
    assert contents(tmp_path / "set")["rgb/000000.tar"] == contents(packed)["rgb/000000.tar"]
    with pytest.raises(UserError, match="not a folder"):
        pack(manifest, tmp_path / "set", root=tmp_path / "none", **OPTIONS)


def test_an_empty_root_is_an_unmounted_disk_not_bad_videos(videos: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for _ in range(2):  # nothing is recorded that the next run would believe
        with pytest.raises(StorageError, match=r"disk: it is empty; mount it.*--root DIR"):
            pack(videos / "set.jsonl", tmp_path / "set", root=tmp_path / "disk", **OPTIONS)
    pack(videos / "set.jsonl", tmp_path / "set", **OPTIONS)
    assert contents(tmp_path / "set") == contents(packed)


def test_missing_files_are_verdicts_where_the_root_is_there(tmp_path: Path) -> None:
    manifest = small(tmp_path, ["a.mp4", "b.mp4"])
    (tmp_path / "b.mp4").unlink()
    report = pack(manifest, tmp_path / "d", short_side=16, max_bad=0.5, workers=1)
    assert report.verdicts == {"missing-file": 1}


def test_another_rate(tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mkv", noise_frames(5), times_ms=[0, 40, 80, 500, 1000])
    manifest = small(tmp_path, ["a.mp4", "v.mkv"])
    pack(manifest, tmp_path / "d", short_side=16, fps=10, workers=1)
    data = open_dataset(tmp_path / "d")
    assert (data[0].frames, data[0].fps, data[1].fps) == (10, 10.0, 10.0)
    np.testing.assert_array_equal(data.facts(0).times_us, 100_000 * np.arange(10))
    # At 0, 100, 200 … ms: the last frame whose time has come.
    shown = [0, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4]
    images = [image for image, _ in decode(tmp_path / "v.mkv", resize=Resize(short_side=16))]
    stored = data.frames(1, range(data[1].frames)).astype(float)
    assert len(stored) == len(shown)
    for picture, source in zip(stored, shown, strict=True):
        assert np.argmin([np.abs(picture - image).mean() for image in images]) == source


def test_segments(tmp_path: Path) -> None:
    manifest = small(tmp_path, ["a.mp4", "b.mp4"], label="x")
    pack(manifest, tmp_path / "whole", short_side=16, workers=1)
    report = pack(manifest, tmp_path / "cut", short_side=16, segment_frames=10, workers=1)
    whole, cut = open_dataset(tmp_path / "whole"), open_dataset(tmp_path / "cut")
    assert report.samples == 6 and list(check(tmp_path / "cut")) == []
    assert [cut[i].key for i in range(6)] == [f"{v}_s00{n}" for v in "ab" for n in range(3)]
    assert [cut[i].frames for i in range(6)] == [10, 10, 5] * 2
    assert [cut[i].video for i in range(6)] == ["a"] * 3 + ["b"] * 3
    joined = np.concatenate([cut.frames(i, range(cut[i].frames)) for i in range(3)])
    np.testing.assert_array_equal(joined, whole.frames(0, range(25)))
    assert [cut[i].info.get("start") for i in range(3)] == [None, 0.4, 0.8]
    write_manifest(
        tmp_path / "clash.jsonl",
        [replace(v, key=k) for v, k in zip(read_manifest(manifest), ("a", "a_s001"), strict=True)],
    )
    with pytest.raises(UserError, match="segments of 'a' would be named like other videos"):
        pack(tmp_path / "clash.jsonl", tmp_path / "x", short_side=16, segment_frames=10)


def test_cuts_and_exact_sizes(tmp_path: Path) -> None:
    manifest = small(tmp_path, ["a.mp4", "b.mp4"], start=0.2, end=0.6)
    report = pack(manifest, tmp_path / "d", size=(24, 100), workers=1)
    data = open_dataset(tmp_path / "d")
    assert (data[0].frames, data[0].height, data[0].width) == (10, 24, 64)
    assert (data[0].info["start"], data[0].info["end"]) == (0.2, 0.6)
    assert report.smaller == 2 and data.meta.size == {"height": 24, "width": 100}
    with pytest.raises(UserError, match="not both"):
        pack(manifest, tmp_path / "x", size=(24, 100), short_side=3)


def labelled(tmp_path: Path, labels: list[tuple[str, int | None]]) -> Path:
    manifest = small(tmp_path, [f"{i}.mp4" for i in range(len(labels))])
    lines = [
        replace(video, label=name, label_index=index)
        for video, (name, index) in zip(read_manifest(manifest), labels, strict=True)
    ]
    write_manifest(manifest, lines)
    return manifest


def test_class_tables(tmp_path: Path) -> None:
    def classes(labels: list[tuple[str, int | None]], file: Path | None = None) -> tuple[str, ...]:
        manifest = read_whole_manifest(labelled(tmp_path, labels), root=None, classes=file, segments=False)
        assert [(v.label, manifest.classes[v.label_index or 0]) for v in manifest] == [(n, n) for n, _ in labels]
        return manifest.classes

    assert classes([("b", None), ("a", None)]) == ("a", "b")
    assert classes([("b", 0), ("a", 1)]) == ("b", "a")
    with pytest.raises(UserError, match=r"no class has number 1 .*--classes"):
        classes([("b", 0), ("a", 2)])
    with pytest.raises(UserError, match=r"'b' and 'a' both have number 0"):
        classes([("b", 0), ("a", 0)])
    with pytest.raises(UserError, match=r"'a' has no number"):
        classes([("b", 0), ("a", None)])
    with pytest.raises(UserError, match=r"class 'a' is number 0 for 0 and 1 for 1"):
        classes([("a", 0), ("a", 1)])
    (tmp_path / "small.classes.txt").write_text("z\nb\na\n")
    assert classes([("b", 1), ("a", 2)]) == ("z", "b", "a")
    with pytest.raises(UserError, match=r"numbers class 'b' 0, .*classes\.txt numbers it 1"):
        classes([("b", 0), ("a", 2)])
    with pytest.raises(UserError, match=r"'q' is not in .*classes\.txt"):
        classes([("q", None), ("a", None)])
    (tmp_path / "other.txt").write_text("1 a\n2 b\n")
    assert classes([("b", None), ("a", None)], tmp_path / "other.txt") == ("a", "b")


def test_duplicate_keys_name_both_lines(tmp_path: Path) -> None:
    manifest = small(tmp_path, ["a.mp4", "b.mp4"])
    manifest.write_text(manifest.read_text() + '{"key": "a", "path": "c.mp4"}\n')
    with pytest.raises(UserError, match=r"small\.jsonl:3: key 'a' already stands on line 1"):
        pack(manifest, tmp_path / "d")
    manifest.write_text("\n")
    with pytest.raises(UserError, match="lists no video"):
        pack(manifest, tmp_path / "d")


@pytest.mark.parametrize(
    "wrong",
    [
        {"quality": 0},
        {"quality": 101},
        {"fps": 0},
        {"fps": float("nan")},
        {"workers": 0},
        {"max_bad": 1.5},
        {"segment_frames": 0},
        {"shard_size": 0},
    ],
)
def test_wrong_options(videos: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong)).replace("_", ".")):
        pack(videos / "set.jsonl", tmp_path / "d", **{**OPTIONS, **wrong})
    assert not (tmp_path / "d" / "dataset.json").exists()


def test_a_dry_run_foretells_the_run(
    videos: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {name: value for name, value in OPTIONS.items() if name not in ("max_bad", "name")}
    needs = estimate_pack(videos / "set.jsonl", tmp_path / "d", **{**asked, "workers": 2})
    assert not (tmp_path / "d").exists()
    report: PackReport = pack(videos / "set.jsonl", packed, **OPTIONS)
    assert (needs.videos, needs.measured, needs.bad, needs.shards) == (12, 12, 1, report.shards)
    assert needs.rgb_bytes == pytest.approx(report.bytes, rel=0.25)
    assert needs.fits and needs.core_hours > 0 and needs.wall_hours == needs.core_hours / 2
    usage: Callable[[Path], Any] = lambda path: SimpleNamespace(free=10_000)  # noqa: E731
    monkeypatch.setattr("vidprep.estimate.disk_usage", usage)
    assert not estimate_pack(videos / "set.jsonl", tmp_path / "d", **asked).fits
