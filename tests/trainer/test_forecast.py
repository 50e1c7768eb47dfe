"""The forecast of a run's reads against runs; the model of a cache against a literal one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.dataset import open_dataset
from shards.errors import UserError
from shards.mixture import Mixture, open_data
from shards.spec import ClipSpec
from tests.tiny import build_dataset
from tests.trainer.toys import toy_recipe
from tests.vidprep.foreign.tars import video_samples, write_tar
from trainer.data.forecast import forecast
from trainer.data.jobs import parts_of
from trainer.data.loader import Loader
from trainer.data.shard_use import Cluster, window_that_fits
from trainer.data.simulate import simulate
from vidprep.derive import add_flow, add_labels
from vidprep.foreign.indexing import index_shards

Make = Callable[..., Path]
SPEC = ClipSpec(frames=5, strides=(1, 2, 3), clips=2, crop=16)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 samples of 12, 1, 40 and 17 frames in 7 shards."""
    return build_dataset(tmp_path_factory.mktemp("forecast"), samples=25, frames=(12, 1, 40, 17))


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples with flow and a table."""
    dest = build_dataset(tmp_path_factory.mktemp("columns"), samples=6, frames=(9, 30), size=(32, 40))
    add_flow(dest, backend="numba", nscales=2, warps=1, outer_iterations=2, inner_iterations=4, workers=1)
    add_labels(dest, crop=24, window=4, resize=(36, 44), stride=2, views=4, workers=1)
    return dest


def measured(data: Any, spec: ClipSpec | list[ClipSpec], *, ranks: int, steps: int, **options: Any) -> tuple[int, int]:
    """Reads and bytes of a run, without those of opening its data."""
    reads = size = 0
    for rank in range(ranks):
        loader = Loader(open_data(data), spec, rank=rank, world=ranks, workers=0, threads=1, **options)
        opened = [replace(part.storage.stats) for part in parts_of(loader.dataset)]
        for _ in loader.batches(0, steps):
            pass
        for part, before in zip(parts_of(loader.dataset), opened, strict=True):
            stats = part.storage.stats
            reads, size = reads + stats.reads - before.reads, size + stats.bytes - before.bytes
    return reads, size


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": "blocks:2", "split": "train"},
        {"repeats": 4, "clips_per_read": 2},
        {"repeats": 3, "clips_per_read": 3, "shuffle": "none"},  # groups are cut by ranks and batches
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_reads_and_bytes_are_those_of_a_run(url: Path, ranks: int, options: dict[str, Any]) -> None:
    found = forecast(open_data(url), SPEC, Cluster(ranks=ranks), batch=8, steps=9, seed=4, **options)
    assert (found.reads, found.bytes) == measured(url, SPEC, ranks=ranks, batch=8, steps=9, seed=4, **options)
    assert (found.items, found.clips, found.counted) == (72, 144, 72)
    assert found.bytes < found.tar_bytes * found.epochs * options.get("repeats", 1) * SPEC.clips


@pytest.mark.parametrize(
    "spec",
    [
        ClipSpec(frames=4, resize=(36, 44), crop=24, flow="flow", table="statistics"),
        ClipSpec(frames=4, crop=24, column="flow", clips=2),
        ClipSpec(frames=4, crop=24, fps=10),
    ],
)
def test_all_columns_are_counted(columns: Path, spec: ClipSpec) -> None:
    options: dict[str, Any] = {"batch": 6, "steps": 3, "seed": 1, "repeats": 2, "clips_per_read": 2}
    found = forecast(open_data(columns), spec, Cluster(ranks=3), **options)
    assert (found.reads, found.bytes) == measured(columns, spec, ranks=3, **options)


def test_specs_that_share_their_reads_are_counted(columns: Path) -> None:
    specs = [ClipSpec(frames=4, strides=(1, 2), clips=2, crop=24), ClipSpec(frames=6, crop=16, flow="flow")]
    specs.append(ClipSpec(frames=4, resize=(36, 44), crop=24, table="statistics"))
    options: dict[str, Any] = {"batch": 6, "steps": 3, "seed": 1, "repeats": 2, "clips_per_read": 2}
    found = forecast(open_data(columns), specs, Cluster(ranks=3), **options)
    assert (found.reads, found.bytes) == measured(columns, specs, ranks=3, **options)
    assert found.clips == 18 * 4
    alone = [forecast(open_data(columns), spec, Cluster(ranks=3), **options) for spec in specs]
    assert found.reads < sum(each.reads for each in alone) and found.bytes < sum(each.bytes for each in alone)


def test_encoded_videos_of_others_are_counted(tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    write_tar(tars / "0.tar", video_samples(tmp_path, range(3)))
    index_shards([tars], workers=1)
    spec = ClipSpec(frames=4, strides=(1, 3), crop=24)
    options: dict[str, Any] = {"batch": 4, "steps": 3, "repeats": 2, "clips_per_read": 2}
    found = forecast(open_data(tars), spec, Cluster(), **options)
    assert (found.reads, found.bytes) == measured(tars, spec, ranks=1, **options)


def test_mixtures_are_counted(url: Path, tiny_dataset: Make) -> None:
    data = [url, f"{tiny_dataset(samples=7, frames=20)}=0.6"]
    found = forecast(open_data(data), SPEC, Cluster(ranks=2), batch=8, steps=20)
    assert (found.reads, found.bytes) == measured(data, SPEC, ranks=2, batch=8, steps=20)
    assert (found.samples, found.shards) == (32, 9)


def test_nothing_of_the_tars_is_read(url: Path) -> None:
    data = open_dataset(url)
    before = replace(data.storage.stats)
    forecast(data, SPEC, Cluster(), batch=8, epochs=2)
    assert data.storage.stats == before


def test_long_runs_are_estimated_from_batches_all_over_them(url: Path) -> None:
    whole = forecast(open_data(url), SPEC, Cluster(), batch=5, epochs=60)
    part = forecast(open_data(url), SPEC, Cluster(measured=300), batch=5, epochs=60)
    assert (part.counted, part.items, whole.counted) == (300, 1500, 1500)
    assert abs(part.reads / whole.reads - 1) < 0.1 and abs(part.bytes / whole.bytes - 1) < 0.1


def test_ranges_that_lie_close_are_read_in_one(url: Path) -> None:
    alone, joined = (forecast(open_data(url), SPEC, Cluster(gap=gap), batch=5) for gap in (0, 1 << 20))
    assert joined.reads == 25 and alone.reads > 25
    assert joined.bytes > alone.bytes


def literal(url: Path, capacity: int, **options: Any) -> tuple[int, int]:
    """Misses and bytes of one process that reads item by item and drops the shard used longest ago."""
    data = open_dataset(url)
    kept: list[int] = []
    misses = size = 0
    sizes = data.tar_sizes("rgb").tolist()
    loader = Loader(data, SPEC, workers=0, threads=1, **options)
    for batch in loader.batches(0, 20):
        for i in batch.sample.tolist():
            shard = int(data.records["shard"][i])
            if shard in kept:
                kept.remove(shard)
            else:
                misses, size = misses + 1, size + sizes[shard]
            kept.append(shard)
            while sum(sizes[s] for s in kept) > capacity:
                kept.pop(0)
    return misses, size


@pytest.mark.parametrize("shuffle", ["full", "blocks:2", "none"])
def test_the_cache_is_one_of_whole_shards(url: Path, shuffle: str) -> None:
    capacity = int(np.sort(open_dataset(url).tar_sizes("rgb"))[-3:].sum())
    options: dict[str, Any] = {"batch": 5, "shuffle": shuffle, "seed": 2}
    found = forecast(open_data(url), SPEC, Cluster(workers=1, cache=capacity), steps=20, **options)
    assert found.cached is not None and found.cached.fits == 2
    assert (found.cached.misses, found.cached.bytes) == literal(url, capacity, **options)
    assert found.cached.hits + found.cached.misses == 100
    assert found.cached.again > 20 if shuffle == "full" else found.cached.again <= 4  # of 4 epochs


def test_nodes_have_caches_of_their_own(url: Path) -> None:
    size = int(open_dataset(url).tar_sizes("rgb").sum())
    for nodes in (1, 2):
        cluster = Cluster(ranks=4, nodes=nodes, workers=3, cache=size)
        found = forecast(open_data(url), SPEC, cluster, batch=20, epochs=12)
        assert found.cached is not None
        assert (found.cached.misses, found.cached.bytes, found.cached.again) == (7 * nodes, size * nodes, 0)
        assert found.cached.fits == 7 and found.working_set <= size


def test_what_is_in_use_at_once(url: Path) -> None:
    sizes = np.sort(open_dataset(url).tar_sizes("rgb"))[::-1]
    for shuffle, count in (("none", 2), ("blocks:1", 2), ("blocks:3", 4), ("blocks:9", 7), ("full", 7)):
        found = forecast(open_data(url), SPEC, Cluster(), batch=5, shuffle=shuffle)
        assert found.working_set == sizes[:count].sum()


def test_windows_that_fit() -> None:
    first, second = np.array([5, 9, 1, 7, 3]), np.array([4, 2])
    fits = {capacity: window_that_fits([first], capacity) for capacity in (9, 15, 16, 21, 23, 24, 25, 100)}
    assert fits == {9: 0, 15: 0, 16: 1, 21: 2, 23: 2, 24: 3, 25: 5, 100: 5}
    assert [window_that_fits([first, second], capacity) for capacity in (21, 22, 27, 31)] == [0, 1, 2, 5]


def test_quality_is_one_for_a_full_permutation_and_less_for_others(tiny_dataset: Make) -> None:
    """Samples of one class together, four classes, 16 shards."""
    names = tuple(f"class{c}" for c in range(4))
    url = tiny_dataset(samples=320, frames=1, per_shard=20, size=(8, 8), classes=tuple(np.repeat(names, 80)))
    spec = ClipSpec(frames=1, crop=8)
    found = {
        shuffle: forecast(open_data(url), spec, Cluster(), batch=10, epochs=4, shuffle=shuffle).quality
        for shuffle in ("full", "blocks:4", "none")
    }
    full, blocks, none = found["full"], found["blocks:4"], found["none"]
    assert full.videos == blocks.videos == pytest.approx(1)
    assert full.shards == pytest.approx(1, abs=0.03) and full.classes == pytest.approx(1, abs=0.05)
    assert 0.4 < blocks.shards < 0.7 and none.shards < 0.2
    assert full.epochs is not None and abs(full.epochs) < 0.2 and none.epochs == 1
    assert blocks.epochs is not None and abs(blocks.epochs) < 0.4
    together = forecast(open_data(url), spec, Cluster(), batch=10, repeats=5, clips_per_read=5).quality
    assert together.videos == pytest.approx(0.2, abs=0.02) == together.figure
    mixed = open_data([url, f"{tiny_dataset(samples=40, frames=1, size=(8, 8))}=0.5"])
    assert isinstance(mixed, Mixture)
    assert forecast(mixed, spec, Cluster(), batch=10, epochs=4).quality.videos == pytest.approx(1, abs=0.05)


def test_a_recipe_says_what_is_read(url: Path) -> None:
    recipe = toy_recipe(data={"repeats": 4, "clips_per_read": 4, "split": "train", "resize": None})
    by_hand = simulate(
        url, Cluster(), frames=4, strides=(1, 2, 3, 4), batch=4, repeats=4, clips_per_read=4, split="train"
    )
    found = simulate(url, Cluster(), recipe=recipe)
    assert found == by_hand
    assert simulate(url, Cluster(), recipe=recipe, batch=2, shuffle="none").quality != found.quality


@pytest.mark.parametrize(
    ("cluster", "options", "told"),
    [
        ({"ranks": 3, "nodes": 2}, {}, "3 ranks cannot be shared out to 2 nodes"),
        ({"ranks": 0}, {}, "ranks is 0"),
        ({"cache": 0}, {}, "cache has 0 bytes"),
        ({"ranks": 3}, {"batch": 8}, "train.batch=6"),
        ({}, {"steps": 2, "epochs": 1.0}, "not both"),
        ({}, {"shuffle": "blocks"}, "blocks:16"),
        ({}, {"column": "flow"}, "no column 'flow'"),
    ],
)
def test_wrong_options(url: Path, cluster: dict[str, int], options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        simulate(url, Cluster(**cluster), **options)
