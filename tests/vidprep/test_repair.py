"""`check --repair` where shards have to be computed or packed again."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from cli.main import run
from shards.errors import UserError
from tests.shards.test_dataset import flip
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.derive import add_flow, add_labels
from vidprep.pack import pack
from vidprep.records import Video, write_manifest
from vidprep.repair import repair

QUICK = {"nscales": 2, "warps": 1, "outer_iterations": 2, "inner_iterations": 4}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of four videos (and a bad one) in several shards, with flow and labels; to be read only."""
    root = tmp_path_factory.mktemp("repair")
    lines = []
    for i in range(4):
        write_clip(root / f"{i}.mp4", noise_frames(8 + i, seed=i), fps=25)
        lines.append(Video(key=f"k{i}", path=f"{i}.mp4", root=str(root), label="run"))
    (root / "bad.mp4").touch()
    lines.append(Video(key="bad", path="bad.mp4", root=str(root)))
    write_manifest(root / "set.jsonl", lines)
    dest = root / "data"
    pack(root / "set.jsonl", dest, size=(24, 32), shard_size=12_000, quality=80, workers=1, max_bad=0.5)
    add_flow(dest, backend="numba", bound=10.0, workers=1, **QUICK)
    add_labels(dest, crop=24, window=4, resize=None, stride=3, views=2, seed=3, workers=1)
    return root


@pytest.fixture
def dest(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed / "data", tmp_path / "data"))


def bytes_of(dest: Path) -> dict[str, str]:
    """Everything but what tells times: receipts, and what running leaves behind."""
    return {
        str(p.relative_to(dest)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(dest.rglob("*"))
        if p.suffix in (".tar", ".idx", ".bin", ".jsonl") or p.name == "dataset.json"
        if not any(part.startswith(".") for part in p.relative_to(dest).parts)
    }


def test_derived_columns_are_computed_again(packed: Path, dest: Path) -> None:
    flip(dest / "flow/000001.tar", 2000)
    (dest / "statistics/000000.tar").unlink()
    (dest / "statistics/000001.json").unlink()
    report = repair(dest, workers=1)
    assert [str(it) for it in report.mended] == [
        "flow/000001.tar: computed again from rgb",
        "statistics/000000.tar: computed again from rgb, flow",
        "statistics/000001.tar: computed again from rgb, flow",
    ]
    assert (report.problems, report.advice, report.stale) == ((), (), ())
    assert bytes_of(dest) == bytes_of(packed / "data")


def test_frames_are_packed_again(packed: Path, dest: Path) -> None:
    flip(dest / "rgb/000000.tar", 3000)
    (dest / "rgb/index.bin").unlink()
    report = repair(dest, workers=1)
    assert [it.file for it in report.mended] == ["rgb/index.bin"] and {p.shard for p in report.problems} == {0}
    assert "shards 0 (its tar is damaged or missing) are lost: there is no manifest" in report.advice[0]
    assert f"vidprep check {dest} --repair --manifest MANIFEST" in report.advice[0]
    report = repair(dest, manifest=packed / "set.jsonl", workers=1)
    assert report.problems == () and report.stale == ()
    assert bytes_of(dest) == bytes_of(packed / "data")


def test_what_depends_on_lost_frames_waits_for_them(packed: Path, dest: Path) -> None:
    """Of flow, shard 0 needs lost frames, shard 1 does not; with the frames' copy everything is mended."""
    flip(dest / "rgb/000000.tar", 3000)
    flip(dest / "flow/000000.tar", 2000)
    flip(dest / "statistics/000001.tar", 2000)
    report = repair(dest, workers=1)
    assert [it.file for it in report.mended] == ["statistics/000001.tar"]
    assert [line.partition(":")[0] for line in report.advice] == ["rgb", "flow"]
    assert "made from rgb, which is to be mended first" in report.advice[1]
    (packed / "only").mkdir()
    for name in ("rgb", "dataset.json", "plan.jsonl", "samples.jsonl", "samples.bin"):
        (packed / "only" / name).symlink_to(packed / "data" / name)
    report = repair(dest, other=packed / "only", workers=1)
    assert [it.file for it in report.mended] == ["rgb/000000.tar", "flow/000000.tar"]
    assert bytes_of(dest) == bytes_of(packed / "data")


def test_a_repair_that_fails_leaves_what_there_was(packed: Path, dest: Path, tmp_path: Path) -> None:
    flip(dest / "rgb/000000.tar", 3000)
    before = bytes_of(dest), (dest / "rgb/000000.json").read_bytes()
    write_manifest(tmp_path / "other.jsonl", [Video(key="x", path="0.mp4", root=str(packed), label="run")])
    with pytest.raises(UserError, match="is not the manifest|not as many"):
        repair(dest, manifest=tmp_path / "other.jsonl", workers=1)
    assert (bytes_of(dest), (dest / "rgb/000000.json").read_bytes()) == before


def test_on_the_command_line(packed: Path, dest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dest / "rgb/000000.idx").unlink()
    flip(dest / "rgb/000001.tar", 3000)
    assert run(["check", str(dest)]) == 1
    assert "--repair mends what can be mended" in capsys.readouterr().err
    assert run(["check", str(dest), "--repair"]) == 1
    shown = capsys.readouterr()
    assert "mended rgb/000000.idx: made again from its tar" in shown.out and "--from COPY" in shown.err
    assert run(["check", str(dest), "--repair", "--from", str(packed / "data")]) == 0
    assert "all right" in capsys.readouterr().out
    assert bytes_of(dest) == bytes_of(packed / "data")
    assert run(["check", str(dest), "--from", str(packed / "data")]) == 2
