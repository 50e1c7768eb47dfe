"""`vidprep plan`, `run`, `finalize`, `status`, `retry` and `cancel` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from cli.farm import parse_part
from cli.main import run
from shards.dataset import open_dataset
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.records import Video, write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for i in range(4):
        write_clip(tmp_path / f"{i}.mp4", noise_frames(5 + i, seed=i))
        lines.append(Video(key=f"k{i}", path=f"{i}.mp4", root=str(tmp_path)))
    (tmp_path / "3.mp4").write_text("no video")
    write_manifest(tmp_path / "set.jsonl", lines)
    return tmp_path / "set.jsonl"


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines() if '"message"' in line]


def test_in_parts_to_the_end(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = str(tmp_path / "d")
    options = ["--short-side", "16", "--shard-size", "5kB", "--max-bad", "30%", "--columns", "rgb,flow"]
    assert run(["plan", str(manifest), dest, *options, "--flow", "method=dis", "--workers", "1"]) == 0
    assert "4 videos in" in told(capsys)[-1]
    assert run(["finalize", dest]) == 1
    assert "not finished" in capsys.readouterr().err
    for part in ("1/2", "0/2"):
        assert run(["run", dest, "--shard", part, "--workers", "1"]) == 0
    assert "part 0/2 of column rgb" in told(capsys)[-1]
    assert run(["status", dest, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["columns"][0]["done"] == status["columns"][0]["shards"] and not status["finished"]
    assert status["next"] == f"vidprep finalize {dest}"
    assert run(["finalize", dest]) == 0
    assert "column flow lacks" in told(capsys)[-1]
    assert run(["run", dest, "--column", "flow", "--workers", "1"]) == 0
    assert run(["finalize", dest, "--column", "flow"]) == 0
    capsys.readouterr()
    assert run(["status", dest, "--watch"]) == 0  # it ends, as all is done
    shown = capsys.readouterr().out
    assert "finished" in shown and "all planned columns are finished" in shown
    assert len(open_dataset(dest, columns=("rgb", "flow"))) == 3

    write_clip(tmp_path / "3.mp4", noise_frames(7, seed=3))
    assert run(["retry", dest, "--reason", "timeout"]) == 1
    assert "not-a-video (1)" in capsys.readouterr().err
    assert run(["retry", dest, "--reason", "not-a-video", "--workers", "1"]) == 0
    assert len(open_dataset(dest, columns=("rgb", "flow"))) == 4

    write_clip(tmp_path / "new.mp4", noise_frames(6, seed=9))
    write_manifest(tmp_path / "more.jsonl", [Video(key="new", path="new.mp4", root=str(tmp_path))])
    capsys.readouterr()
    assert run(["plan", "--append", str(tmp_path / "more.jsonl"), dest]) == 0
    assert "planned 1 more videos" in told(capsys)[-1]
    assert run(["status", dest]) == 0
    assert f"next: vidprep run {dest}" in capsys.readouterr().out


def test_columns_of_a_finished_set_are_planned_too(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = str(tmp_path / "d")
    assert run(["pack", str(manifest), dest, "--short-side", "16", "--max-bad", "30%", "--workers", "1"]) == 0
    assert run(["flow", dest, "--method", "dis", "--plan-only"]) == 0
    assert f"vidprep run {dest} --column flow" in told(capsys)[-1]
    assert run(["run", dest, "--column", "flow", "--workers", "1", "--memory", "4GB"]) == 0
    assert run(["finalize", dest]) == 0
    assert len(open_dataset(dest, columns=("rgb", "flow"))) == 3
    assert run(["cancel", dest]) == 0
    assert "nothing was submitted" in capsys.readouterr().out


def test_scripts_for_slurm(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest, scripts = str(tmp_path / "d"), tmp_path / "scripts"
    slurm = [
        "--engine",
        "slurm",
        "--slurm",
        "partition=cpu",
        "--slurm",
        "time=8:00:00",
        "--script-folder",
        str(scripts),
    ]
    options = ["--short-side", "16", "--workers", "1", "--columns", "rgb,flow", "--parts", "1"]
    assert run(["pack", str(manifest), dest, *options, *slurm, "--dry-run"]) == 0
    names = ["00-rgb.sbatch", "01-rgb-finalize.sbatch", "02-flow.sbatch", "03-flow-finalize.sbatch"]
    assert sorted(path.name for path in scripts.iterdir()) == names
    text = (scripts / "00-rgb.sbatch").read_text()
    assert "#SBATCH --partition=cpu\n" in text and "#SBATCH --time=480\n" in text
    assert f"vidprep run {dest} --column rgb" in text and "--shard $SLURM_ARRAY_TASK_ID/1" in text
    assert not (tmp_path / "d/rgb").exists()
    capsys.readouterr()
    assert run(["pack", str(manifest), dest, *options, *slurm]) == 1
    assert "no Slurm here" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["3", "2/2", "a/b", "-1/2", "1/"])
def test_parts_as_people_write_them(wrong: str) -> None:
    assert parse_part("3/8") == (3, 8)
    with pytest.raises(click.BadParameter, match="0/8"):
        parse_part(wrong)
