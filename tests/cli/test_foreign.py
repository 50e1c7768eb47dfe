"""`vidprep index-shards` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import run
from shards.dataset import open_dataset
from tests.vidprep.foreign.tars import frame_sample, write_tar


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


@pytest.mark.parametrize(
    "wrong", [["index-shards"], ["index-shards", "a.tar", "--kind", "gif"], ["index-shards", "a.tar", "--split", "=x"]]
)
def test_wrong_values_are_wrong_usage(wrong: list[str]) -> None:
    assert run(wrong) == 2
