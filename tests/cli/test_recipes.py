"""`vidprep recipes`: list, show, diff."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cli.main import run
from trainer.config import load_recipe
from trainer.recipes.files import recipe_names


def test_the_list_fits_and_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes"]) == 0
    header, *lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert header.split() == ["recipe", "task", "backbone", "clip", "columns", "GPU", "GB", "published"]
    assert [line.split()[0] for line in lines] == recipe_names()
    assert max(map(len, [header, *lines])) <= 120
    (row,) = [line for line in lines if line.startswith("rspnet-finetune-ucf101-s3dg ")]
    assert row.split()[1:5] == ["classify", "s3dg-rsp", "64x224x224@25", "rgb"]
    assert row.endswith("89.9 UCF101")
    (row,) = [line for line in lines if line.startswith("statistics-c3d ")]
    assert "rgb,statistics" in row


def test_the_list_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom cli.main import run\n"
        "assert run(['recipes']) == 0\nassert run(['recipes', 'show', 'cpd-r50']) == 0\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 10  # 0.7 s on a machine that is not busy


def test_a_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == recipe_names()
    one = found["statistics-r3d"]
    assert (one["task"], one["backbone"], one["columns"]) == ("statistics", "r3d-vcop", ["rgb", "statistics"])
    assert (one["frames"], one["size"], one["fps"]) == (16, [112, 112], None)
    assert one["prepare"][1] == "vidprep flow DATA"
    assert found["rspnet-c3d"]["published"][0]["value"] == [76.71]


def test_one_is_shown_as_a_recipe_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "show", "rspnet-c3d"]) == 0
    shown = capsys.readouterr().out
    for piece in (
        "# prepare    vidprep pack manifest.jsonl DATA --short-side 256\n",
        "# train      vidprep train rspnet-c3d --data DATA --split train --gpus 4\n",
        "PeihaoChen/RSPNet at 2958779; python pretrain.py -c config/pretrain/c3d.jsonnet",
        "# columns    rgb\n",
        "stored frames",
        "UCF101 retrieval top 1/5/10/20/50 36 / 56.7 / 66.5 / 76.3 / 87.7 (supplement)",
        "rspnet-c3d.yaml (with the source of each value)",
    ):
        assert piece in shown, piece
    (tmp_path / "mine.yaml").write_text(shown)
    assert load_recipe(tmp_path / "mine.yaml").tree() == load_recipe("rspnet-c3d").tree()
    assert run(["recipes", "show", str(tmp_path / "mine.yaml")]) == 0  # one's own, without a section about
    assert "published" not in capsys.readouterr().out


def test_one_with_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "show", "pace-c3d", "--set", "train.batch=7"]) == 0
    shown = capsys.readouterr().out
    assert "  batch: 7\n" in shown
    assert "# changed    train.batch=7" in shown
    assert "# memory     not known; --memory estimates it" in shown
    assert run(["recipes", "show", "pace-c3d", "--set", "train.batch=7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory_gb"] is None


def test_the_file_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "show", "pace-c3d", "--source"]) == 0
    assert "[README] --clip_len 16" in capsys.readouterr().out


def test_one_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "show", "cpd-r50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] == load_recipe("cpd-r50").tree()
    assert (found["fps"], found["columns"], found["gpus"]) == (7.5, ["rgb", "captions"], 8)
    assert Path(found["file"]).name == "cpd-r50.yaml"


def test_two_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "diff", "pace-c3d", "pace-s3dg"]) == 0
    shown = capsys.readouterr().out
    assert "-  frames: 16\n+  frames: 64" in shown
    assert "-prepare    vidprep pack manifest.jsonl DATA --size 128x171" in shown
    assert "-published  UCF101 retrieval" in shown
    assert run(["recipes", "diff", "pace-c3d", "pace-c3d"]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert run(["recipes", "diff", "pace-c3d", "rspnet-c3d", "--set", "data.frames=8"]) == 0
    assert "frames: 16" not in capsys.readouterr().out


def test_memory_is_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["recipes", "show", "demo-pace", "--memory", "--batch", "16", "--gpus", "2"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "# memory of one GPU, estimate from shapes: 8 videos a step (16 on 2)\n" in shown
    assert "memory     " not in shown
    assert yaml.safe_load(shown) == load_recipe("demo-pace").tree()
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["memory"]
    parts = ("weights", "kept", "optimizer", "exchange", "clips", "step")
    assert found["total"] == sum(found[part] for part in parts) > 0
    assert (found["batch"], found["gpus"]) == (16, 2)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["recipes", "show"], 2, "Missing argument"),
        (["recipes", "show", "pace-c3x"], 1, "did you mean pace-c3d?"),
        (["recipes", "diff", "pace-c3d"], 2, "Missing argument"),
        (["recipes", "pace-c3d"], 2, "No such command 'pace-c3d'"),
        (["recipes", "show", "pace-c3d", "--batch", "8"], 1, "go with --memory"),
    ],
)
def test_mistakes_end_with_a_message(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == status
    assert said in capsys.readouterr().err


def test_yaml_of_every_recipe_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    for name in recipe_names():
        assert run(["recipes", "show", name]) == 0
        assert yaml.safe_load(capsys.readouterr().out) == load_recipe(name).tree()
