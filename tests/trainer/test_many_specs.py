"""Several specs over one stream of videos: every one has a batch of its own, and a frame is decoded once for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shards import jpeg
from shards.dataset import open_dataset
from shards.errors import UserError
from shards.rng import rng_for
from shards.spec import ClipSpec, Jitter
from tests.tiny import build_dataset
from trainer.data.batch import Batch
from trainer.data.loader import Loader
from vidprep.derive import add_flow, add_labels

SIZE, RESIZE = (32, 40), (36, 44)
QUICK = {"backend": "numba", "nscales": 1, "warps": 1, "outer_iterations": 1, "inner_iterations": 2, "workers": 1}
PAIR = ClipSpec(
    frames=4,
    strides=(1, 2),
    clips=3,
    windows=(0, 1, 1),
    stride_rows=((0, 0, 1), (1, 1, 0)),
    deal=True,
    resize=RESIZE,
    crop=20,
    jitter=Jitter(brightness=0.4),
)
TABLED = ClipSpec(frames=4, resize=RESIZE, crop=24, flow="flow", table="statistics")
LONG = ClipSpec(frames=7, fps=10.0, crop=16, draws=2)
FIELDS = ClipSpec(frames=3, column="flow", resize=RESIZE, crop=24)
SPECS = (PAIR, TABLED, LONG, FIELDS)
EVERY = ("clips", "sample", "label", "stride", "frames", "flip")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = build_dataset(tmp_path_factory.mktemp("many"), samples=6, frames=(12, 1, 9), size=SIZE)
    add_flow(dest, **QUICK)  # type: ignore[arg-type]
    add_labels(dest, crop=24, window=4, resize=RESIZE, stride=2, views=4, workers=1)
    return dest


def batches(url: Path, specs: ClipSpec | tuple[ClipSpec, ...], count: int = 4, **options) -> list[Batch]:
    with Loader(url, specs, batch=4, seed=3, repeats=2, **{"workers": 0, **options}) as loader:
        return list(loader.batches(0, count))


def same(ours: Batch, theirs: Batch) -> bool:
    one, other = list(ours.tensors()), list(theirs.tensors())
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_first_spec_shows_what_it_shows_alone(url: Path) -> None:
    with Loader(url, SPECS, batch=4, workers=0) as loader:
        samples = loader.samples
    assert samples.tolist() == [0, 2, 3, 5]  # the others have no flow
    for first in SPECS:
        others = tuple(spec for spec in SPECS if spec is not first)
        for both, alone in zip(batches(url, (first, *others)), batches(url, first, samples=samples), strict=True):
            assert same(replace(both, more=()), alone)


def test_every_further_spec_draws_for_itself(url: Path) -> None:
    data = open_dataset(url, columns=("rgb", "flow", "statistics"))
    for step, batch in enumerate(batches(url, SPECS)):
        assert len(batch.more) == 3 and all(torch.equal(other.sample, batch.sample) for other in batch.more)
        assert batch.more[0].targets is not None and batch.more[1].draws is not None
        assert batch.more[2].clips.shape == (4, 1, 3, 24, 24, 2) and batch.more[2].flow_zero == batch.more[0].flow_zero
        for row, sample in enumerate(batch.sample.tolist()):
            epoch = (4 * step + row) // 8
            streams = [rng_for(3, epoch, sample, repeat, 2 << 32) for repeat in range(2)]
            plans = [LONG.plan(data.facts(sample), rng) for rng in streams]
            assert batch.more[1].frames[row].tolist() in [plan.frames.tolist() for plan in plans]
            assert batch.more[1].draws[row].tolist() in [plan.draws.tolist() for plan in plans]


def test_workers_and_ranks_do_not_change_batches(url: Path) -> None:
    here = batches(url, SPECS)
    there = batches(url, SPECS, workers=2, threads=2)
    ranks = [batches(url, SPECS, rank=rank, world=2) for rank in (0, 1)]
    for k, whole in enumerate(here):
        assert same(whole, there[k])
        for place, part in enumerate((whole, *whole.more)):
            shares = [(parts[k], *parts[k].more)[place] for parts in ranks]
            for name in EVERY:
                assert torch.equal(getattr(part, name), torch.cat([getattr(share, name) for share in shares])), name


def test_a_frame_is_decoded_once_for_all_specs(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = jpeg.decode
    monkeypatch.setattr(jpeg, "decode", lambda data, **to: decoded.append(1) or decode(data, **to))
    frames = [PAIR, replace(LONG, fps=None), replace(PAIR, jitter=None, deal=False)]
    made = batches(url, tuple(frames), threads=1)
    wanted = 0
    for batch in made:
        shown = [part.frames.flatten(1).numpy() for part in (batch, *batch.more)]
        runs = np.split(np.arange(4), np.flatnonzero(np.diff(batch.sample.numpy())) + 1)
        wanted += sum(len(np.unique(np.concatenate([part[run].ravel() for part in shown]))) for run in runs)
    assert len(decoded) == wanted < sum(part.frames.numel() for batch in made for part in (batch, *batch.more)) // 2


def test_batches_move_and_are_copied_whole(url: Path) -> None:
    batch = batches(url, SPECS, 1)[0]
    moved = batch.to("meta")
    assert [len(list(other.tensors())) for other in batch.more] == [len(list(other.tensors())) for other in moved.more]
    assert all(tensor.is_meta for tensor in moved.tensors())
    kept = batches(url, SPECS, 12, workers=1)  # more than the ring has slots
    assert all(same(a, b) for a, b in zip(kept, batches(url, SPECS, 12), strict=True))


def test_a_column_that_one_spec_lacks_is_named(url: Path) -> None:
    with pytest.raises(UserError, match="no column 'flow-raft'"):
        Loader(url, (PAIR, replace(TABLED, flow="flow-raft")), batch=4, workers=0)
