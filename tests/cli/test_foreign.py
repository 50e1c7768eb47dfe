"""`vidprep index-shards` and `vidprep export` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.foreign import _FORMS
from cli.main import run
from shards.dataset import open_dataset
from tests.tiny import build_dataset
from tests.vidprep.foreign.tars import frame_sample, write_tar
from vidprep.export.exporting import FORMS


def test_index_then_look_at_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard, name in enumerate(("train-0", "val-0")):
        write_tar(tmp_path / f"t/{name}.tar", [frame_sample(2 * shard + seed, 6) for seed in range(2)])
    dest = str(tmp_path / "index")
    arguments = ["index-shards", f"{tmp_path}/t/*.tar", "-o", dest, "--split", "train=train-*", "--split", "val=val-*"]
    assert run([*arguments, "--fps", "30", "--workers", "1"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (done["event"], done["samples"], done["kind"], done["bad"]) == ("done", 4, "jpegs", 0)
    data = open_dataset(dest)
    assert [data[i].splits for i in range(4)] == [("train",), ("train",), ("val",), ("val",)]
    assert data[0].fps == 30
    assert run(["info", dest]) == 0
    assert "jpegs" in capsys.readouterr().out
    assert run([*arguments, "--fps", "24"]) == 1
    assert "was indexed with fps 30.0, this command asks for 24.0" in capsys.readouterr().err


def test_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_dataset(tmp_path / "data", samples=3, frames=4)
    arguments = ["export", str(tmp_path / "data"), str(tmp_path / "out"), "--to"]
    assert run([*arguments, "pace"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (done["event"], done["videos"], done["files"]) == ("done", 3, 12)
    assert run([*arguments, "svc"]) == 1
    assert "choose an empty folder" in capsys.readouterr().err
    assert run([*arguments, "hdf5"]) == 2


def test_the_command_knows_every_form() -> None:
    assert _FORMS == FORMS


@pytest.mark.parametrize(
    "wrong", [["index-shards"], ["index-shards", "a.tar", "--kind", "gif"], ["index-shards", "a.tar", "--split", "=x"]]
)
def test_wrong_values_are_wrong_usage(wrong: list[str]) -> None:
    assert run(wrong) == 2
