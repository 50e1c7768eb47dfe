"""Features: pooling, the cache, and that nothing about a network's state leaks into them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from shards.dataset import open_dataset
from shards.errors import UserError
from tests.conftest import ROOT
from tests.trainer.evaluation_runs import Tiny, write_tiny_weights
from trainer.config import DataConfig
from trainer.engine.distributed import Ranks
from trainer.evaluation.features import extract, weights_digest
from trainer.evaluation.views import view_spec

ONE = Ranks(0, 1, torch.device("cpu"))
SPEC = view_spec(DataConfig(frames=4, resize=(20, 24), crop=16), views=2)


def make(seed=0):
    torch.manual_seed(seed)
    return Tiny()


def run(backbone, dataset, **options):
    return extract(backbone, dataset, dataset.select(), SPEC, ranks=ONE, workers=0, **options)


def test_pooling_is_the_mean_or_the_maximum_of_the_last_map(tiny_dataset):
    dataset = open_dataset(tiny_dataset(samples=3))
    backbone = make().train()
    average, maximum = run(backbone, dataset), run(backbone, dataset, pooling="max")
    assert not backbone.training
    assert average.values.shape == (3, 6)
    assert average.keys == ("video_000", "video_001", "video_002")
    assert (maximum.values >= average.values).all()
    assert (maximum.values > average.values).any()
    with pytest.raises(UserError, match="allowed: avg, max"):
        run(backbone, dataset, pooling="median")


def test_the_cache_is_used_for_the_same_weights_only(tiny_dataset, tmp_path, monkeypatch):
    dataset = open_dataset(tiny_dataset(samples=5))
    cache = tmp_path / "features"
    first = run(make(), dataset, cache=cache)
    assert len(list(cache.iterdir())) == 1

    def never(*args, **kwargs):
        raise AssertionError("the network was run again")

    monkeypatch.setattr(Tiny, "forward", never)
    again = run(make(), dataset, cache=cache)
    assert np.array_equal(first.values, again.values)
    for change in ({"backbone": make(1)}, {"pooling": "max"}):
        with pytest.raises(AssertionError, match="run again"):
            run(change.pop("backbone", make()), dataset, cache=cache, **change)
    with pytest.raises(AssertionError, match="run again"):
        extract(make(), dataset, np.array([1, 2]), SPEC, ranks=ONE, workers=0, cache=cache)
    with pytest.raises(AssertionError, match="run again"):
        other = view_spec(DataConfig(frames=4, resize=(20, 24), crop=12), views=2)
        extract(make(), dataset, dataset.select(), other, ranks=ONE, workers=0, cache=cache)


def test_the_digest_changes_with_every_weight():
    backbone = make()
    before = weights_digest(backbone)
    assert before == weights_digest(make())
    with torch.no_grad():
        backbone.conv.bias[5] += 1e-6
    assert before != weights_digest(backbone)


def test_load_backbone_is_there_in_a_fresh_process(tmp_path):
    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    code = f"import trainer; print(trainer.load_backbone({str(weights)!r}).width)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "6\n", done.stderr
