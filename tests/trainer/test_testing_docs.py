"""Every code block of docs/extending.md is run, in order."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from cli.main import run
from tests.conftest import ROOT
from vidprep.synthetic import render_demo

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def place_videos(folder: Path) -> None:
    """videos/a.mp4, b.avi, … and the table that the page describes."""
    render_demo(folder / "rendered", videos_per_class=2, size=(32, 40), seconds=(0.5, 0.6))
    videos = folder / "videos"
    videos.mkdir()
    rows = ["path,species,camera"]
    for number, file in enumerate(sorted((folder / "rendered").rglob("*.*"))[:4]):
        name = f"{'abcd'[number]}{file.suffix}"
        file.rename(videos / name)
        rows.append(f"{name},{('fox', 'owl')[number % 2]},{('north', 'south')[number // 2]}")
    (videos / "species.csv").write_text("\n".join(rows) + "\n")


def test_the_page_on_extending_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that check_task starts
    place_videos(tmp_path)
    done = []
    for kind, body in BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        first = body.splitlines()[0].removeprefix("# ")
        if kind in ("python", "yaml"):
            (tmp_path / first).write_text(body)
        if kind == "python":
            names = runpy.run_path(first)  # a script does its work; a test has to be called
            for name in (name for name in names if name.startswith("test_")):
                (tmp_path / name).mkdir()
                names[name](tmp_path / name)
        if kind == "bash":
            for line in body.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "vidprep"
                assert run([*arguments, *(["--device", "cpu"] if arguments[0] == "train" else [])]) == 0, line
        done.append((kind, first))
    assert len(done) == 11, done
    assert (tmp_path / "runs" / "small" / "weights.safetensors").exists()
