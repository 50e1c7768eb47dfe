"""`--skip-nan N`: a step whose loss is not finite leaves nothing behind, on any number of processes, resumed or not."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from shards.dataset import open_dataset
from shards.errors import UserError
from shards.samples import annotate
from tests.tiny import build_dataset
from tests.trainer.toys import THIS as TOYS
from tests.trainer.toys import assert_same_weights, newest_tensors, start_vidprep, toy_recipe
from trainer.config import load_recipe
from trainer.engine import train
from trainer.engine.build import loader_of, task_of
from trainer.engine.checkpoint import checkpoint_paths
from trainer.engine.distributed import Ranks, seed_step
from trainer.engine.optim import build_optimizer, set_learning_rate
from trainer.engine.skips import Skips
from trainer.tasks import Concepts, Cpd, Pace, Rspnet
from trainer.tasks.base import Task
from trainer.tasks.concepts.task import ConceptsOptions
from trainer.tasks.cpd import CpdOptions
from trainer.tasks.pace import PaceOptions
from trainer.tasks.rspnet import RspnetOptions

Make = Callable[..., Path]
THIS = str(Path(__file__))


class Sick(Task):
    """In steps `at` (from 0) the network is shown NaN, on process `on`, or on all."""

    options: Any

    def forward(self, batch: Any) -> dict[str, Tensor]:
        here = self.options.on in (-1, int(os.environ.get("RANK", "0")))
        if batch.step not in self.options.at or not here:
            return super().forward(batch)

        def spoil(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (inputs[0] * float("nan"),)

        hooks = [backbone.register_forward_pre_hook(spoil) for backbone in self.backbones]
        try:
            return super().forward(batch)
        finally:
            for hook in hooks:
                hook.remove()


class SickPaceOptions(PaceOptions):
    at: tuple[int, ...] = ()
    on: int = -1


class SickPace(Sick, Pace):
    Options = SickPaceOptions


class SickRspnetOptions(RspnetOptions):
    at: tuple[int, ...] = ()
    on: int = -1


class SickRspnet(Sick, Rspnet):
    Options = SickRspnetOptions


class SickCpdOptions(CpdOptions):
    at: tuple[int, ...] = ()
    on: int = -1


class SickCpd(Sick, Cpd):
    Options = SickCpdOptions


class SickConceptsOptions(ConceptsOptions):
    at: tuple[int, ...] = ()
    on: int = -1


class SickConcepts(Sick, Concepts):
    Options = SickConceptsOptions


TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "pace": ("SickPace", {"contrastive": "context"}),
    "rspnet": ("SickRspnet", {"queue": 12, "projection": 8, "momentum": 0.9, "bn_groups": 2}),
    "cpd": ("SickCpd", {"embedding": 8, "hidden": 8, "negatives": 5, "train_text_from": 1}),
    "cpd-infonce": ("SickCpd", {"embedding": 8, "hidden": 8, "loss": "infonce", "queue": 10, "train_text_from": 1}),
    "concepts": ("SickConcepts", {"concepts": 4, "active": 3, "queue": 10, "projection": 8, "local_from": 1}),
}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    dest = build_dataset(folder / "data", samples=10, frames=16)
    lines = [json.dumps({"key": f"video_{i:03d}", "caption": f"a bar goes {i} steps"}) for i in range(10)]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    annotate(dest, folder / "captions.jsonl")
    return dest


def sick(*at: int, name: str = "SickPace", on: int = -1, train: dict[str, Any] | None = None, **task: Any) -> Any:
    """The toy recipe with a task that falls ill, and gradient clipping."""
    options = {"name": f"{THIS}:{name}", "at": list(at), "on": on, **task}
    optim = {"name": "sgd", "lr": 0.02, "weight_decay": 0.01, "clip_norm": 1.0}
    recipe = toy_recipe(task=options, optim=optim, train=train or {})
    recipe["data"]["jitter"]["per_frame"] = False
    return recipe


def without(recipe: Any, task: str, data: Path, *, left_out: set[int]) -> dict[str, Tensor]:
    """The state after a plain loop that never sees those steps, by the task as it is."""
    options = {key: value for key, value in recipe["task"].items() if key not in ("at", "on")}
    healthy = load_recipe({**recipe, "task": {**options, "name": task.partition("-")[0]}})
    dataset = open_dataset(data)
    torch.manual_seed(healthy.train.seed)
    model = task_of(healthy, dataset)
    optimizer = build_optimizer(model, healthy.optim, fused=False)
    with loader_of(healthy, dataset, model, Ranks(0, 1, torch.device("cpu"))) as loader:
        model.prepare(loader.dataset, loader.samples)
        for batch in loader.batches(0, healthy.train.steps):
            if batch.step in left_out:
                continue
            seed_step(healthy.train.seed, batch.step, 0)
            set_learning_rate(optimizer, healthy.optim.lr)
            model(batch)["loss"].backward()
            model.before_step(batch.step)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            model.after_step(batch.step)
    return model.state_dict()


@pytest.mark.parametrize("task", TASKS)
def test_a_step_that_is_left_out_leaves_nothing_behind(task: str, captioned: Path, tmp_path: Path) -> None:
    """Weights, running statistics, key network, queues and banks are those of a loop that never saw the batch."""
    name, options = TASKS[task]
    recipe = sick(2, 4, name=name, **options)
    result = train(recipe, captioned, out=tmp_path / "run", device="cpu", skip_nan=2)
    assert result.finished
    assert result.skipped == (3, 5)
    found, expected = newest_tensors(result.run), without(recipe, task, captioned, left_out={2, 4})
    assert found.keys() == expected.keys()
    wrong = [key for key in found if not torch.equal(found[key], expected[key])]
    assert not wrong, wrong


def test_what_is_left_out_is_told_and_recorded(tiny_dataset: Make, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    recipe = sick(0, 4, train={"log_every": 1})
    result = train(recipe, tiny_dataset(), out=tmp_path / "run", device="cpu", skip_nan=3, on_event=events.append)
    told = [event for event in events if event["event"] == "skip"]
    assert [event["step"] for event in told] == [1, 5]
    assert all(len(event["keys"]) == 4 and json.dumps(event) for event in told)
    assert told[0]["message"].startswith(f"loss is nan in step 1, on the videos {', '.join(told[0]['keys'])}: left out")
    assert told[1]["message"].endswith("1 more may be (--skip-nan 3)")
    recorded = [{"step": e["step"], "loss": "nan", "keys": e["keys"]} for e in told]
    newest = checkpoint_paths(result.run / "checkpoints")[-1]
    for file in (result.run / "run.json", newest / "run.json"):
        assert json.loads(file.read_text())["skipped"] == recorded
    with (result.run / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 6, 7, 8]  # a line that has only such steps is none
    assert all(torch.isfinite(torch.tensor(float(row["loss"]))) for row in rows)
    assert "--skip-nan 3" in result.resume_command


def test_the_next_one_ends_the_run_with_what_was_left_out_before(tiny_dataset: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        train(sick(1, 4, 6), tiny_dataset(), out=tmp_path / "run", device="cpu", skip_nan=2)
    text = str(error.value)
    assert "loss is nan in step 7, on the videos video_0" in text
    assert "after steps left out: 2, 5." in text
    assert "last good checkpoint is of step 6" in text
    assert "--resume --skip-nan 3" in text


def test_a_resumed_run_has_the_same_allowance_and_the_same_end(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    recipe = sick(1, 4, train={"keep": 9})
    whole = train(recipe, data, out=tmp_path / "whole", device="cpu", skip_nan=2).run
    for path in checkpoint_paths(whole / "checkpoints")[:-1]:
        run = Path(shutil.copytree(whole, tmp_path / path.name))
        for later in checkpoint_paths(run / "checkpoints"):
            if later.name > path.name:
                shutil.rmtree(later)
        resumed = train(recipe, data, out=run, resume=True, device="cpu", skip_nan=2)
        assert resumed.skipped == (2, 5)
        assert_same_weights(whole, run)
    short = Path(shutil.copytree(whole, tmp_path / "short"))
    for later in checkpoint_paths(short / "checkpoints")[1:]:
        shutil.rmtree(later)
    with pytest.raises(UserError, match=r"loss is nan in step 5.*after steps left out: 2\."):
        train(recipe, data, out=short, resume=True, device="cpu", skip_nan=1)
    # The run that ended goes on, and ends as if it had been allowed two from the beginning.
    assert train(recipe, data, out=short, resume=True, device="cpu", skip_nan=2).finished
    assert_same_weights(whole, short)


def test_nothing_changes_where_nothing_is_left_out(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    one = train(toy_recipe(), data, out=tmp_path / "one", device="cpu").run
    assert_same_weights(one, train(toy_recipe(), data, out=tmp_path / "two", device="cpu", skip_nan=5).run)


def test_weights_that_are_not_finite_are_no_batchs_fault(tiny_dataset: Make, tmp_path: Path) -> None:
    """The gradient of step 5 breaks the weights, so step 6 could be left out for ever."""
    recipe = toy_recipe(task={"name": f"{TOYS}:Explodes"}, train={"save_every": 50})
    with pytest.raises(UserError, match=r"loss is nan in step 6.*the weights are not finite, so no batch is to blame"):
        train(recipe, tiny_dataset(), out=tmp_path / "run", device="cpu", skip_nan=5)


def test_a_negative_number_is_refused(tiny_dataset: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--skip-nan is -1; it is a number of steps, 0 or more"):
        train(toy_recipe(), tiny_dataset(), out=tmp_path / "run", device="cpu", skip_nan=-1)
    assert not (tmp_path / "run").exists()


def test_buffers_are_put_back_whatever_their_type() -> None:
    task = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    task.register_buffer("seen", torch.zeros(()), persistent=False)  # of no checkpoint
    before = {name: buffer.clone() for name, buffer in task.named_buffers()}
    skips = Skips(1)
    skips.hold(task)
    task(torch.full((4, 3), float("nan")))
    task.seen.fill_(1)
    assert task[0].running_mean.isnan().all() and int(task[0].num_batches_tracked) == 1
    skips.put_back(task)
    assert all(torch.equal(buffer, before[name]) for name, buffer in task.named_buffers())


def two_processes(tmp_path: Path, name: str, data: Path, recipe: Any, *options: str) -> tuple[int, str, Path]:
    file, run = tmp_path / f"{name}.yaml", tmp_path / name
    file.write_text(yaml.safe_dump(recipe))
    process = start_vidprep(
        "train", str(file), "--data", str(data), "--out", str(run), "--device", "cpu", "--gpus", "2", *options
    )
    output, _ = process.communicate(timeout=120)
    return process.returncode, output, run


def plain(recipe: Any) -> Any:
    """With a network that has no batch normalisation, so that two processes learn what one does."""
    return {**recipe, "backbone": {"name": f"{TOYS}:Plain"}}


def test_all_processes_leave_out_what_is_bad_on_one(tiny_dataset: Make, tmp_path: Path) -> None:
    data = tiny_dataset()
    one = train(plain(sick(3)), data, out=tmp_path / "one", device="cpu", skip_nan=1).run
    status, output, two = two_processes(tmp_path, "two", data, plain(sick(3, on=1)), "--skip-nan", "1")
    assert status == 0, output
    assert output.count("loss is nan in step 4, on the videos video_0") == 1, output
    told = json.loads((two / "run.json").read_text())["skipped"]
    assert [(it["step"], len(it["keys"])) for it in told] == [(4, 2)]  # of the bad process alone
    first, second = newest_tensors(one), newest_tensors(two)
    for key in first:
        torch.testing.assert_close(second[key], first[key], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_running_statistics_of_no_process_are_spoiled(tiny_dataset: Make, tmp_path: Path) -> None:
    """Batch normalisation is sent from process 0 to the others: NaN there must not reach them, nor the checkpoint."""
    recipe, data = sick(3, 5, on=0, train={"keep": 9}), tiny_dataset()
    status, output, run = two_processes(tmp_path, "two", data, recipe, "--skip-nan", "2")
    assert status == 0, output
    assert all(t.isfinite().all() for t in newest_tensors(run).values())
    again = tmp_path / "again"
    shutil.copytree(run, again)
    for later in checkpoint_paths(again / "checkpoints")[1:]:
        shutil.rmtree(later)
    status, output, again = two_processes(tmp_path, "again", data, recipe, "--skip-nan", "2", "--resume")
    assert status == 0, output
    assert_same_weights(run, again)
    status, output, _ = two_processes(tmp_path, "ended", data, recipe, "--skip-nan", "1")
    assert status == 1
    assert output.count("error: loss is nan in step 6") == 1, output


def test_a_network_without_buffers_is_fine() -> None:
    skips = Skips(1)
    skips.hold(nn.Linear(2, 2))
    skips.put_back(nn.Linear(2, 2))
