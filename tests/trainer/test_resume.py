"""A run that was stopped, however, ends with the bytes of one that was not."""

from __future__ import annotations

import csv
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shards.errors import DataError, UserError
from shards.samples import annotate
from tests.tiny import build_dataset
from tests.trainer.toys import THIS, assert_same_weights, newest_tensors, start_vidprep, toy_recipe
from trainer.engine import train
from trainer.engine.checkpoint import MODEL, checkpoint_paths

Make = Callable[..., Path]
STEPS = 60


def steps_in(run: Path) -> list[int]:
    with (run / "log.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def long_recipe() -> dict[str, Any]:
    """Noise from torch's generator, colour jitter, momentum and batch statistics."""
    train_ = {"steps": STEPS, "save_every": 5, "log_every": 5}
    return toy_recipe(name="long", task={"name": f"{THIS}:Noisy"}, data={"workers": 1}, train=train_)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data set, run) of the long recipe that nobody stopped, without loader processes."""
    folder = tmp_path_factory.mktemp("whole")
    data, here = build_dataset(folder / "data"), ["data.workers=0"]
    return data, train(long_recipe(), data, out=folder / "run", device="cpu", overrides=here).run


def start_run(folder: Path, data: Path) -> tuple[Any, Path]:
    """The long recipe in a process of its own that has just saved its first checkpoint."""
    file, run = folder / "long.yaml", folder / "stopped"
    file.write_text(yaml.safe_dump(long_recipe()))
    process = start_vidprep("train", str(file), "--data", str(data), "--out", str(run), "--device", "cpu")
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("saved"):
            return process, run
    raise AssertionError(output)


INTERRUPT = pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow)


@pytest.mark.parametrize(("how", "workers"), [(signal.SIGKILL, 2), (signal.SIGTERM, 0), INTERRUPT])
def test_a_stopped_run_goes_on_bit_for_bit_with_any_number_of_workers(
    uninterrupted: tuple[Path, Path], tmp_path: Path, how: signal.Signals, workers: int
) -> None:
    data, whole = uninterrupted
    process, run = start_run(tmp_path, data)
    process.send_signal(how)
    rest, _ = process.communicate(timeout=60)
    step = int(checkpoint_paths(run / "checkpoints")[-1].name.removeprefix("step-"))
    assert 5 <= step < STEPS
    if how is signal.SIGKILL:
        assert (process.returncode, step % 5) == (-signal.SIGKILL, 0)
    else:
        assert process.returncode == 128 + how
        assert f"stopped ({how.name}) after step {step} of {STEPS}; go on with:" in rest
        assert f"vidprep train {run}/recipe.yaml --data {data} --out {run} --resume" in rest
    here = [f"data.workers={workers}"]
    resumed = train(run / "recipe.yaml", data, out=run, resume=True, device="cpu", overrides=here)
    assert resumed.finished
    assert_same_weights(whole, run)
    assert steps_in(run) == steps_in(whole) == list(range(5, STEPS + 1, 5))


def test_every_checkpoint_leads_to_the_same_end(tiny_dataset: Make, tmp_path: Path) -> None:
    data, recipe = tiny_dataset(), toy_recipe(optim={"name": "adamw", "lr": 0.01})
    recipe["train"].update(save_every=1, keep=99)
    recipe["schedule"] = {"name": "cosine", "warmup": 1}
    whole = train(recipe, data, out=tmp_path / "whole", device="cpu").run
    for path in checkpoint_paths(whole / "checkpoints")[:-1:3]:
        run = Path(shutil.copytree(whole, tmp_path / path.name))
        for later in checkpoint_paths(run / "checkpoints"):
            if later.name > path.name:
                shutil.rmtree(later)
        train(recipe, data, out=run, resume=True, device="cpu")
        assert_same_weights(whole, run)


def test_resuming_a_finished_run_does_nothing_and_more_epochs_extend_it(tiny_dataset: Make, tmp_path: Path) -> None:
    data, recipe = tiny_dataset(), toy_recipe(schedule={"name": "step", "every": 1, "gamma": 0.5})
    run = train(recipe, data, out=tmp_path / "run", device="cpu", overrides=["train.steps=5"]).run
    before = newest_tensors(run)
    again = train(recipe, data, out=run, device="cpu", resume=True, overrides=["train.steps=5"])
    assert (again.step, again.finished, again.log) == (5, True, {})
    assert newest_tensors(run).keys() == before.keys()
    events: list[dict[str, Any]] = []
    longer = train(recipe, data, out=run, device="cpu", resume=True, on_event=events.append)
    assert longer.step == 8
    assert next(e["changed"] for e in events if e["event"] == "resume") == ["train.steps: 5 → 8"]
    assert_same_weights(run, train(recipe, data, out=tmp_path / "whole", device="cpu").run)


@pytest.fixture(scope="module")
def half_a_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data set, run) with 6 steps done; tests copy the run."""
    folder = tmp_path_factory.mktemp("half")
    data = build_dataset(folder / "data")
    return data, train(toy_recipe(train={"steps": 6}), data, out=folder / "run", device="cpu").run


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("train.batch=5", r"train.batch: 4 → 5"),
        ("train.seed=3", r"train.seed: 0 → 3"),
        ("data.repeats=2", r"data.repeats: 1 → 2"),
        ("data.split=train", r"data.split: None → train(.|\n)*data: 10 samples .* → 8 samples of"),
        ("optim.lr=0.3", r"optim.lr: 0.02 → 0.3"),
        ("backbone.base_width=2", r"backbone.base_width: 1 → 2"),
        ("task.paces=3", r"task.paces: None → 3"),
        ("schedule={name: step, every: 1}", r"schedule.name: constant → step"),
        ("train.precision=float32", r"train.precision: auto → float32"),
    ],
)
def test_changes_that_make_other_steps_are_refused(
    half_a_run: tuple[Path, Path], tmp_path: Path, change: str, named: str
) -> None:
    data, run = half_a_run
    run = Path(shutil.copytree(run, tmp_path / "run"))
    with pytest.raises(UserError, match=f"cannot go on at step 6(.|\n)*{named}(.|\n)*--out OTHER"):
        train(toy_recipe(), data, out=run, resume=True, device="cpu", overrides=[change])
    assert not (run / "recipe.yaml").read_text().count("steps: 8")  # nothing was changed


@pytest.mark.parametrize(
    "change",
    ["train.log_every=1", "train.save_every=2", "train.keep=5", "data.workers=1", "data.threads=2", "description=x",
     "schedule={name: milestones, at: [2.8]}"],
)  # fmt: skip
def test_changes_that_keep_the_steps_are_accepted(half_a_run: tuple[Path, Path], tmp_path: Path, change: str) -> None:
    data, run = half_a_run
    run = Path(shutil.copytree(run, tmp_path / "run"))
    assert train(toy_recipe(), data, out=run, resume=True, device="cpu", overrides=[change]).step == 8


def test_another_number_of_threads_is_told_since_sums_round_in_another_way(
    half_a_run: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = half_a_run
    run = Path(shutil.copytree(run, tmp_path / "run"))
    events: list[dict[str, Any]] = []
    torch.set_num_threads(2)
    try:
        train(toy_recipe(), data, out=run, resume=True, device="cpu", on_event=events.append)
    finally:
        torch.set_num_threads(1)
    changed = next(e["changed"] for e in events if e["event"] == "resume")
    assert "device: cpu (1 threads) → cpu (2 threads) (equal up to rounding)" in changed


def test_a_cosine_cannot_be_lengthened_nor_a_run_shortened(tiny_dataset: Make, tmp_path: Path) -> None:
    data, recipe = tiny_dataset(), toy_recipe(schedule={"name": "cosine"}, train={"steps": 4})
    run = train(recipe, data, out=tmp_path / "run", device="cpu").run
    with pytest.raises(UserError, match=r"train.steps: 4 → 8"):
        train(recipe, data, out=run, resume=True, device="cpu", overrides=["train.steps=8"])
    recipe["schedule"] = {"name": "constant"}
    other = train(recipe, data, out=tmp_path / "other", device="cpu").run
    with pytest.raises(UserError, match=r"is at step 4 already; train.epochs or train.steps end at 2"):
        train(recipe, data, out=other, resume=True, device="cpu", overrides=["train.steps=2"])


def test_changed_labels_are_another_data_set_but_another_place_is_not(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    run = train(toy_recipe(train={"steps": 3}), data, out=tmp_path / "run", device="cpu").run
    moved = Path(shutil.move(data, tmp_path / "moved"))
    assert train(toy_recipe(), moved, out=run, resume=True, device="cpu", overrides=["train.steps=4"]).step == 4
    changes = tmp_path / "changes.csv"
    changes.write_text("key,label\nvideo_000,walk\n")
    annotate(moved, changes)
    with pytest.raises(UserError, match=r"data: 10 samples .*, not the same"):
        train(toy_recipe(), moved, out=run, resume=True, device="cpu")


def test_a_run_without_checkpoint_starts_at_step_0_and_may_change(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    run = train(toy_recipe(), data, out=tmp_path / "run", device="cpu", resume=True).run  # nothing there yet
    shutil.rmtree(run / "checkpoints")
    again = train(toy_recipe(), data, out=run, device="cpu", resume=True, overrides=["train.batch=2"])
    assert again.step == 8
    assert steps_in(run) == [2, 4, 6, 8]


def test_a_damaged_checkpoint_is_an_error_and_removing_it_goes_on(
    half_a_run: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = half_a_run
    run = Path(shutil.copytree(run, tmp_path / "run"))
    newest = checkpoint_paths(run / "checkpoints")[-1]
    (newest / MODEL).write_bytes((newest / MODEL).read_bytes()[:-1])
    with pytest.raises(DataError, match="remove that folder to go on from step-00000003"):
        train(toy_recipe(), data, out=run, resume=True, device="cpu")
    shutil.rmtree(newest)
    train(toy_recipe(), data, out=run, resume=True, device="cpu")
    assert_same_weights(run, train(toy_recipe(), data, out=tmp_path / "whole", device="cpu").run)


def test_the_convention_taken_over_from_weights_survives_resuming(tiny_dataset: Make, tmp_path: Path) -> None:
    from trainer import load_backbone
    from trainer.models import build_backbone
    from trainer.models.base import InputConvention
    from trainer.models.weights import save_weights

    backbone = build_backbone("r3d-vcop", base_width=1)
    backbone.convention = InputConvention(mean=(0.5, 0.4, 0.3))
    save_weights(tmp_path / "w.safetensors", backbone)
    data, short = tiny_dataset(), ["train.steps=3"]
    run = train(
        toy_recipe(), data, out=tmp_path / "run", init=tmp_path / "w.safetensors", device="cpu", overrides=short
    ).run
    train(toy_recipe(), data, out=run, resume=True, device="cpu")
    assert load_backbone(run).convention == backbone.convention
    options: dict[str, Any] = {"init": tmp_path / "w.safetensors", "device": "cpu"}
    assert_same_weights(run, train(toy_recipe(), data, out=tmp_path / "whole", **options).run)
