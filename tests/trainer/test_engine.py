"""A run from start to end, and every way it refuses to start or to go on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.errors import StorageError, UserError
from tests.trainer.toys import THIS, assert_same_weights, newest_tensors, toy_recipe
from trainer.config import load_recipe
from trainer.engine import train
from trainer.engine.device import choose_device, visible_gpus
from trainer.engine.optim import build_optimizer, load_optimizer, set_learning_rate
from trainer.engine.runs import locked
from trainer.engine.stop import parse_duration
from trainer.models import build_backbone
from trainer.models.weights import save_weights
from trainer.tasks import build_task

Make = Callable[..., Path]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_a_recipe_a_log_checkpoints_and_weights(tiny_dataset: Make, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    result = train(toy_recipe(), tiny_dataset(), out=tmp_path / "run", device="cpu", on_event=events.append)
    assert (result.finished, result.stopped, result.step, result.total) == (True, "", 8, 8)
    assert result.epoch == pytest.approx(8 * 4 / 10)
    run = result.run
    assert load_recipe(run / "recipe.yaml") == load_recipe(toy_recipe())
    log = rows(run / "log.csv")
    assert [int(row["step"]) for row in log] == [2, 4, 6, 8]
    columns = ["step", "epoch", "loss", "accuracy", "lr", "clips_per_s", "data_wait", "memory_mb"]
    assert list(log[0]) == columns
    assert all(float(row["clips_per_s"]) > 0 and 0 <= float(row["data_wait"]) <= 1 for row in log)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
    info = json.loads((run / "run.json").read_text())
    assert (info["step"], info["data"]["samples"], info["classes"]) == (8, 10, ["run", "walk"])
    assert "--resume" in info["resume"]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start"
    assert kinds.count("step") == 8
    assert kinds.count("checkpoint") == 3
    assert all(json.dumps(event) for event in events)


def test_a_run_depends_on_its_seed_alone(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    torch.manual_seed(1)
    one = train(toy_recipe(), data, out=tmp_path / "a", device="cpu").run
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert_same_weights(one, train(toy_recipe(), data, out=tmp_path / "b", device="cpu").run)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's generator is left alone
    other = train(toy_recipe(), data, out=tmp_path / "c", device="cpu", overrides=["train.seed=1"]).run
    assert not torch.equal(newest_tensors(one)["head.weight"], newest_tensors(other)["head.weight"])


def test_the_loop_is_the_plain_loop(tiny_dataset: Make, tmp_path: Path) -> None:
    """Against the ten lines that anybody would write, with torch's own scheduler."""
    from trainer.data.loader import Loader

    data = tiny_dataset()
    schedule = {"name": "step", "every": 0.8, "gamma": 0.5}  # 2 steps
    recipe = load_recipe(
        toy_recipe(optim={"name": "sgd", "lr": 0.02, "weight_decay": 0.1, "clip_norm": 0.5}, schedule=schedule)
    )
    run = train(recipe, data, out=tmp_path / "run", device="cpu").run
    torch.manual_seed(0)
    backbone = build_backbone("r3d-vcop", base_width=1)
    task = build_task("pace", backbone=backbone, data=recipe.data)
    sgd = torch.optim.SGD(task.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(sgd, 2, 0.5)
    with Loader(data, task.spec, batch=4, seed=0, workers=0) as loader:
        for batch in loader.batches(0, 8):
            sgd.zero_grad()
            task(batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), 0.5)
            sgd.step()
            scheduler.step()
    found = newest_tensors(run)
    for name, tensor in task.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


def test_bf16_is_refused_on_the_cpu(tiny_dataset: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bf16 on the CPU.*--set train.precision=auto"):
        train(toy_recipe(), tiny_dataset(), out=tmp_path / "run", device="cpu", overrides=["train.precision=bf16"])


def test_channels_last_and_fused_stay_close_to_the_plain_step(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    short = ["train.steps=2", "backbone.base_width=4"]
    plain = train(toy_recipe(), data, out=tmp_path / "plain", device="cpu", overrides=short)
    fast = ["train.channels_last=true", "train.fused=true"]
    other = train(toy_recipe(), data, out=tmp_path / "fast", device="cpu", overrides=[*short, *fast])
    assert other.log["loss"] == pytest.approx(plain.log["loss"], rel=1e-4)


def test_backbone_rate_and_decay_go_to_their_groups() -> None:
    recipe = load_recipe(
        toy_recipe(
            optim={"name": "adamw", "lr": 0.1, "weight_decay": 0.2, "backbone_lr_scale": 0.1, "decay_all": False}
        )
    )
    task = build_task("pace", backbone=build_backbone("r3d-vcop", base_width=1), data=recipe.data)
    optimizer = build_optimizer(task, recipe.optim, fused=None)
    set_learning_rate(optimizer, 1.0)
    options = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in task.named_parameters():
        expected = (0.1 if name.startswith("backbone.") else 1.0, 0.2 if parameter.ndim > 1 else 0.0)
        assert options[id(parameter)] == pytest.approx(expected), name
    again = build_optimizer(task, recipe.optim, fused=None)
    load_optimizer(again, {**optimizer.state_dict()})
    assert [g["scale"] for g in again.param_groups] == [g["scale"] for g in optimizer.param_groups]


def test_biases_have_a_rate_of_their_own() -> None:
    optim = {"name": "sgd", "lr": 0.1, "weight_decay": 0.2, "backbone_lr_scale": 0.5, "bias_lr_scale": 2.0}
    recipe = load_recipe(toy_recipe(optim=optim))
    task = build_task("pace", backbone=build_backbone("c3d-bn", base_width=1), data=recipe.data)
    optimizer = build_optimizer(task, recipe.optim, fused=None)
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    expected = {"backbone.bn1.weight": 0.5, "backbone.bn1.bias": 1.0, "head.weight": 1.0, "head.bias": 2.0}
    found = dict(task.named_parameters())
    assert {name: rates[id(found[name])] for name in expected} == {name: (lr, 0.2) for name, lr in expected.items()}


def test_validation_measures_each_held_out_sample_once_and_names_the_best(tiny_dataset: Make, tmp_path: Path) -> None:
    recipe = toy_recipe(task={"name": "classify"}, data={"split": "train"}, train={"steps": 4, "keep": 1})
    recipe["train"]["validation"] = {"split": "test", "every": 1, "metric": "loss"}
    events: list[dict[str, Any]] = []
    run = train(recipe, tiny_dataset(samples=15), out=tmp_path / "run", device="cpu", on_event=events.append).run
    found = rows(run / "validation.csv")
    assert [int(row["step"]) for row in found] == [3, 4]
    assert {round(float(row["accuracy"]) * 3, 6) for row in found} <= {0, 1, 2, 3}  # 3 videos, of a batch of 4
    best = min(found, key=lambda row: float(row["loss"]))
    assert (run / "checkpoints" / "best").resolve().name == f"step-{int(best['step']):08d}"
    assert "validation" in {event["event"] for event in events}
    # Validation changes nothing in the training.
    recipe["train"]["validation"] = None
    assert_same_weights(run, train(recipe, tiny_dataset(samples=15), out=tmp_path / "other", device="cpu").run)


def test_an_unknown_validation_split_or_metric_is_named(tiny_dataset: Make, tmp_path: Path) -> None:
    data, recipe = tiny_dataset(), toy_recipe()
    with pytest.raises(UserError, match="train"):
        train(recipe, data, out=tmp_path / "a", device="cpu", overrides=["train.validation={split: vall}"])
    wrong = ["train.validation={split: test, metric: f1}", "train.steps=1"]
    with pytest.raises(UserError, match=r"metric is 'f1'; task pace gives: loss, accuracy"):
        train(recipe, data, out=tmp_path / "b", device="cpu", overrides=wrong)


def test_a_loss_that_is_nan_stops_with_step_videos_and_last_checkpoint(tiny_dataset: Make, tmp_path: Path) -> None:
    recipe = toy_recipe(task={"name": f"{THIS}:Breaks"})
    with pytest.raises(UserError) as error:
        train(recipe, tiny_dataset(), out=tmp_path / "run", device="cpu")
    text = str(error.value)
    assert "loss is nan in step 5, on the videos video_0" in text
    assert "last good checkpoint is of step 3" in text
    assert "--set optim.lr=0.002 --init" in text
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]


def test_weights_that_are_not_finite_are_never_saved(tiny_dataset: Make, tmp_path: Path) -> None:
    recipe = toy_recipe(task={"name": f"{THIS}:Explodes"}, train={"steps": 5})
    with pytest.raises(UserError, match="weights are not finite after step 5"):
        train(recipe, tiny_dataset(), out=tmp_path / "run", device="cpu")
    assert all(t.isfinite().all() for t in newest_tensors(tmp_path / "run").values() if t.is_floating_point())


def test_a_task_without_loss_is_told_so(tiny_dataset: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gave error; one of its scalars must be 'loss'"):
        train(toy_recipe(task={"name": f"{THIS}:Lossless"}), tiny_dataset(), out=tmp_path / "run", device="cpu")


def test_an_existing_run_needs_resume_and_a_foreign_folder_another_place(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    train(toy_recipe(), data, out=tmp_path / "run", device="cpu", overrides=["train.steps=1"])
    with pytest.raises(UserError, match=r"a run of toy, step 1. Continue it with --resume, or choose another --out"):
        train(toy_recipe(), data, out=tmp_path / "run", device="cpu")
    with pytest.raises(UserError, match="is not a run; choose another --out"):
        train(toy_recipe(), data, out=data, device="cpu")
    with pytest.raises(UserError, match="is not a run"):
        train(toy_recipe(), data, out=data, resume=True, device="cpu")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        train(toy_recipe(), data, out=tmp_path / "file", device="cpu")


def test_two_processes_do_not_train_into_one_folder(tiny_dataset: Make, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(UserError, match=r"is being trained by process \d+"):
        train(toy_recipe(), tiny_dataset(), out=tmp_path / "run", device="cpu")


def test_the_default_run_folder_names_recipe_and_data_set(
    tiny_dataset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_dataset()
    monkeypatch.chdir(tmp_path)
    assert train(toy_recipe(train={"steps": 1}), data, device="cpu").run == Path("runs/toy-tiny")


def test_a_run_folder_that_cannot_be_written_is_an_error(tiny_dataset: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        train(toy_recipe(), tiny_dataset(), out=tmp_path / "file" / "run", device="cpu")


def test_init_starts_from_weights_or_a_run_and_says_how_much_matched(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    first = train(toy_recipe(), data, out=tmp_path / "first", device="cpu", overrides=["train.steps=1"]).run
    events: list[dict[str, Any]] = []
    frozen = ["optim.lr=1e-30", "optim.momentum=0", "train.steps=1"]
    options: dict[str, Any] = {"device": "cpu", "overrides": frozen, "on_event": events.append}
    second = train(toy_recipe(task={"name": "classify"}), data, out=tmp_path / "second", init=first, **options).run
    message = next(event["message"] for event in events if event["event"] == "init")
    assert "r3d-vcop starts from" in message
    assert "tensors match (100 %)" in message
    one, other = newest_tensors(first), newest_tensors(second)
    assert torch.equal(one["backbone.stem.conv.weight"], other["backbone.stem.conv.weight"])
    weights = first / "weights.safetensors"
    events.clear()
    train(toy_recipe(init=str(weights)), data, out=tmp_path / "third", **options)
    assert str(weights) in events[0]["message"]


def test_init_with_other_weights_is_an_error_with_a_table(tiny_dataset: Make, tmp_path: Path) -> None:
    save_weights(tmp_path / "c3d.safetensors", build_backbone("c3d-bn", base_width=1))
    with pytest.raises(
        UserError, match=r"holds c3d-bn base_width=1 and does not fit r3d-vcop base_width=1(.|\n)*missing"
    ):
        train(toy_recipe(), tiny_dataset(), out=tmp_path / "run", init=tmp_path / "c3d.safetensors", device="cpu")
    with pytest.raises(UserError, match="there is no run folder or weights file"):
        train(toy_recipe(), tiny_dataset(), out=tmp_path / "other", init=tmp_path / "nothing", device="cpu")


def test_max_time_saves_and_tells_how_to_go_on(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    result = train(toy_recipe(), data, out=tmp_path / "run", device="cpu", max_time=0)
    assert (result.stopped, result.step, result.finished) == ("max-time", 1, False)
    assert result.resume_command.endswith("--resume --device cpu")
    done = train(tmp_path / "run" / "recipe.yaml", data, out=tmp_path / "run", device="cpu", resume=True)
    assert done.finished
    assert_same_weights(done.run, train(toy_recipe(), data, out=tmp_path / "whole", device="cpu").run)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), (1.5, 1.5), ("30s", 30), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("1 d", 86400)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2x", "two hours", "-3"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="no duration"):
        parse_duration(text)


def test_sinks_are_checked_before_anything_is_built(
    tiny_dataset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="unknown log 'mlflow'; allowed: csv, tensorboard, wandb"):
        train(toy_recipe(), tiny_dataset(), out=tmp_path / "run", log=("mlflow",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        train(toy_recipe(), tiny_dataset(), out=tmp_path / "run", log=("wandb",))
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_torch_cannot_use_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("trainer.engine.device.visible_gpus", lambda: ["NVIDIA H200"])
    with pytest.raises(UserError, match=r"has a GPU \(NVIDIA H200\).*pytorch.org/get-started.*--device cpu"):
        choose_device("auto")
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match=r"GPU 0 was asked for, but torch .* sees 0 GPUs"):
        choose_device("cuda")
    with pytest.raises(UserError, match="allowed: auto, cpu, cuda, cuda:N"):
        choose_device("gpu")
    monkeypatch.setattr("trainer.engine.device.visible_gpus", lambda: [])
    assert choose_device("auto").type == "cpu"


def test_hidden_gpus_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_a_full_gpu_ends_with_the_peak_and_a_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from trainer.engine import device

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 78 * 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    full = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB")
    text = str(device.out_of_memory(full, torch.device("cuda:0"), batch=64, world=4))
    assert "the peak was 78.0 GB" in text
    assert "--set train.batch=32" in text
    assert "Tried to allocate 4 GiB" in text
    assert "data.frames" in str(device.out_of_memory(full, torch.device("cuda:0"), batch=4, world=4))
