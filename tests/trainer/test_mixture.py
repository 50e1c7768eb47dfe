"""Training on several data sets at once, and several clips of a video from one read."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.dataset import open_dataset
from shards.errors import UserError
from shards.mixture import Mixture, open_data
from shards.rng import rng_for
from shards.spec import ClipSpec
from tests.trainer.toys import THIS, assert_same_weights, toy_recipe
from trainer.data.loader import Loader
from trainer.engine import train

Make = Callable[..., Path]
SPEC = ClipSpec(frames=4, strides=(1, 2), clips=2, crop=16)


@pytest.fixture
def mixed(tiny_dataset: Make) -> Mixture:
    """A of 9 samples of run, walk; B of 5 of walk, jump with a share of 0.4."""
    found = open_data([tiny_dataset(samples=9), f"{tiny_dataset(samples=5, frames=7, classes=('walk', 'jump'))}=0.4"])
    assert isinstance(found, Mixture)
    return found


def same(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.tensors(), second.tensors(), strict=True))


def test_batches_show_the_clips_of_each_data_set_as_it_draws_them_alone(mixed: Mixture) -> None:
    seen = [0, 0]
    drawn: dict[int, int] = {}
    for batch in Loader(mixed, SPEC, batch=4, seed=6, workers=0).batches(0, 32):
        for row, number in enumerate(batch.sample.tolist()):
            part, i = mixed.locate(number)
            data = mixed.parts[part]
            epoch = drawn.get(number, 0)  # its turn comes once in every epoch of its own data set
            drawn[number] = epoch + 1
            plan = SPEC.plan(data.facts(i), rng_for(6, epoch, i, 0, part))
            assert np.array_equal(batch.frames[row].numpy(), plan.frames)
            top, left, h, w = plan.crop[1]
            image = data.frames(i, [plan.frames[1, 2]])[0]
            assert np.array_equal(batch.clips[row, 1, 2].numpy(), image[top : top + h, left : left + w])
            assert mixed.classes[int(batch.label[row])] == data[i].label
            seen[part] += 1
    assert seen in ([76, 52], [77, 51])  # 0.4 of 128


@pytest.mark.parametrize("shuffle", ["full", "blocks:1", "none"])
def test_workers_ranks_and_start_do_not_change_a_mixture(mixed: Mixture, shuffle: str) -> None:
    options: dict[str, Any] = {"batch": 4, "seed": 3, "repeats": 2, "shuffle": shuffle, "clips_per_read": 2}
    expected = list(Loader(mixed, SPEC, workers=0, threads=1, **options).batches(0, 8))
    with Loader(mixed, SPEC, workers=2, threads=1, **options) as loader:
        assert all(same(a, b) for a, b in zip(loader.batches(3, 8), expected[3:], strict=True))
    ranks = [Loader(mixed, SPEC, workers=0, rank=r, world=2, **options).batches(0, 8) for r in range(2)]
    for whole, *parts in zip(expected, *ranks, strict=True):
        for name in ("clips", "sample", "label", "frames"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_data_sets_that_do_not_go_together_are_named(mixed: Mixture, tiny_dataset: Make) -> None:
    other = tiny_dataset(samples=3, size=(28, 32))
    both = open_data([mixed.parts[0].url, other])
    with pytest.raises(UserError, match=r"dataset1 and .*dataset3 do not make common batches.*28.*data\.crop"):
        Loader(both, ClipSpec(frames=2), batch=2)
    assert Loader(both, ClipSpec(frames=2, crop=20), batch=2)
    with pytest.raises(UserError, match=r"dataset1 has no column 'flow'"):
        Loader(both, ClipSpec(frames=2, crop=20, flow="flow"), batch=2)


def test_every_sample_once_without_weights(mixed: Mixture) -> None:
    loader = Loader(mixed, SPEC, batch=4, shuffle="none", weighted=False, workers=0)
    assert torch.cat([batch.sample for batch in loader.epoch()]).tolist() == list(range(14))
    with pytest.raises(ValueError, match="weighted=False"):
        Loader(mixed, SPEC, batch=4, workers=0).epoch()


def test_training_on_a_mixture_and_going_on(tiny_dataset: Make, tmp_path: Path) -> None:
    first, second = tiny_dataset(samples=8), tiny_dataset(samples=4, classes=("jump", "walk"))
    data = [str(first), f"{second}=0.25"]
    recipe = toy_recipe(task={"name": f"{THIS}:Recording", "folder": str(tmp_path)}, train={"steps": 16})
    whole = train(recipe, data, out=tmp_path / "whole", device="cpu")
    lines = (tmp_path / "0.txt").read_text().split()
    shown = [int(i) for line in lines for i in line.partition(":")[2].split(",")]
    assert sum(i >= 8 for i in shown) == 16 and len(shown) == 64 and max(shown) < 12
    assert whole.data == str(first)
    words = shlex.split(whole.resume_command)
    assert [words[i + 1] for i, word in enumerate(words) if word == "--data"] == data
    run = train(recipe, data, out=tmp_path / "parts", device="cpu", overrides=["train.steps=5"]).run
    train(recipe, data, out=run, device="cpu", resume=True)
    assert_same_weights(whole.run, run)
    for other in ([str(first), f"{second}=0.3"], [str(first)], [str(first), str(second)]):
        with pytest.raises(UserError, match=r"data: 12 samples of .*dataset1 \+ .*dataset2=0.25 → .*not the same"):
            train(recipe, other, out=run, device="cpu", resume=True)


def test_validation_of_a_mixture_shows_every_held_out_sample_once(tiny_dataset: Make, tmp_path: Path) -> None:
    data = [tiny_dataset(samples=10), tiny_dataset(samples=6)]
    recipe = toy_recipe(task={"name": f"{THIS}:Recording", "folder": str(tmp_path)}, data={"split": "train"})
    recipe["train"].update(steps=1, validation={"split": "test"})
    train(recipe, data, out=tmp_path / "run", device="cpu")
    _, *held = (tmp_path / "0.txt").read_text().split()
    assert [int(i) for line in held for i in line.partition(":")[2].split(",")] == [0, 5, 10, 15]


@pytest.mark.parametrize("together", [2, 4])
@pytest.mark.parametrize("change", [{}, {"resize_range": (20, 30)}, {"resize": (20, 30), "area": (0.3, 1.0)}])
def test_clips_of_one_read_are_those_of_single_reads(tiny_dataset: Make, together: int, change: dict[str, Any]) -> None:
    """Fewer reads, the same items in an epoch, and each shows what it would have shown."""
    url = tiny_dataset(samples=6, frames=9)
    options: dict[str, Any] = {"batch": 8, "seed": 2, "repeats": 4, "workers": 0}
    spec = replace(SPEC, **change)
    found = {}
    reads = {}
    for count in (1, together):
        loader = Loader(open_dataset(url), spec, clips_per_read=count, **options)
        assert loader.epoch_length == 24
        rows = []
        for batch in loader.batches(0, 3):
            rows += [
                (int(batch.sample[i]), batch.frames[i].tolist(), batch.clips[i].numpy().tobytes()) for i in range(8)
            ]
        found[count], reads[count] = sorted(rows), loader.dataset.storage.stats.reads
    assert found[1] == found[together]
    assert reads[together] < reads[1]


def test_a_batch_that_cuts_a_group_reads_it_twice_and_shows_the_same(tiny_dataset: Make) -> None:
    url = tiny_dataset(samples=5, frames=9)
    whole, cut = (
        torch.cat(
            [b.clips for b in Loader(url, SPEC, batch=size, repeats=3, clips_per_read=3, workers=0).batches(0, n)]
        )
        for size, n in ((15, 1), (5, 3))
    )
    assert torch.equal(whole, cut)
