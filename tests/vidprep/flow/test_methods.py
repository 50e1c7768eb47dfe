"""Bad frames, and the methods beside TV-L1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.errors import StorageError, UserError
from vidprep.flow import METHODS, dis, farneback, raft, tvl1
from vidprep.flow.scenes import affine

NAN = np.zeros((2, 20, 20), np.float32)
NAN[1, 3, 3] = np.nan


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((20, 20), np.uint8), np.zeros((20, 21), np.uint8)], "frame 1 is 20x21 uint8, frame 0 is 20x20"),
        ([np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.float32)], "one size and type"),
        (np.zeros((1, 20, 20), np.uint8), "at least two"),
        ([], "at least two"),
        (np.zeros((2, 20, 20, 3), np.uint8), "grey frames as"),
        (np.zeros((2, 20, 20), np.float64), "float64: give uint8, or float32"),
        (np.zeros((2, 20, 20), np.int16), "int16"),
        (np.full((2, 20, 20), 1.5, np.float32), r"reach from 1.5 to 1.5.*\[0, 1\]"),
        (np.full((2, 20, 20), -0.5, np.float32), r"\[0, 1\]"),
        (NAN, "NaN"),
        (np.zeros((2, 3, 20), np.uint8), "at least 4x4"),
    ],
)
@pytest.mark.parametrize("method", [tvl1, dis, farneback])
def test_bad_frames_are_named(method, frames, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(frames)


@pytest.mark.parametrize("name", ["tvl1", "dis", "farneback"])
def test_methods_find_a_shift(name: str) -> None:
    scene = affine("shift", 64, 80, seed=1, shift=(2.0, -1.0))
    flow = METHODS[name](np.stack([scene.first, scene.second, scene.second]))
    assert flow.shape == (2, 64, 80, 2) and flow.dtype == np.float32
    assert np.abs(flow[0, 12:-12, 12:-12] - [2, -1]).mean() < 0.15
    assert np.abs(flow[1]).mean() < 0.01


def test_options_are_checked() -> None:
    frames = np.zeros((2, 32, 32), np.uint8)
    with pytest.raises(UserError, match="ultrafast, fast, medium"):
        dis(frames, preset="slow")
    with pytest.raises(UserError, match="at least 16x16"):
        dis(frames[:, :8])
    with pytest.raises(UserError, match="poly_n"):
        farneback(frames, poly_n=6)
    with pytest.raises(UserError, match="pyramid_scale"):
        farneback(frames, pyramid_scale=1.0)


def test_raft_takes_a_local_file_only(tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 32), np.uint8)
    with pytest.raises(UserError, match="nothing is downloaded"):
        raft(frames)
    pytest.importorskip("torchvision")
    with pytest.raises(StorageError, match="no.pth"):
        raft(frames, weights=tmp_path / "no.pth")


def test_raft_runs_from_a_local_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    optical_flow = pytest.importorskip("torchvision.models.optical_flow")
    torch.manual_seed(0)
    torch.save(optical_flow.raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 52), dtype=np.uint8)
    flow = raft(frames, weights=tmp_path / "raft.pth", updates=1, batch=1)
    assert flow.shape == (2, 40, 52, 2) and np.isfinite(flow).all()
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no state_dict of torchvision's raft"):
        raft(frames, weights=tmp_path / "other.pth")
