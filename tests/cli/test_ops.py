"""`vidprep merge`, `split`, `reshard` and `subset` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import run
from shards.dataset import open_dataset
from tests.tiny import build_dataset


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return build_dataset(tmp_path / "a", samples=10, per_shard=4)


def test_there_and_back(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Split by class, merge again, take a part, in other shards: every command line once."""
    parts, whole, part, new = (str(tmp_path / name) for name in ("parts", "whole", "part", "new"))
    assert run(["split", str(source), parts, "--by", "class"]) == 0
    assert run(["merge", f"{parts}/run", f"{parts}/walk", whole, "--name", "both"]) == 0
    assert run(["subset", whole, part, "--class", "r*", "--split", "train", "--fraction", "75%"]) == 0
    assert run(["reshard", part, new, "--shard-size", "1MB"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["samples"], last["shards"]) == ("done", 3, 1)
    assert open_dataset(whole).meta.name == "both" and len(open_dataset(whole)) == 10
    assert {open_dataset(new)[i].label for i in range(3)} == {"run"}


def test_what_is_wrong(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = str(tmp_path / "new")
    assert run(["merge", str(source), str(source), new]) == 1
    assert "--prefix" in capsys.readouterr().err
    assert run(["merge", str(source), str(source), new, "--prefix", "a-", "--prefix", "b-"]) == 0
    assert len(open_dataset(new)) == 20
    assert run(["merge", new]) == 2
    assert run(["subset", str(source), str(tmp_path / "x")]) == 1
    assert "say what to take" in capsys.readouterr().err
