"""Two gloo processes learn what one learns from the same global batch, task by task (docs/recipes.md).

Networks have no batch normalisation; that of heads is in eval mode, and dropout is off: both are of one process by
definition. Both processes of all runs are started once, for the module.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shards.samples import annotate
from tests.tiny import build_dataset
from tests.trainer.test_skips import THIS as SICK
from tests.trainer.toys import THIS as TOYS
from tests.trainer.toys import toy_recipe
from trainer.config import Recipe, load_recipe
from trainer.engine import RunResult, train
from trainer.engine.build import task_of
from trainer.engine.distributed import open_ranks
from trainer.engine.launch import launch
from trainer.engine.loop import Trainer
from trainer.tasks import Task
from vidprep.derive import add_flow, add_labels

STEPS, HALF = 6, 3
RSPNET = {"name": "rspnet", "queue": 10, "projection": 5, "momentum": 0.8}
CPD = {"name": "cpd", "embedding": 6, "hidden": 5, "train_text_from": 0.5, "text_lr_scale": 0.5}
STATISTICS = {"name": "statistics", "standardize": True}
TASKS: Mapping[str, Mapping[str, Any]] = {
    "classify": {"name": "classify"},
    "pace": {"name": "pace"},
    "pace-context": {"name": "pace", "contrastive": "context"},
    "pace-pace": {"name": "pace", "contrastive": "pace", "temperature": 0.5},
    "statistics": STATISTICS,
    "statistics-online": {**STATISTICS, "labels": "online"},
    "rspnet": RSPNET,
    "rspnet-others": {**RSPNET, "negatives": "others", "head": "mlp", "draw": "sample"},
    "cpd": {**CPD, "negatives": 7},
    "cpd-infonce": {**CPD, "loss": "infonce", "queue": 9},
    "concepts": {
        "name": "concepts",
        "concepts": 6,
        "active": 3,
        "queue": 10,
        "projection": 5,
        "prototypes_from": 0.5,
        "queue_from": 0.5,
        "local_from": 1,
    },
    "joint": {
        "name": "joint",
        "tasks": {"pace": {"paces": 4}, "rspnet": {**RSPNET, "speeds": [2, 3, 4], "pairs": "all"}, "statistics": {}},
    },
}
ACROSS = ("rspnet", "cpd", "concepts")  # resumed with another number of processes: queues, banks and prototypes
# Two steps, the first one too, have a loss that is not finite: with two processes on one of them.
ILL = {"ill-rspnet": "SickRspnet", "ill-cpd": "SickCpd", "ill-cpd-infonce": "SickCpd", "ill-concepts": "SickConcepts"}
REMEMBERED = {
    "rspnet": ("queue.keys", "queue.owner", "queue.place", "key_backbone.conv.weight"),
    "cpd": ("video_bank", "text_bank"),
    "cpd-infonce": ("queues.0.keys", "queues.1.keys", "queues.0.owner"),
    "concepts": ("queue", "heads.prototype.weight"),
    "joint": ("tasks.rspnet.queue.keys",),
}


def recipe_of(name: str, *overrides: str) -> Recipe:
    """A recipe of the task whose every parameter is learnt within its few steps, with clipped gradients."""
    if name in ILL:
        tree = recipe_of(name.removeprefix("ill-")).tree()
        tree["task"] |= {"name": f"{SICK}:{ILL[name]}", "at": [0, 3]}
        return load_recipe(tree, overrides)
    backbone = {"name": "r3d-vcop", "base_width": 1} if name == "with-norm" else {"name": f"{TOYS}:Plain"}
    recipe = toy_recipe(
        name=name,
        task=dict(TASKS.get(name, {"name": "pace"})),
        backbone=backbone,
        optim={"name": "sgd", "lr": 0.05, "weight_decay": 0.01, "clip_norm": 1.0},
        train={"steps": STEPS, "log_every": 1, "save_every": HALF, "keep": 9},
    )
    recipe["data"]["jitter"] = {"brightness": 0.4, "hue": 0.1} if "statistics" not in name and name != "joint" else None
    return load_recipe(recipe, overrides)


def still_task_of(*arguments: Any) -> Task:
    """The task without anything that is of one process by definition."""
    task = task_of(*arguments)
    for module in task.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout, nn.MultiheadAttention)):
            module.eval()
    return task


def learn(name: str, data: Path, out: Path, rank: int, *overrides: str, resume: bool = False) -> RunResult:
    """`train`, which leaves the state of this process beside the run."""
    fit, builder = Trainer.fit, task_of if name == "with-norm" else still_task_of

    def fit_and_tell(self: Trainer) -> str:
        reason = fit(self)
        save_file({k: v.contiguous() for k, v in self.parts.task.state_dict().items()}, f"{out}-rank{rank}.safetensors")
        return reason

    with patch.object(Trainer, "fit", fit_and_tell), patch("trainer.engine.run.task_of", builder):
        return train(recipe_of(name, *overrides), data, out=out, device="cpu", resume=resume, skip_nan=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, and the runs `one/NAME`, `half/NAME` (one process, half the steps), `two/NAME`, `two-half/NAME` and
    `one-two/NAME` (half by one process, then by two)."""
    folder = tmp_path_factory.mktemp("two_ranks")
    data = build_dataset(folder / "data", samples=11, frames=20)
    lines = [json.dumps({"key": f"video_{i:03d}", "caption": f"a bar goes {i} steps"}) for i in range(11)]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    annotate(data, folder / "captions.jsonl")
    add_flow(data, backend="numba", nscales=1, warps=1, outer_iterations=1, inner_iterations=2, workers=1)
    add_labels(data, crop=16, window=4, resize=(18, 20), stride=3, views=2, workers=1)
    for name in (*TASKS, *ILL, "with-norm"):
        learn(name, data, folder / "one" / name, 0)
    for name in ACROSS:
        learn(name, data, folder / "half" / name, 0, f"train.steps={HALF}")
        shutil.copytree(folder / "half" / name, folder / "one-two" / name)
    assert launch(["-m", "tests.trainer.test_two_ranks", str(folder)], processes=2) == 0
    return folder


def both(folder: Path) -> None:
    """What each of the two processes does."""
    data = folder / "data"
    with open_ranks("cpu") as ranks:
        for name in (*TASKS, "with-norm"):
            learn(name, data, folder / "two" / name, ranks.rank)
        for name in ILL:
            learn(name, data, folder / "two" / name, ranks.rank, "task.on=1")
        for name in ACROSS:
            learn(name, data, folder / "two-half" / name, ranks.rank, f"train.steps={HALF}")
            learn(name, data, folder / "one-two" / name, ranks.rank, resume=True)


def state(run: Path, rank: int = 0) -> dict[str, Tensor]:
    return load_file(f"{run}-rank{rank}.safetensors")


def losses(run: Path) -> list[dict[str, float]]:
    measured = ("step", "epoch", "lr", "clips_per_s", "data_wait", "memory_mb")
    with (run / "log.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k not in measured} for row in csv.DictReader(file)]


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of tensors that differ by more than sums in another order do."""
    assert one.keys() == other.keys()
    found = []
    for name, expected in one.items():
        apart, scale = ((t.double().abs().max().item()) for t in (other[name] - expected, expected))
        if apart > 2e-4 * scale + 2e-6:
            found.append(f"{name}: {apart:.1e} of {scale:.1e}")
    return found


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_learn_what_one_learns(folder: Path, name: str) -> None:
    """Losses of every step, and after the last one weights, key networks, queues, banks and prototypes."""
    one, two = folder / "one" / name, folder / "two" / name
    assert not differing(state(one), state(two))
    first, second = losses(one), losses(two)
    assert len(first) == STEPS
    for expected, found in zip(first, second, strict=True):
        assert found == pytest.approx(expected, rel=2e-4, abs=2e-5)


@pytest.mark.parametrize("name", TASKS)
def test_both_processes_hold_the_same(folder: Path, name: str) -> None:
    """Bit for bit: what one process saves is what the other would save."""
    zero, one = (state(folder / "two" / name, rank) for rank in (0, 1))
    assert [key for key in zero if not torch.equal(zero[key], one[key])] == []


@pytest.mark.parametrize("name", TASKS)
def test_the_comparison_is_of_something(folder: Path, name: str) -> None:
    """What is learnt or remembered moves in the second half of the run."""
    run = folder / "one" / name
    before, after = load_file(run / "checkpoints" / f"step-{HALF:08d}" / "model.safetensors"), state(run)
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved >= {"backbone.conv.weight", *REMEMBERED.get(name, ())}


@pytest.mark.parametrize("name", ILL)
def test_what_is_bad_on_one_process_is_left_out_by_both(folder: Path, name: str) -> None:
    one, two = folder / "one" / name, folder / "two" / name
    assert not differing(state(one), state(two))
    zero, other = (state(two, rank) for rank in (0, 1))
    assert [key for key in zero if not torch.equal(zero[key], other[key])] == []
    steps = [[it["step"] for it in json.loads((run / "run.json").read_text())["skipped"]] for run in (one, two)]
    assert steps == [[1, 4], [1, 4]]


@pytest.mark.parametrize("name", ACROSS)
def test_a_run_goes_on_with_another_number_of_processes(folder: Path, tmp_path: Path, name: str) -> None:
    """The global batch stays; so do queues and banks, which every process has whole."""
    whole = state(folder / "one" / name)
    assert not differing(whole, state(folder / "one-two" / name))
    two_one = Path(shutil.copytree(folder / "two-half" / name, tmp_path / name))
    learn(name, folder / "data", two_one, 0, resume=True)
    assert not differing(whole, state(two_one))


def test_batch_statistics_are_of_each_process(folder: Path) -> None:
    """What docs/recipes.md says cannot be equal: with batch normalisation even the first step's loss differs, though
    its videos do not; and the statistics that are saved are those of the first process."""
    one, two = folder / "one" / "with-norm", folder / "two" / "with-norm"
    assert losses(two)[0]["loss"] != pytest.approx(losses(one)[0]["loss"], rel=1e-4)
    zero, other = (state(two, rank) for rank in (0, 1))
    apart = {key for key in zero if not torch.equal(zero[key], other[key])}
    assert apart
    assert all("running_" in key for key in apart)


if __name__ == "__main__":
    both(Path(sys.argv[1]))
