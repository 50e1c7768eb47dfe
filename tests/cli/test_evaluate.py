"""`vidprep evaluate`: tables on the screen, results in the run folder, exit statuses, two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import run
from tests.conftest import ROOT
from tests.trainer.evaluation_runs import SIZES, TINY, write_recipe, write_tiny_weights


@pytest.fixture
def files(tiny_dataset, tmp_path, monkeypatch):
    """Data set, weights and recipe; the current folder is empty."""
    data, weights = str(tiny_dataset(samples=15)), str(write_tiny_weights(tmp_path / "tiny.safetensors"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return data, weights, str(write_recipe(tmp_path / "recipe.yaml"))


def read(folder, name):
    return json.loads((Path(folder) / "evaluation" / f"{name}.json").read_text())


def sets():
    return [part for value in SIZES for part in ("--set", value)]


def test_retrieve_prints_a_table_and_writes_the_result(files, capsys, monkeypatch):
    data, weights, _ = files
    arguments = ["evaluate", "retrieve", weights, "--data", data, "--views", "2", "--device", "cpu", *sets()]
    monkeypatch.setattr(sys, "argv", ["vidprep", *arguments])
    assert run(arguments) == 0
    shown = capsys.readouterr()
    result = read("runs/tiny", "retrieve-tiny-test-2_clips")
    for k, hit in result["hits"].items():
        expected = "–" if hit is None else f"{100 * hit:.1f} %"
        assert f"top {k}\t{expected}\t" in shown.out
    assert "3 videos of split test in 12 of split train (tiny)" in shown.out
    assert "written: runs/tiny/evaluation/retrieve-tiny-test-2_clips.json" in shown.out
    assert "note: No top 20, 50: the gallery has 12 videos." in shown.err
    assert result["command"].startswith("vidprep evaluate retrieve")


def test_finetune_stops_and_goes_on(files, capsys):
    data, weights, recipe = files
    arguments = ["evaluate", "finetune", weights, "--data", data, "--recipe", recipe, "--views", "2", "--device", "cpu"]
    assert run([*arguments, "--max-time", "0.000001s"]) == 0
    assert "go on with" in capsys.readouterr().err
    assert run(arguments) == 1
    assert "--resume" in capsys.readouterr().err
    assert run([*arguments, "--resume"]) == 0
    shown = capsys.readouterr().out
    result = read("runs/tiny", "finetune-tiny-train-2_clips")
    assert f"top 1\t{100 * result['results']['last']['top1']:.1f} %" in shown
    assert "by class" in shown
    assert "top 5\t–" in shown


def test_errors_name_the_remedy(files, capsys):
    data, weights, _ = files
    assert run(["evaluate", "retrieve", weights, "--data", data, "--test-split", "valid"]) == 1
    assert "no split 'valid'; it has: test, train" in capsys.readouterr().err
    assert run(["evaluate", "retrieve", "runs/none", "--data", data]) == 1
    assert "there is no run folder or weights file runs/none" in capsys.readouterr().err
    assert run(["evaluate", "retrieve", "random:r3d-vcp", "--data", data]) == 1
    assert "did you mean r3d-vcop?" in capsys.readouterr().err
    assert run(["evaluate", "retrieve", weights, "--data", data, "--init", "else"]) == 2


def test_two_processes_find_what_one_finds(files):
    """torchrun's environment, two gloo ranks: features and scores are put back by number."""
    data, weights, _ = files
    common = [
        "evaluate",
        "retrieve",
        weights,
        "--data",
        data,
        "--views",
        "2",
        "--device",
        "cpu",
        "--batch",
        "2",
        *sets(),
    ]
    assert run([*common, "--out", "one"]) == 0
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "cli.main", *common, "--out", "two"],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    shown = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert "top 1" in shown[0]
    assert shown[1] == ""
    one, two = (read(folder, "retrieve-tiny-test-2_clips") for folder in ("one", "two"))
    assert one["hits"] == two["hits"]
    assert one["examples"] == two["examples"]


def test_random_networks_need_no_file(files, capsys):
    data, _, _ = files
    assert (
        run(["evaluate", "retrieve", f"random:{TINY}", "--data", data, "--out", "x", "--device", "cpu", *sets()]) == 0
    )
    assert "random weights" in capsys.readouterr().out
