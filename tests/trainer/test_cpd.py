"""The task cpd: losses, banks, the text encoder's curriculum."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from shards.dataset import open_dataset
from shards.samples import annotate
from tests.tiny import build_dataset
from trainer.config import load_recipe
from trainer.data.loader import Loader
from trainer.engine.build import task_of
from trainer.engine.optim import build_optimizer
from trainer.tasks.cpd.losses import info_nce, nce, normaliser, scores, update_bank
from trainer.testing import check_task

SMALL = {
    "name": "cpd-small",
    "task": {"name": "cpd", "embedding": 16, "hidden": 24, "negatives": 6, "train_text_from": 1},
    "backbone": {"name": "r3d-vcop", "base_width": 4},
    "data": {"frames": 4, "crop": 24, "workers": 0},
    "optim": {"name": "sgd", "lr": 0.05},
    "train": {"steps": 6, "batch": 4, "save_every": 2},
}


def unit(seed: int, rows: int, columns: int = 256) -> torch.Tensor:
    found = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))
    return functional.normalize(found, dim=1)


# What the reference gives for these inputs (reference/cpd.md section 6), run on the batch described here.
GOLDEN = {
    "Z": (78.3709487915039, 91.07123565673828),
    "video": (4.71140718460083, 0.9871399402618408),
    "text": (3.730834722518921, 0.9738571047782898),
    "row": [0.013910447247326374, -0.029005900025367737, 0.009760106913745403, -0.10379620641469955],
}


def golden_batch():
    video, text, bank_v, bank_t = unit(0, 4), unit(1, 4), unit(2, 50), unit(3, 50)
    places = np.random.default_rng(4).integers(0, 50, (4, 33))
    places[:, 0] = range(4)
    return video, text, bank_v, bank_t, torch.from_numpy(places)


def test_losses_are_those_of_the_reference():
    video, text, bank_v, bank_t, places = golden_batch()
    for name, query, bank, constant in (("video", video, bank_t, 0), ("text", text, bank_v, 1)):
        found = scores(query, bank, places, 0.07)
        z = normaliser(found, 50)
        assert z.item() == pytest.approx(GOLDEN["Z"][constant], rel=1e-5)
        loss = nce(found, z, 50)
        assert (loss.positive.item(), loss.negative.item()) == pytest.approx(GOLDEN[name], rel=1e-4)
    update_bank(bank_v, torch.arange(4), video, 0.5)
    assert bank_v[0, :4].tolist() == pytest.approx(GOLDEN["row"], rel=1e-4)
    assert torch.allclose(bank_v.norm(dim=1), torch.ones(50))


def test_losses_equal_plain_loops_and_gradients_reach_queries_alone():
    video, _, _, bank, places = golden_batch()
    video.requires_grad_()
    found = scores(video, bank, places, 0.1)
    loss = nce(found, torch.tensor(40.0), 50)
    positive = negative = 0.0
    for b in range(4):
        noise = 32 / 50
        for k, place in enumerate(places[b].tolist()):
            p = math.exp(float(video[b].detach() @ bank[place]) / 0.1) / 40
            if k == 0:
                positive -= math.log(p / (p + noise + 1e-7)) / 4
            else:
                negative -= math.log(noise / (p + noise + 1e-7)) / 4
    assert loss.positive.item() == pytest.approx(positive, rel=1e-5)
    assert loss.negative.item() == pytest.approx(negative, rel=1e-5)
    (loss.positive + loss.negative).backward()
    assert video.grad.abs().sum() > 0 and not bank.requires_grad and not normaliser(found, 50).requires_grad


def test_info_nce_equals_plain_loops():
    video, text, past_v, past_t = unit(0, 3, 8), unit(1, 3, 8), unit(2, 5, 8), unit(3, 5, 8)
    foreign = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]], dtype=torch.bool)
    expected = 0.0
    for query, keys, queue in ((video, text, past_t), (text, video, past_v)):
        for b in range(3):
            own = math.exp(float(query[b] @ keys[b]) / 0.2)
            others = sum(math.exp(float(query[b] @ keys[c]) / 0.2) for c in range(3))
            others += sum(math.exp(float(query[b] @ queue[k]) / 0.2) for k in range(5) if foreign[b, k])
            expected -= math.log(own / others) / 3
    found = info_nce(video, text, temperature=0.2, queues=(past_v, past_t), foreign_BK=foreign)
    assert found.item() == pytest.approx(expected, rel=1e-5)


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
