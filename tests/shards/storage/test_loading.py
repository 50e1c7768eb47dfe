"""The training loader makes the same batches from a bucket as from a disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shards.spec import ClipSpec
from tests.tiny import build_dataset
from trainer.data.loader import Loader


@pytest.mark.parametrize("cached", [False, True])
def test_batches_are_those_of_a_disk(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    build_dataset(tmp_path / "local")
    build_dataset(s3)  # type: ignore[arg-type]
    if cached:
        monkeypatch.setenv("VIDPREP_CACHE", str(tmp_path / "cache"))
    spec = ClipSpec(frames=4, strides=(1, 2), clips=2, crop=16)
    for workers in (0, 1):
        with (
            Loader(str(tmp_path / "local"), spec, batch=4, seed=3, workers=0) as one,
            Loader(s3, spec, batch=4, seed=3, workers=workers, threads=2) as other,
        ):
            for ours, theirs in zip(one.batches(5, 9), other.batches(5, 9), strict=True):
                assert torch.equal(ours.clips, theirs.clips)
                assert torch.equal(ours.sample, theirs.sample)
    assert bool(list((tmp_path).glob("cache/*.data"))) == cached
