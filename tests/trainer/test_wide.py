"""A data set of many samples, far into a run: the same batch as by hand, and nothing that grows with the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks._index import FRAMES, write_wide
from shards.dataset import open_dataset
from shards.mixture import order_of
from shards.order import permute
from shards.rng import rng_for
from shards.spec import ClipSpec
from trainer.data.forecast import forecast
from trainer.data.loader import Loader
from trainer.data.shard_use import Cluster

SPEC = ClipSpec(frames=4, strides=(1, 2), crop=16)
SAMPLES, STEP, BATCH = 20_000, 10_000, 32


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide(tmp_path_factory.mktemp("wide") / "data", samples=SAMPLES, per_shard=250)


def test_the_data_set_is_as_others(wide: Path) -> None:
    data = open_dataset(wide)
    assert (len(data), len(data.shard_firsts), len(data.classes)) == (SAMPLES, 80, 400)
    assert data[SAMPLES - 1].label == "class399" and data.number(data.key(12_345)) == 12_345
    assert np.array_equal(data.frames(7, [3]), data.frames(19_999, [3]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_far_into_a_run(wide: Path, workers: int) -> None:
    with Loader(wide, SPEC, batch=BATCH, seed=9, workers=workers, threads=1) as loader:
        batch = next(loader.batches(STEP))
    data = open_dataset(wide)
    positions = STEP * BATCH + np.arange(BATCH)
    epoch = STEP * BATCH // SAMPLES
    assert epoch == (STEP * BATCH + BATCH - 1) // SAMPLES == 16
    samples = permute(positions % SAMPLES, SAMPLES, seed=9, epoch=epoch)
    assert batch.sample.tolist() == samples.tolist()
    assert batch.label.tolist() == (samples * 400 // SAMPLES).tolist()
    for row, i in enumerate(samples.tolist()):
        plan = SPEC.plan(data.facts(i), rng_for(9, epoch, i, 0))
        assert batch.frames[row].tolist() == plan.frames.tolist() and int(plan.frames.max()) < FRAMES


def test_windows_of_shards_far_into_a_run(wide: Path) -> None:
    data = open_dataset(wide)
    order = order_of(data, data.select(split="train"), seed=3, shuffle="blocks:8")
    shards = [order.items(start, start + 500).sample // 250 for start in range(16 * SAMPLES, 17 * SAMPLES, 500)]
    assert {len(np.unique(part)) for part in shards} <= {9, 10}  # of eight, two or three times one is exchanged
    assert sorted(np.concatenate(shards).tolist()) == np.repeat(np.arange(80), 250).tolist()
    with Loader(data, SPEC, batch=BATCH, seed=3, shuffle="blocks:8", workers=0) as loader:
        first, again = (next(loader.batches(STEP)) for _ in range(2))
    assert torch.equal(first.sample, again.sample)
    expected = order.items(STEP * BATCH, (STEP + 1) * BATCH).sample
    assert first.sample.tolist() == expected.tolist()


def test_a_forecast_of_many_epochs_looks_up_some_items(wide: Path) -> None:
    size = int(open_dataset(wide).tar_sizes("rgb")[0])
    cluster = Cluster(ranks=4, workers=2, cache=9 * size, measured=500)
    found = forecast(open_dataset(wide), SPEC, cluster, batch=64, epochs=2, shuffle="blocks:8")
    assert found.counted < 600 and found.items == 40_000 and found.cached is not None
    assert found.cached.fits == 8
    # Shards once an epoch, 7 of them twice, and some more where batches of two epochs are in the making.
    assert 160 + 2 * 7 <= found.cached.misses < 220
    assert 0.15 < found.quality.shards < 0.25 and found.quality.classes is not None and found.quality.classes < 0.8
