"""`vidprep train`: options, lines, exit statuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest
import yaml

from cli.main import run
from cli.train import format_event, train
from tests.trainer.toys import toy_recipe
from trainer.config import load_recipe

Make = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(toy_recipe(train={"steps": 4})))
    return str(file)


def test_options_of_train_are_a_promise() -> None:
    names = [opt for p in train.params if isinstance(p, click.Option) for opt in p.opts]
    assert names == (
        [
            "--data",
            "--out",
            "--set",
            "--resume",
            "--init",
            "--split",
            "--keep",
            "--device",
            "--gpus",
            "--max-time",
            "--log",
            "--skip-nan",
        ]
    )


def test_a_run_from_start_to_end(
    tiny_dataset: Make, tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train", recipe, "--data", str(tiny_dataset()), "--out", str(out), "--device", "cpu"]
    assert run([*command, "--split", "train", "--keep", "0.5", "--set", "optim.lr=1e-3"]) == 0
    shown = capsys.readouterr().out
    for piece in (
        "4 samples of",
        "step 4 of 4",
        "loss ",
        "lr 0.001",
        "clips/s",
        "data wait",
        "memory",
        "vidprep evaluate",
    ):
        assert piece in shown, piece
    saved = load_recipe(out / "recipe.yaml")
    assert (saved.data.split, saved.data.keep, saved.optim.lr) == ("train", 0.5, 1e-3)
    assert run(command) == 1
    assert "Continue it with --resume" in capsys.readouterr().err


def test_a_list_of_keys_and_a_split_named_like_a_number(
    tiny_dataset: Make, tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys: 1.txt"
    keys.write_text("video_001\nvideo_002\nvideo_003\nvideo_004\n")
    command = ["train", recipe, "--data", str(tiny_dataset()), "--device", "cpu", "--out", str(tmp_path / "run")]
    assert run([*command, "--keep", str(keys)]) == 0
    assert "4 samples of" in capsys.readouterr().out
    assert (
        run(["train", recipe, "--data", str(tmp_path / "dataset1"), "--out", str(tmp_path / "x"), "--split", "1"]) == 1
    )
    assert "'1'" in capsys.readouterr().err


def test_max_time_ends_with_status_0_and_the_command_that_goes_on(
    tiny_dataset: Make, tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", recipe, "--data", str(tiny_dataset()), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert run([*command, "--max-time", "0s"]) == 0
    error = capsys.readouterr().err
    assert "stopped (the time is up) after step 1 of 4; go on with:\nvidprep train " in error
    again = error.strip().splitlines()[-1].split()[1:]
    assert run(again) == 0
    assert "going on at step 1 of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train"], 2, "Missing argument"),
        (["train", "pace-c3d"], 2, "--data"),
        (["train", "pace-c3d", "--data", "nowhere"], 1, "nowhere"),
        (["train", "pace-c3x", "--data", "nowhere"], 1, "did you mean pace-c3d?"),
        (["train", "pace-c3d", "--data", "nowhere", "--set", "optim.lrr=1"], 1, "did you mean lr?"),
        (["train", "pace-c3d", "--data", "nowhere", "--max-time", "soon"], 1, "examples: 90s, 45m, 2h"),
        (["train", "pace-c3d", "--data", "nowhere", "--log", "csv,mlflow"], 1, "allowed: csv, tensorboard, wandb"),
        (["train", "pace-c3d", "--data", "nowhere", "--device", "tpu"], 1, "allowed: auto, cpu, cuda, cuda:N"),
    ],
)
def test_mistakes_end_with_a_message(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == status
    assert said in capsys.readouterr().err


def test_a_log_line_shows_loss_rate_speed_waiting_and_memory() -> None:
    event = {"event": "log", "step": 1200, "total": 57222, "epoch": 0.3775, "loss": 1.38629, "accuracy": 0.25}
    rates = {"lr": 1e-3, "clips_per_s": 1234.5, "data_wait": 0.034, "memory_mb": 20480.2}
    assert format_event({**event, **rates}) == (
        "step 1,200 of 57,222  epoch 0.38  loss 1.386  accuracy 0.25  lr 0.001  1,234.5 clips/s  data wait 3%  "
        "memory 20,480 MB"
    )
