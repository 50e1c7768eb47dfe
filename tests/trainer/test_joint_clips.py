"""Clips that depend on each other, and cuts of random area, as the loader shows them."""

import cv2
import numpy as np
import pytest

from shards.dataset import open_dataset
from shards.errors import UserError
from shards.rng import rng_for
from shards.spec import ClipSpec, dealt_rows
from tests.tiny import build_dataset
from tests.trainer.toys import toy_recipe
from trainer.config import DataConfig
from trainer.data.loader import Loader
from trainer.engine import train
from trainer.evaluation.subject import resolve
from trainer.evaluation.views import view_spec

ROWS = ((0, 0, 1), (1, 1, 0))


def test_a_cut_of_some_area_is_what_the_loader_shows(tmp_path):
    data = open_dataset(build_dataset(tmp_path / "data", samples=6, frames=30))
    spec = ClipSpec(
        frames=4,
        strides=(1, 2),
        clips=3,
        stride_rows=ROWS,
        windows=(0, 1, 1),
        deal=True,
        crop=(10, 12),
        area=(0.3, 1.0),
    )
    shares = []
    for rank in (0, 1):
        with Loader(data, spec, batch=4, seed=5, rank=rank, world=2, workers=rank) as loader:
            shares.append(next(iter(loader.batches(2, 3))))
    with Loader(data, spec, batch=4, seed=5, workers=0) as loader:
        batch = next(loader.batches(2, 3))
    assert sorted(batch.stride[:, 0].tolist()) == [0, 0, 1, 1]
    dealt = dealt_rows(spec, seed=5, step=2, batch=4, start=0, stop=4)
    for row, sample in enumerate(batch.sample.tolist()):
        plan = spec.plan(data.facts(sample), rng_for(5, *where(sample, row)), row=int(dealt[row]))
        assert np.array_equal(plan.frames, batch.frames[row]) and np.array_equal(plan.stride, batch.stride[row])
        for v, (top, left, h, w) in enumerate(plan.crop.tolist()):
            for t, number in enumerate(plan.frames[v].tolist()):
                cut = data.frames(sample, [number])[0][top : top + h, left : left + w]
                expected = cv2.resize(cut, (12, 10), interpolation=cv2.INTER_LINEAR)
                assert np.array_equal(batch.clips[row, v, t].numpy(), expected)
    for name in ("clips", "stride", "frames", "flip", "sample"):
        parts = [getattr(share, name).numpy() for share in shares]
        assert np.array_equal(np.concatenate(parts), getattr(batch, name).numpy())


def where(sample, row):
    """(epoch, sample) of row `row` of batch 2 of batches of 4 of 6 samples."""
    return (8 + row) // 6, sample


def test_recipes_can_ask_for_them():
    data = DataConfig(crop=16, area=(0.25, 1), cover=True, jitter={"grey": 0.2})
    spec = data.spec()
    assert (spec.area, spec.cover, spec.jitter.grey) == ((0.25, 1.0), True, 0.2)


def test_flow_is_not_cut_by_area(tmp_path, monkeypatch):
    data = open_dataset(build_dataset(tmp_path / "data", samples=2))
    kinds = type("Kind", (), {"framed": True, "planes": 2, "text": False})
    monkeypatch.setattr("shards.clips.COLUMNS", {"rgb": kinds})
    with pytest.raises(UserError, match=r"'rgb' is flow.*data.area=null"):
        Loader(data, ClipSpec(frames=4, crop=16, area=(0.4, 1.0)), batch=2)


def test_evaluation_shows_the_largest_centre_square_of_runs_that_cut_by_area(tmp_path):
    data = build_dataset(tmp_path / "data", samples=6)
    recipe = toy_recipe(data={"area": [0.4, 1.0], "resize": None, "cover": True}, train={"steps": 1})
    recipe["task"] = {"name": "classify"}
    run = train(recipe, data, out=tmp_path / "run", device="cpu").run
    subject = resolve(str(run))
    assert (subject.data.area, subject.data.cover, subject.data.resize, subject.data.crop) == (
        (0.4, 1.0),
        True,
        None,
        16,
    )
    spec = view_spec(subject.data, views=2)
    dataset = open_dataset(data)
    plan = spec.plan(dataset.facts(0), rng_for(0, 0, 0))
    assert plan.crop.tolist() == [[0, 4, 24, 24]] * 2  # of 24 x 32
    with Loader(dataset, spec, batch=2, workers=0) as loader:
        assert next(iter(loader.epoch())).clips.shape == (2, 2, 4, 16, 16, 3)
