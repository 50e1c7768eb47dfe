"""merge, subset, split and reshard: ordinary data sets with the same payload bytes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards import jpeg
from shards.check import check
from shards.dataset import Dataset, open_dataset
from shards.errors import DataError, StorageError, UserError
from shards.finalize import finalize
from shards.meta import ColumnMeta, read_meta, write_meta
from shards.ops.build import OnceMore
from shards.ops.copying import CopyTask
from shards.ops.operations import merge, reshard, split, subset
from shards.plan import Entry, write_plan
from shards.procs import Lost
from shards.receipts import Verdict, read_receipts
from shards.samples import annotate
from shards.storage import open_storage
from shards.summary import summarize
from shards.tarwriter import ShardWriter
from tests.conftest import ROOT
from tests.shards.test_dataset import flip, frame_offset
from tests.tiny import build_dataset, frame
from tests.vidprep.drawing.columns import GEOMETRY, add_flow, add_table, row

COLUMNS = ("rgb", "flow", "statistics")


def with_columns(dest: Path) -> Path:
    """Flow and statistics columns; sample 1 has failed in both."""
    data = open_dataset(dest)

    def fields(i: int) -> np.ndarray | None:
        shape = (int(data.frame_counts[i]) - 1, data[i].height, data[i].width, 2)
        return None if i == 1 else np.full(shape, i / 4, np.float32)

    add_flow(dest, fields)
    add_table(dest, lambda i: None if i == 1 else [row(start=i % 3), row(top=2)])
    return dest


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten samples in three shards with all columns; to be read only."""
    dest = build_dataset(tmp_path_factory.mktemp("ops") / "a", samples=10, frames=(12, 7, 9), per_shard=4)
    return with_columns(dest)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five more samples with the same keys as the first five of `source`, and another class."""
    dest = build_dataset(
        tmp_path_factory.mktemp("ops") / "b", samples=5, frames=(8, 6), per_shard=3, classes=("jump", "run")
    )
    return with_columns(dest)


def payloads(data: Dataset, i: int) -> dict[str, list[bytes]]:
    return {
        name: [bytes(part) for part in data.jpegs(i, range(int(data.record(i, name)["frames"])), column=name)]
        for name in data.columns
    }


def assert_copied(old: Path, new: Path, numbers: Sequence[int], places: Sequence[int], prefix: str = "") -> None:
    """Samples `places` of the new data set are samples `numbers` of the old one in all that is stored."""
    a, b = (open_dataset(place, columns=COLUMNS) for place in (old, new))
    for i, j in zip(numbers, places, strict=True):
        one, two = a[i], b[j]
        assert two.key == prefix + one.key
        assert (two.label, two.splits, two.group, two.caption) == (one.label, one.splits, one.group, one.caption)
        assert {**two.info, "key": ""} == {**one.info, "key": ""}
        assert payloads(a, i) == payloads(b, j)
        for name in COLUMNS:
            assert a.times_us(i, name).tolist() == b.times_us(j, name).tolist()
            assert a.has(i, name) == b.has(j, name)
            for field in ("fps", "height", "width", "frames", "size", "flags"):
                assert a.record(i, name)[field] == b.record(j, name)[field]


def assert_sound(dest: Path) -> None:
    assert list(check(dest)) == []
    assert all(column.stale == () for column in summarize(dest).columns.values())


def digest(dest: Path) -> dict[str, str]:
    """Everything but receipts, which tell times."""
    return {
        str(path.relative_to(dest)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dest.rglob("*"))
        if path.is_file() and (path.suffix != ".json" or path.parent == dest)
    }


def test_reshard_keeps_order_and_bytes(source: Path, tmp_path: Path) -> None:
    report = reshard(source, tmp_path / "new", shard_size=20_000)
    assert_copied(source, tmp_path / "new", range(10), range(10))
    assert_sound(tmp_path / "new")
    sizes = [r.samples for r in read_receipts(open_storage(tmp_path / "new"), "rgb")]
    assert report.samples == sum(sizes) == 10 and report.shards == len(sizes) > 3 and min(sizes) >= 1
    meta, old = read_meta(str(tmp_path / "new")), read_meta(str(source))
    assert (meta.name, meta.classes, meta.splits, meta.size) == (old.name, old.classes, old.splits, old.size)
    assert meta.columns["flow"].parameters == old.columns["flow"].parameters
    assert set(meta.columns["statistics"].sources) == {"rgb"}


def test_one_shard_and_back_gives_the_same_tars(source: Path, tmp_path: Path) -> None:
    """Reshard to one shard and every payload is where the old tars had it; a second time, bytes are equal."""
    reshard(source, tmp_path / "one", shard_size=1e9)
    assert read_meta(str(tmp_path / "one")).shards == 1
    reshard(tmp_path / "one", tmp_path / "again", shard_size=1e9)
    for name in ("rgb/000000.tar", "flow/000000.tar", "statistics/000000.idx", "samples.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_stock_webdataset_reads_it(source: Path, tmp_path: Path) -> None:
    reshard(source, tmp_path / "new", shard_size=1e9)
    samples = list(webdataset.WebDataset(str(tmp_path / "new/rgb/000000.tar"), shardshuffle=False))
    assert [json.loads(sample["json"])["key"] for sample in samples] == [f"video_{i:03d}" for i in range(10)]


def test_merge_with_prefixes(source: Path, other: Path, tmp_path: Path) -> None:
    report = merge([source, other], tmp_path / "new", prefixes=["", "b_"])
    assert (report.samples, report.shards, report.columns) == (15, 5, COLUMNS)
    assert_copied(source, tmp_path / "new", range(10), range(10))
    assert_copied(other, tmp_path / "new", range(5), range(10, 15), prefix="b_")
    assert_sound(tmp_path / "new")
    data = open_dataset(tmp_path / "new")
    assert data.classes == ("run", "walk", "jump")
    assert [data[i].label for i in (10, 11)] == ["jump", "run"]
    assert data.meta.name == "new" and data.meta.columns["rgb"].producer == "vidprep merge"


def test_merge_of_equal_keys_is_refused(source: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"5 keys stand in two data sets, the first: video_000 in .*--prefix"):
        merge([source, other], tmp_path / "new")
    assert not (tmp_path / "new/plan.jsonl").exists()
    with pytest.raises(UserError, match=r"'a\.video_000' cannot be a key"):
        merge([source, other], tmp_path / "new", prefixes=["a.", "b_"])
    with pytest.raises(UserError, match="1 prefixes for 2"):
        merge([source, other], tmp_path / "new", prefixes=["a_"])
    with pytest.raises(UserError, match="two data sets or more"):
        merge([source], tmp_path / "new")


def test_merge_into_larger_shards(source: Path, other: Path, tmp_path: Path) -> None:
    report = merge([source, other], tmp_path / "new", prefixes=["", "b_"], shard_size=1e9)
    assert report.shards == 1
    assert_copied(other, tmp_path / "new", range(5), range(10, 15), prefix="b_")
    assert_sound(tmp_path / "new")


def test_columns_that_do_not_go_together(source: Path, tmp_path: Path) -> None:
    plain = build_dataset(tmp_path / "plain", samples=2, per_shard=2, size=(24, 32))
    with pytest.raises(UserError, match=r"plain has no column 'flow'.*--columns rgb"):
        merge([source, plain], tmp_path / "new", prefixes=["a_", "b_"])
    report = merge([source, plain], tmp_path / "rgb", prefixes=["a_", "b_"], columns=["rgb"])
    assert report.samples == 12 and list(read_meta(str(tmp_path / "rgb")).columns) == ["rgb"]
    add_flow(plain, lambda i: np.zeros((11, 24, 32, 2), np.float32))
    add_table(plain, lambda i: [row()], parameters={**GEOMETRY, "crop": 8})
    with pytest.raises(UserError, match=r"column statistics was made with crop 16 in .* and 8 in .*--columns"):
        merge([source, plain], tmp_path / "new", prefixes=["a_", "b_"])
    with pytest.raises(UserError, match="no column 'depth'"):
        merge([source, plain], tmp_path / "new", columns=["depth"])


def test_frames_of_different_making(source: Path, tmp_path: Path) -> None:
    plain = build_dataset(tmp_path / "plain", samples=2, per_shard=2, size=(20, 30))
    storage = open_storage(plain)
    meta = read_meta(storage)
    column = meta.columns["rgb"]
    write_meta(
        storage,
        meta.__class__(
            **{**vars(meta), "columns": {"rgb": column.__class__(**{**vars(column), "parameters": {"quality": 70}})}}
        ),
    )
    with pytest.raises(UserError, match=r"quality 90 in .* and 70 in .*--mixed"):
        merge([source, plain], tmp_path / "new", prefixes=["a_", "b_"], columns=["rgb"])
    merge([source, plain], tmp_path / "new", prefixes=["a_", "b_"], columns=["rgb"], mixed=True)
    assert read_meta(str(tmp_path / "new")).columns["rgb"].parameters == {"quality": "mixed"}
    assert {(s.height, s.width) for s in map(open_dataset(tmp_path / "new").__getitem__, range(12))} == {
        (24, 32),
        (20, 30),
    }
    assert_sound(tmp_path / "new")


def test_stale_columns_are_refused(tmp_path: Path) -> None:
    dest = with_columns(build_dataset(tmp_path / "a", samples=3, per_shard=3))
    for path in (dest / "rgb").glob("000000.*"):
        path.unlink()
    storage = open_storage(dest)
    with ShardWriter(storage, 0, parameters={"quality": 90}) as writer:
        for i in range(3):
            writer.add(f"video_{i:03d}", {"source": "x"}, [jpeg.encode(frame(i + 9, 0))] * 12, fps=25, size=(24, 32))
        writer.finish()
    finalize(dest)
    with pytest.raises(UserError, match=r"column flow of .* is stale: rgb changed since.*--columns rgb,statistics"):
        reshard(dest, tmp_path / "new", shard_size=1e6)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"split": "test"}, [0, 5]),
        ({"classes": ["walk"]}, [1, 3, 5, 7, 9]),
        ({"classes": ["w*"], "split": "train"}, [1, 3, 7, 9]),
        ({"fraction": 1.0, "split": "test"}, [0, 5]),
    ],
)
def test_subset(source: Path, tmp_path: Path, options: dict, numbers: list[int]) -> None:
    report = subset(source, tmp_path / "new", **options)
    assert report.samples == len(numbers)
    assert_copied(source, tmp_path / "new", numbers, range(len(numbers)))
    assert_sound(tmp_path / "new")
    expected = ("walk",) if "classes" in options else ("run", "walk")
    assert open_dataset(tmp_path / "new").classes == expected


def test_subset_by_lists(source: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("video_007\nvideo_002\n")
    subset(source, tmp_path / "kept", keep=keys)
    assert_copied(source, tmp_path / "kept", [2, 7], [0, 1])
    subset(source, tmp_path / "rest", drop=keys)
    assert_copied(source, tmp_path / "rest", [0, 1, 3, 4, 5, 6, 8, 9], range(8))
    both = merge([tmp_path / "kept", tmp_path / "rest"], tmp_path / "both")
    assert both.samples == 10
    assert_sound(tmp_path / "both")
    keys.write_text("nobody\n")
    with pytest.raises(UserError, match="nobody"):
        subset(source, tmp_path / "new", keep=keys)


def test_a_random_fraction_is_a_function_of_seed_and_key(source: Path, tmp_path: Path) -> None:
    small, large = subset(source, tmp_path / "a", fraction=0.4), subset(source, tmp_path / "b", fraction=0.8)
    assert (small.samples, large.samples) == (4, 8)
    keys = [
        {s.key for s in map(data.__getitem__, range(len(data)))}
        for data in map(open_dataset, (tmp_path / "a", tmp_path / "b"))
    ]
    assert keys[0] < keys[1]
    assert subset(source, tmp_path / "c", fraction=0.4, seed=7).samples == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say what to take"),
        ({"classes": ["swim"]}, "no class .* 'swim'; it has: run, walk"),
        ({"split": "val"}, "no split 'val'"),
        ({"fraction": 0.0}, "fraction is 0"),
        ({"columns": ["statistics", "depth"]}, "no column 'depth'"),
        ({"split": "test", "shard_size": 0}, "shard size is 0"),
    ],
)
def test_wrong_subsets(source: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        subset(source, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_a_column_without_its_source(source: Path, tmp_path: Path) -> None:
    """Statistics can be taken along without flow; what is recorded of sources is what is there."""
    subset(source, tmp_path / "new", columns=["statistics", "rgb"])
    meta = read_meta(str(tmp_path / "new"))
    assert list(meta.columns) == ["rgb", "statistics"] and list(meta.columns["statistics"].sources) == ["rgb"]
    assert_sound(tmp_path / "new")


def test_split(source: Path, tmp_path: Path) -> None:
    reports = split(source, tmp_path / "parts", by="split")
    assert {name: report.samples for name, report in reports.items()} == {"test": 2, "train": 8}
    assert_copied(source, tmp_path / "parts/test", [0, 5], [0, 1])
    assert split(source, tmp_path / "groups", by="group")["group_3"].samples == 2
    assert set(split(source, tmp_path / "classes", by="class")) == {"run", "walk"}
    assert open_dataset(tmp_path / "classes/walk").classes == ("run", "walk")
    for dest in (tmp_path / "parts/train", tmp_path / "groups/group_3", tmp_path / "classes/walk"):
        assert_sound(dest)


def test_split_loses_nobody(source: Path, tmp_path: Path) -> None:
    subset(source, tmp_path / "new", split="train")
    changes = tmp_path / "changes.jsonl"
    changes.write_text('{"key": "video_003", "group": null, "splits": []}\n')
    annotate(tmp_path / "new", changes)
    for by in ("split", "group"):
        with pytest.raises(UserError, match=f"1 samples .* are in no {by}, the first: video_003"):
            split(tmp_path / "new", tmp_path / "parts", by=by)


def test_the_same_command_twice(source: Path, tmp_path: Path) -> None:
    subset(source, tmp_path / "new", split="train", shard_size=30_000)
    before = digest(tmp_path / "new")
    for name in ("rgb/000001.json", "statistics/000000.json", "flow/000000.tar", "flow/000000.json", "dataset.json"):
        (tmp_path / "new" / name).unlink()
    subset(source, tmp_path / "new", split="train", shard_size=30_000, workers=2)
    assert digest(tmp_path / "new") == before
    assert_sound(tmp_path / "new")
    with pytest.raises(UserError, match=r"was planned as something else: shard_size was 30000 and is now 40000"):
        subset(source, tmp_path / "new", split="train", shard_size=40_000)
    with pytest.raises(UserError, match=r"was planned from other samples or labels"):
        subset(source, tmp_path / "new", split="test", shard_size=30_000)


def test_labels_given_to_the_result_stay(source: Path, tmp_path: Path) -> None:
    reshard(source, tmp_path / "new", shard_size=30_000)
    changes = tmp_path / "changes.jsonl"
    changes.write_text('{"key": "video_003", "label": "stroll"}\n')
    annotate(tmp_path / "new", changes)
    (tmp_path / "new/rgb/000001.json").unlink()
    reshard(source, tmp_path / "new", shard_size=30_000)
    assert open_dataset(tmp_path / "new").by_key("video_003").label == "stroll"
    assert_sound(tmp_path / "new")


def test_places_that_hold_something_else(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be made from itself"):
        reshard(source, source, shard_size=1e6)
    foreign = build_dataset(tmp_path / "foreign", samples=2)
    with pytest.raises(UserError, match="planned as something else"):
        reshard(source, foreign, shard_size=1e6)
    (foreign / "plan.jsonl").unlink()
    with pytest.raises(StorageError, match="holds something already"):
        reshard(source, foreign, shard_size=1e6)


def test_damage_is_not_copied(tmp_path: Path) -> None:
    dest = build_dataset(tmp_path / "a", samples=7, frames=(5, 9), per_shard=3)
    flip(dest / "rgb/000001.tar", frame_offset(dest, 4, 2))
    with pytest.raises(DataError, match=r"rgb/000001\.tar, sample video_004: frame 2 does not agree"):
        reshard(dest, tmp_path / "new", shard_size=1e9)
    assert not (tmp_path / "new/dataset.json").exists() and not list((tmp_path / "new").rglob("*.tar"))


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Segments of two videos and three bad videos, one of them alone in the last shard."""
    dest = tmp_path / "judged"
    storage = open_storage(dest)
    options = {"name": "judged", "classes": ["a"], "size": {"short_side": 24}, "fps": None, "quality": 90}
    options |= {"segment_frames": 3, "shard_size": 1000, "estimate": None}
    videos = [(0, "x"), (0, "bad1"), (1, "bad2"), (1, "y"), (2, "bad3")]
    write_plan(storage, options, (Entry(shard=s, video={"key": key, "label": "a"}) for s, key in videos))
    for shard in range(3):
        with ShardWriter(storage, shard, parameters={"quality": 90}) as writer:
            verdicts = []
            for key in (key for s, key in videos if s == shard):
                level = "bad" if key.startswith("bad") else "warning"
                verdicts.append(Verdict(key=key, source=f"{key}.avi", level=level, code=level, message="!"))
                for n in range(2 if level == "warning" else 0):
                    frames = [jpeg.encode(frame(n, number)) for number in range(3)]
                    writer.add(f"{key}_s{n:03d}", {"video": key, "segment": n}, frames, fps=25, size=(24, 32))
            writer.finish(verdicts=verdicts)
    finalize(dest)
    return dest


def verdicts(dest: Path) -> list[tuple[int, str]]:
    return [(r.shard, v.key) for r in read_receipts(open_storage(dest), "rgb") for v in r.verdicts]


def test_verdicts_and_segments(judged: Path, tmp_path: Path) -> None:
    reshard(judged, tmp_path / "one", shard_size=1e9)
    assert verdicts(tmp_path / "one") == [(0, key) for key in ("x", "bad1", "bad2", "y", "bad3")]
    reshard(judged, tmp_path / "many", shard_size=1)
    assert verdicts(tmp_path / "many") == [(0, "x"), (0, "bad1"), (2, "bad2"), (2, "y"), (3, "bad3")]
    merge([judged, tmp_path / "one"], tmp_path / "two", prefixes=["p-", "q-"])
    assert [key for _, key in verdicts(tmp_path / "two")[:2]] == ["p-x", "p-bad1"]
    data = open_dataset(tmp_path / "two")
    assert [(s.key, s.video, s.group) for s in map(data.__getitem__, (1, 6))] == [
        ("p-x_s001", "p-x", "x"),
        ("q-y_s000", "q-y", "y"),
    ]
    assert data[1].info["video"] == "p-x"
    keys = tmp_path / "keys"
    keys.write_text("y_s001\n")
    subset(judged, tmp_path / "part", keep=keys)
    assert verdicts(tmp_path / "part") == [(0, "y")]
    for name in ("one", "many", "two", "part"):
        assert_sound(tmp_path / name)
        before, producer = digest(tmp_path / name), read_meta(str(tmp_path / name)).columns["rgb"].producer
        (tmp_path / name / "dataset.json").unlink()
        finalize(tmp_path / name, producer=producer)
        assert digest(tmp_path / name) == before


KILLED = """
import os, signal, sys
from shards.ops import build, copying
def copy(task, done=[]):
    done.append(task)
    if len(done) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return copying.copy_shard(task)
build.copy_shard = copy
from shards.ops.operations import reshard
reshard(sys.argv[1], sys.argv[2], shard_size=30_000)
"""


@pytest.mark.parametrize("at", [1, 2, 9])
def test_a_killed_run_goes_on(source: Path, tmp_path: Path, at: int) -> None:
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "new"), str(at)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "new/dataset.json").exists()
    reshard(source, tmp_path / "new", shard_size=30_000)
    reshard(source, tmp_path / "whole", shard_size=30_000, workers=2)
    new, whole = digest(tmp_path / "new"), digest(tmp_path / "whole")
    assert new == whole and "rgb/000000.tar" in new


def test_a_lost_worker_is_replaced_once() -> None:
    task = CopyTask(url="/x", shard=3, name="rgb", column=ColumnMeta(kind="rgb", folder="rgb"), parts=(), refs=())
    lost = Lost(task=task, message=None, silent=False, reason="was ended by SIGKILL")
    decide = OnceMore()
    assert decide(lost) is task
    with pytest.raises(UserError, match=r"was ended by SIGKILL twice at shard 3 of rgb in /x; .* fewer --workers"):
        decide(lost)
