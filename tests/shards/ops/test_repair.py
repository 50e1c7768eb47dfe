"""What `check --repair` mends from a data set itself and from a copy; nothing is written that is not proved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from shards.check import check
from shards.dataset import open_dataset
from shards.errors import DataError, UserError
from shards.ops.repair import mend
from shards.samples import annotate
from shards.storage import open_storage
from tests.shards.test_dataset import flip, frame_offset
from tests.tiny import build_dataset
from tests.vidprep.drawing.columns import add_flow, add_table, row


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven samples in three shards, flow, lossless flow and statistics; sample 1 has no flow. To be read only."""
    dest = build_dataset(tmp_path_factory.mktemp("repair") / "whole", samples=7, frames=(5, 9), per_shard=3, fps=29.97)
    counts = open_dataset(dest).frame_counts.tolist()

    def fields(i: int) -> np.ndarray | None:
        return None if i == 1 else np.full((counts[i] - 1, 24, 32, 2), i / 4, np.float32)

    add_flow(dest, fields)
    add_flow(dest, fields, name="exact", codec="lossless")
    add_table(dest, lambda i: [row(start=i % 3), row(top=2)])
    return dest


@pytest.fixture
def dest(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "dest"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_whole_data_set_is_not_touched(dest: Path, whole: Path) -> None:
    before = stamps(dest)
    assert mend(dest, other=whole).mended == [] and stamps(dest) == before


@pytest.mark.parametrize("column", ["rgb", "flow", "exact", "statistics"])
@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
def test_indexes_are_made_again_without_a_copy(dest: Path, whole: Path, column: str, damage: str) -> None:
    for name in (f"{column}/000001.idx", f"{column}/index.bin"):
        path = dest / name
        if damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:100])
        else:
            flip(path, 90)
    done = mend(dest)
    assert [it.file for it in done.mended] == [f"{column}/000001.idx", f"{column}/index.bin"] and not done.lost
    assert contents(dest) == contents(whole)


def test_all_indexes_at_once(dest: Path, whole: Path) -> None:
    for path in [*dest.glob("*/*.idx"), *dest.glob("*/index.bin"), dest / "samples.bin", dest / "samples.jsonl"]:
        path.unlink()
    assert not mend(dest).lost
    assert contents(dest) == contents(whole)


def test_a_damaged_tar_needs_a_copy(dest: Path, whole: Path) -> None:
    flip(dest / "rgb/000001.tar", frame_offset(dest, 4, 2))
    (dest / "flow/000002.tar").unlink()
    (dest / "exact/000000.idx").unlink()
    first = mend(dest)
    assert [(it.column, it.shard, it.why) for it in first.lost] == [
        ("rgb", 1, "its tar is damaged or missing"),
        ("flow", 2, "its tar is damaged or missing"),
    ]
    assert [it.file for it in first.mended] == ["exact/000000.idx"]
    second = mend(dest, other=whole)
    assert [str(it) for it in second.mended] == [
        f"rgb/000001.tar: fetched from {whole}",
        f"flow/000002.tar: fetched from {whole}",
    ]
    assert contents(dest) == contents(whole)


def test_a_copy_that_is_damaged_too_is_not_trusted(dest: Path, whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    for place in (dest, copy):
        flip(place / "rgb/000001.tar", frame_offset(place, 4, 2))
    before = contents(dest)
    assert [it.shard for it in mend(dest, other=copy).lost] == [1]
    assert contents(dest) == before


def test_another_data_set_is_no_copy(dest: Path, tmp_path: Path) -> None:
    other = build_dataset(tmp_path / "other", samples=7, frames=(5, 8), per_shard=3, fps=29.97)
    flip(dest / "rgb/000001.tar", frame_offset(dest, 4, 2))
    before = contents(dest)
    assert mend(dest, other=other).lost and contents(dest) == before
    with pytest.raises(UserError, match="6 samples in 2 shards, .* it is not a copy"):
        mend(dest, other=build_dataset(tmp_path / "small", samples=6, per_shard=3))


def test_everything_lost_but_dataset_json(dest: Path, whole: Path) -> None:
    for path in [p for p in dest.rglob("*") if p.is_file() and p.name != "dataset.json"]:
        path.unlink()
    done = mend(dest, other=whole)
    assert {(it.column, it.why) for it in done.lost} == {
        (column, "its receipt is lost") for column in ("rgb", "flow", "exact", "statistics")
    }, "without index.bin, tar and index nothing proves a receipt"
    for column in ("rgb", "flow", "exact", "statistics"):
        (dest / column).mkdir(exist_ok=True)
        shutil.copy(whole / column / "index.bin", dest / column / "index.bin")
    assert not mend(dest, other=whole).lost
    assert contents(dest) == contents(whole)


def test_a_lost_receipt(dest: Path, whole: Path) -> None:
    (dest / "rgb/000000.json").write_text("{")
    (dest / "rgb/index.bin").unlink()
    assert [it.why for it in mend(dest).lost] == ["its receipt is lost"]
    assert not mend(dest, other=whole).lost
    assert contents(dest) == contents(whole)


def test_dataset_json_comes_from_a_copy(dest: Path, whole: Path) -> None:
    (dest / "dataset.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        mend(dest)
    mend(dest, other=whole)
    assert contents(dest) == contents(whole)
    (dest / "dataset.json").write_text(json.dumps({**json.loads((whole / "dataset.json").read_text()), "version": 2}))
    with pytest.raises(DataError, match="format version 2"):
        mend(dest, other=whole)


def test_the_sample_table(dest: Path, whole: Path) -> None:
    flip(dest / "samples.bin", 70)
    assert [it.how for it in mend(dest).mended] == ["made again from samples.jsonl"]
    assert contents(dest) == contents(whole)
    edited = (dest / "samples.jsonl").read_text().replace('"walk"', '"stroll"')
    (dest / "samples.jsonl").write_text(edited)
    assert [it.file for it in mend(dest).mended] == ["samples-before-repair.jsonl", "samples.jsonl"]
    assert list(check(dest)) == []
    annotate(dest, dest / "samples-before-repair.jsonl")
    assert "stroll" in open_dataset(dest).classes


def test_an_annotated_table(dest: Path, tmp_path: Path) -> None:
    """Its name is its digest, so the text alone can be proved; what is lost of it comes from a copy only."""
    changes = tmp_path / "changes.jsonl"
    changes.write_text('{"key": "video_003", "label": "stroll"}\n')
    annotate(dest, changes)
    copy = Path(shutil.copytree(dest, tmp_path / "copy"))
    name = open_dataset(dest).meta.samples_stem
    (dest / f"{name}.bin").unlink()
    assert [it.file for it in mend(dest).mended] == [f"{name}.bin"]
    (dest / f"{name}.jsonl").unlink()
    assert mend(dest).mended == []
    mend(dest, other=copy)
    assert contents(dest) == contents(copy)


def test_plan(dest: Path, whole: Path) -> None:
    (dest / "plan.jsonl").unlink()
    assert [it.file for it in mend(dest, other=whole).mended] == ["plan.jsonl"]
    assert open_storage(dest).read("plan.jsonl") == (whole / "plan.jsonl").read_bytes()
