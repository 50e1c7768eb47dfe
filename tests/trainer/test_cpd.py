"""The task cpd: banks, the text encoder's curriculum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shards.dataset import open_dataset
from shards.samples import annotate
from tests.tiny import build_dataset
from trainer.config import load_recipe
from trainer.data.loader import Loader
from trainer.engine.build import task_of
from trainer.engine.optim import build_optimizer
from trainer.testing import check_task

SMALL = {
    "name": "cpd-small",
    "task": {"name": "cpd", "embedding": 16, "hidden": 24, "negatives": 6, "train_text_from": 1},
    "backbone": {"name": "r3d-vcop", "base_width": 4},
    "data": {"frames": 4, "crop": 24, "workers": 0},
    "optim": {"name": "sgd", "lr": 0.05},
    "train": {"steps": 6, "batch": 4, "save_every": 2},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples, each with a caption, one with two; to be read only."""
    dest = build_dataset(tmp_path_factory.mktemp("cpd"), samples=8, frames=8)
    captions = tmp_path_factory.mktemp("captions") / "captions.jsonl"
    words = "one two three four five six seven eight".split()
    lines = [f'{{"key": "video_{i:03d}", "caption": "a bar goes {word} steps"}}' for i, word in enumerate(words)]
    lines[2] = '{"key": "video_002", "caption": ["a bar goes three steps", "three steps to the right"]}'
    captions.write_text("\n".join(lines) + "\n")
    annotate(dest, captions)
    return dest


def small(**task: object):
    recipe = load_recipe(SMALL)
    return load_recipe({**recipe.tree(), "task": {**recipe.tree()["task"], **task}})


def prepared(url: Path, **options: object):
    recipe, dataset = small(**options), open_dataset(url)
    torch.manual_seed(0)
    task = task_of(recipe, dataset)
    loader = Loader(dataset, task.spec, batch=4, workers=0)
    task.prepare(dataset, loader.samples)
    return task, list(loader.batches(0, 3))


@pytest.mark.parametrize("options", [{}, {"loss": "infonce", "queue": 8}], ids=["nce", "infonce"])
def test_learns_resumes_and_agrees_on_two_ranks(url, tmp_path, options):
    check_task(small(**options, train_text_from=0, text_lr_scale=1.0), tmp_path, data=url)


def test_a_frozen_text_encoder_stays_as_it_is_and_learns_later(url):
    recipe = small()
    task, batches = prepared(url)
    optimizer = build_optimizer(task, recipe.optim, fused=False)
    before = {name: p.clone() for name, p in task.text.named_parameters()}
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        task(replace(batch, step=step, steps_per_epoch=2))["loss"].backward()
        assert all(p.grad is not None for p in task.parameters() if p.requires_grad)
        task.before_step(step)
        optimizer.step()
        task.after_step(step)
        same = [torch.equal(before[name], p) for name, p in task.text.named_parameters()]
        assert all(same) if step < 2 else not all(same)
    scales = {group["scale"] for group in optimizer.param_groups}
    assert scales == {1.0, 0.003}


def test_banks_change_where_the_batch_was_and_only_after_the_step(url):
    task, batches = prepared(url)
    banks = [bank.clone() for bank in (task.video_bank, task.text_bank)]
    loss = task(batches[0])["loss"]
    assert all(torch.equal(a, b) for a, b in zip(banks, (task.video_bank, task.text_bank), strict=True))
    constants = task.constants.clone()
    assert (constants > 0).all()
    loss.backward()
    task.after_step(0)
    for before, bank in zip(banks, (task.video_bank, task.text_bank), strict=True):
        changed = (before != bank).any(1)
        assert sorted(changed.nonzero().flatten().tolist()) == sorted(task.place[batches[0].sample].tolist())
        assert bank.grad is None and not bank.requires_grad
    task(batches[1])
    assert torch.equal(task.constants, constants)  # set once


def test_draws_depend_on_run_step_and_sample(url):
    task, (batch, *_) = prepared(url)
    places = task._places(batch)
    assert places.shape == (4, 7) and places[:, 0].tolist() == task.place[batch.sample].tolist()
    assert torch.equal(places, task._places(batch))
    half = replace(batch, sample=batch.sample[2:])
    assert torch.equal(places[2:], task._places(half))
    assert not torch.equal(places[:, 1:], task._places(replace(batch, step=1))[:, 1:])


def test_held_out_samples_are_judged_within_the_batch(url):
    task, (batch, *_) = prepared(url)
    task.eval()
    with torch.no_grad():
        found = task(batch)
    assert set(found) == {"loss", "accuracy"} and 0 <= found["accuracy"] <= 1


def test_recipes_carry_the_reference_settings():
    """reference/cpd.md sections 3, 6, 7."""
    recipe = load_recipe("cpd-r50")
    task = recipe.task.options
    assert (task["negatives"], task["temperature"], task["bank_momentum"], task["embedding"]) == (16392, 0.07, 0.5, 256)
    assert (task["text"], task["most_tokens"], task["train_text_from"]) == ("distilbert-base-uncased", 64, 151)
    assert recipe.backbone.name == "cpd-r50"
    assert (recipe.data.frames, recipe.data.fps, recipe.data.crop) == (8, 7.5, 224)
    assert recipe.data.resize_range == (256, 340)
    optim = recipe.optim
    assert (optim.lr, optim.momentum, optim.weight_decay, optim.clip_norm) == (0.1, 0.9, 1e-4, 20)
    # The text encoder gets 3e-5 from epoch 150 on, when the others are at 0.1 x 0.1.
    assert task["text_lr_scale"] * optim.lr * 0.1 == pytest.approx(3e-5)
    assert (recipe.schedule.at, recipe.train.epochs, recipe.train.batch) == ((101, 202, 251), 300, 256)
    tuned, probe = load_recipe("cpd-finetune"), load_recipe("cpd-linear")
    assert (tuned.optim.lr, tuned.train.epochs, tuned.train.batch, tuned.data.frames) == (0.02, 100, 128, 16)
    assert tuned.task.options["dropout"] == 0.8
    assert (probe.optim.lr, probe.optim.backbone_lr_scale) == (2, 0)
    assert load_recipe("cpd-infonce").task.options["loss"] == "infonce"
