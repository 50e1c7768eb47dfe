"""Several processes are one run: same samples, same gradients, one end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shards.errors import UserError
from tests.trainer.toys import THIS, assert_same_weights, newest_tensors, start_vidprep, toy_recipe
from trainer.engine import train
from trainer.engine.distributed import Ranks, SharedError, open_ranks, seed_step
from trainer.engine.launch import launch
from trainer.engine.stop import REASONS, Stop

Make = Callable[..., Path]


def run_two(tmp_path: Path, data: Path, recipe: dict[str, Any], *options: str) -> tuple[Any, Path]:
    """Start the recipe as two CPU processes."""
    file, run = tmp_path / "two.yaml", tmp_path / "two"
    file.write_text(yaml.safe_dump(recipe))
    arguments = ["train", str(file), "--data", str(data), "--out", str(run), "--device", "cpu", "--gpus", "2", *options]
    return start_vidprep(*arguments), run


def recorded(folder: Path, rank: int) -> dict[int, list[int]]:
    lines = (folder / f"{rank}.txt").read_text().splitlines()
    return {int(step): [int(s) for s in samples.split(",")] for step, _, samples in (x.partition(":") for x in lines)}


def test_two_processes_see_the_samples_of_one_and_learn_the_same(tiny_dataset: Make, tmp_path: Path) -> None:
    """A network without batch normalisation, so that the gradient of the whole batch is the mean of its halves."""
    data, seen = tiny_dataset(samples=11), {}
    runs = {}
    for world in (1, 2):
        folder = tmp_path / f"seen{world}"
        folder.mkdir()
        recipe = toy_recipe(
            task={"name": f"{THIS}:Recording", "folder": str(folder)},
            backbone={"name": f"{THIS}:Plain"},
            optim={"name": "sgd", "lr": 0.2},
        )
        if world == 1:
            runs[1] = train(recipe, data, out=tmp_path / "one", device="cpu").run
        else:
            process, runs[2] = run_two(tmp_path, data, recipe)
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
            assert output.count("saved ") == 3  # rank 0 alone speaks
        seen[world] = [recorded(folder, rank) for rank in range(world)]
    assert list(seen[1][0]) == list(range(8))
    for step, samples in seen[1][0].items():
        assert seen[2][0][step] + seen[2][1][step] == samples
    one, two = newest_tensors(runs[1]), newest_tensors(runs[2])
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    with (runs[1] / "log.csv").open() as a, (runs[2] / "log.csv").open() as b:
        for first, second in zip(a.readlines()[1:], b.readlines()[1:], strict=True):
            losses = [float(line.split(",")[2]) for line in (first, second)]  # the mean over ranks
            assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_bit_for_bit(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    recipe = toy_recipe(task={"name": f"{THIS}:Noisy"}, train={"steps": 60, "save_every": 5, "log_every": 30})
    process, run = run_two(tmp_path, data, recipe)
    for line in process.stdout:
        if line.startswith("saved"):
            break
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 143, rest
    assert rest.count("stopped (SIGTERM) after step") == 1
    assert "--resume --device cpu --gpus 2" in rest
    process, run = run_two(tmp_path, data, recipe, "--resume")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    stopped = run.rename(tmp_path / "stopped")
    process, run = run_two(tmp_path, data, recipe)
    assert process.wait(timeout=120) == 0
    assert_same_weights(run, stopped)


def test_a_bad_loss_on_another_rank_is_told_once_by_the_first(tiny_dataset: Make, tmp_path: Path) -> None:
    recipe = toy_recipe(task={"name": f"{THIS}:Breaks"})
    process, _ = run_two(tmp_path, tiny_dataset(), recipe)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.count("error: loss is nan in step 5, on the videos video_0") == 1, output


def test_launch_gives_ranks_and_hands_back_the_status_of_the_one_that_failed(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; r = os.environ['RANK'];"
        f"pathlib.Path({str(tmp_path)!r}, r).write_text(os.environ['WORLD_SIZE'] + os.environ['LOCAL_RANK']);"
        "sys.exit(7 if r == '1' else 0)"
    )
    assert launch(["-c", code], processes=3) == 7
    assert [(tmp_path / str(r)).read_text() for r in range(3)] == ["30", "31", "32"]


def test_launch_ends_ranks_that_wait_for_one_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.engine.launch._DIED_S", 0.5)
    code = "import os, signal, time; os.environ['RANK'] == '0' or os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)"
    assert launch(["-c", code], processes=2) == 128 + signal.SIGKILL


def test_ranks_end_when_their_launcher_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REASONS[Stop().reason()] == ""
    monkeypatch.setenv("VIDPREP_LAUNCHER", "1")
    assert REASONS[Stop().reason()] == "launcher"


def test_a_world_without_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"MASTER_ADDR.*--gpus N, or torchrun"), open_ranks("cpu"):
        pass


def test_one_process_agrees_with_itself() -> None:
    ranks = Ranks(0, 1, torch.device("cpu"))
    assert ranks.most([3, 0]) == [3, 0]
    assert ranks.gather("x") == ["x"]
    assert ranks.on_main(lambda: 5) == ranks.on_all(lambda: 5) == 5


@pytest.mark.parametrize(("rank", "error"), [(0, UserError), (1, SharedError), (2, SharedError)])
def test_an_error_of_one_process_is_raised_on_all_and_told_by_the_first(
    rank: int, error: type[UserError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes 0 and 2 fail, 1 does not."""
    told = ["broken", None, "broken too"]
    ranks = Ranks(rank, 3, torch.device("cpu"), control="a group")
    monkeypatch.setattr(Ranks, "gather", lambda self, value: told if value == told[self.rank] else None)

    def call() -> str:
        if told[rank] is not None:
            raise UserError(told[rank])
        return "made"

    with pytest.raises(error, match=r"^broken$") as raised:
        ranks.on_all(call)
    assert type(raised.value) is error
    told[:] = [None] * 3
    assert ranks.on_all(call) == "made"


def test_random_numbers_of_a_step_depend_on_seed_step_and_rank_alone() -> None:
    def draw(*where: int) -> float:
        seed_step(*where)
        return float(torch.rand(()))

    drawn = {where: draw(*where) for where in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 123456, 0)]}
    assert len(set(drawn.values())) == len(drawn)
    assert {where: draw(*where) for where in reversed(drawn)} == drawn
