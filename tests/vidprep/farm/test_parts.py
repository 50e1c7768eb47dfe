"""A data set made in parts is the one made in one go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from shards.check import check
from shards.errors import StorageError, UserError
from shards.receipts import has_receipt, read_receipts
from shards.storage import open_storage
from tests.vidprep.farm.sets import FLOW, LABELS, OPTIONS, contents, said, vidprep
from vidprep.farm.finish import finish, finish_all
from vidprep.farm.work import Job, run
from vidprep.pack import pack
from vidprep.planning import plan
from vidprep.runs import Part, ignore

COLUMNS = ("rgb", "flow", "statistics")


def make(dest: Path, column: str, *parts: Part, **options: Any) -> None:
    job = Job(url=str(dest), column=column, workers=1, **options)
    for part in parts:
        run(job, part, on_event=ignore)


def test_parts_in_any_order_and_twice(manifest: Path, whole: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    planned = plan(manifest, dest, columns=COLUMNS, flow=FLOW, labels=LABELS, workers=1, **OPTIONS)
    assert planned.fresh and planned.videos == 9 and planned.shards >= 3 and planned.columns == COLUMNS
    assert not (dest / "rgb").exists()
    for column in COLUMNS:
        make(dest, column, Part(index=2, of=3), Part(index=0, of=3))
        with pytest.raises(UserError, match="1 of 3 shards|not finished"):
            finish(Job(url=str(dest), column=column), began=0, now=0)
        make(dest, column, Part(index=1, of=3), Part(index=0, of=3), Part())
        finish(Job(url=str(dest), column=column), began=0, now=0)
    assert contents(dest) == contents(whole)
    assert list(check(dest)) == []


def test_every_shard_belongs_to_one_part(manifest: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    shards = plan(manifest, dest, workers=1, **OPTIONS).shards
    make(dest, "rgb", Part(index=1, of=2))
    done = [shard for shard in range(shards) if has_receipt(open_storage(dest), "rgb", shard)]
    assert done == [shard for shard in range(shards) if shard % 2 == 1]
    for wrong in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(UserError, match="counted from 0"):
            Part(index=wrong[0], of=wrong[1])


def test_two_processes_write_parts_at_once(manifest: Path, whole: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    asked = ["--short-side", 32, "--shard-size", 30_000, "--max-bad", "20%", "--name", "set", "--columns", "rgb,flow"]
    said(vidprep("plan", manifest, dest, *asked, "--flow", "method=dis"))
    for column in ("rgb", "flow"):
        parts = [vidprep("run", dest, "--column", column, "--shard", f"{i}/2", "--workers", 1) for i in (1, 0)]
        assert all("shards are finished" in said(process) for process in parts)
        said(vidprep("finalize", dest))
    expected = contents(whole)
    kept = {name: digest for name, digest in expected.items() if "statistics" not in name and name != "dataset.json"}
    made = contents(dest)
    del made["dataset.json"]
    assert made == kept


def test_two_runs_of_the_same_shards_share_them(manifest: Path, whole: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    plan(manifest, dest, workers=1, **OPTIONS)
    both = [vidprep("run", dest, "--workers", 1) for _ in range(2)]
    for process in both:
        said(process)
    finish(Job(url=str(dest)), began=0, now=0)
    expected = {name: digest for name, digest in contents(whole).items() if name.startswith("rgb/")}
    assert {name: digest for name, digest in contents(dest).items() if name.startswith("rgb/")} == expected
    writers = {receipt.run["host"] for receipt in read_receipts(open_storage(dest), "rgb")}
    assert len(writers) == 1 and not (dest / ".run").exists()


def test_a_plan_is_not_changed_by_planning_again(manifest: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    plan(manifest, dest, workers=1, **OPTIONS)
    before = contents(dest)
    assert not plan(manifest, dest, workers=1, **OPTIONS).fresh
    assert contents(dest) == before
    with pytest.raises(UserError, match=r"planned with quality 90.*80"):
        plan(manifest, dest, workers=1, **{**OPTIONS, "quality": 80})


def test_columns_need_their_sources_and_a_plan(manifest: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    with pytest.raises(UserError, match=r"vidprep pack MANIFEST"):
        run(Job(url=str(dest)), on_event=ignore)
    plan(manifest, dest, workers=1, columns=("rgb", "flow"), flow=FLOW, **OPTIONS)
    with pytest.raises(UserError, match="not finished"):
        run(Job(url=str(dest), column="flow"), on_event=ignore)
    with pytest.raises(UserError, match=r"column statistics .* is not planned.*vidprep labels"):
        run(Job(url=str(dest), column="statistics"), on_event=ignore)
    make(dest, "rgb", Part())
    told: list[dict[str, Any]] = []
    assert finish_all(str(dest), max_bad=None, tell=told.append) == ("flow",)
    assert "lacks" in told[-1]["message"] and "--column flow" in told[-1]["message"]


def test_videos_that_moved_since_the_plan(manifest: Path, whole: Path, tmp_path: Path) -> None:
    dest, there, here = tmp_path / "set", tmp_path / "there", tmp_path / "here"
    shutil.copytree(manifest.parent, there)
    lines = manifest.read_text().replace(str(manifest.parent), str(there))
    (tmp_path / "set.jsonl").write_text(lines)
    plan(tmp_path / "set.jsonl", dest, workers=1, **OPTIONS)
    there.rename(here)
    with pytest.raises(StorageError, match="--root DIR"):
        make(dest, "rgb", Part())
    make(dest, "rgb", Part(), roots=(str(here),))
    finish(Job(url=str(dest)), began=0, now=0)
    assert contents(dest)["rgb/index.bin"] == contents(whole)["rgb/index.bin"]
    # What could not be written is no longer said to have failed.
    assert not (dest / ".run").exists()


def test_bounds_are_those_of_the_plan(manifest: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    plan(manifest, dest, workers=1, **{**OPTIONS, "max_bad": 0})
    with pytest.raises(UserError, match="--max-bad 0%"):
        make(dest, "rgb", Part())
    make(dest, "rgb", Part(), max_bad=0.5)
    with pytest.raises(UserError, match="--max-bad 0%"):
        finish(Job(url=str(dest)), began=0, now=0)
    finish(Job(url=str(dest), max_bad=0.5), began=0, now=0)


def test_scratch_gives_the_same_bytes_and_leaves_nothing(manifest: Path, whole: Path, tmp_path: Path) -> None:
    dest, scratch = tmp_path / "set", tmp_path / "fast"
    columns = ("rgb", "flow", "statistics")
    pack(manifest, dest, workers=1, scratch=scratch, columns=columns, flow=FLOW, labels=LABELS, **OPTIONS)
    assert contents(dest) == contents(whole)
    assert list(scratch.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot use the scratch folder"):
        pack(manifest, tmp_path / "other", workers=1, scratch=tmp_path / "file", **OPTIONS)


def test_a_video_that_needs_too_much_memory(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidprep.packing.shards._PACK_SHARD", "tests.vidprep.pack_targets:pack_with_a_glutton")
    report = pack(manifest, tmp_path / "set", workers=1, memory=500_000_000, **{**OPTIONS, "max_bad": 0.5})
    assert report.verdicts["memory"] == 1 and report.samples == 7
    [found] = [
        verdict
        for receipt in read_receipts(open_storage(tmp_path / "set"), "rgb")
        for verdict in receipt.verdicts
        if verdict.code == "memory"
    ]
    assert found.key == "k3" and "500 MB" in found.message and "--memory" in found.message


def test_an_interrupted_run_leaves_its_shards_to_others(manifest: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    plan(manifest, dest, workers=1, **OPTIONS)
    process = vidprep("run", dest, "--workers", 1, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    process.stdout.readline()  # it has begun
    process.terminate()
    process.wait()
    assert process.returncode == 128 + 15
    make(dest, "rgb", Part())
    finish(Job(url=str(dest)), began=0, now=0)
