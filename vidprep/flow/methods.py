"""Flow methods that share the call style of `tvl1`: frames in, (T−1,H,W,2) float32 pixels out."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from shards.errors import UserError
from vidprep.flow.backends import tvl1
from vidprep.flow.frames import check_frames

Frames = np.ndarray | Sequence[np.ndarray]

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


def _as_uint8(frames: np.ndarray) -> np.ndarray:
    return frames if frames.dtype == np.uint8 else np.rint(frames * 255).astype(np.uint8)


def dis(frames: Frames, *, preset: str = "medium") -> np.ndarray:
    """Dense inverse search (Kroeger et al. 2016) by OpenCV. preset: "ultrafast", "fast" or "medium"."""
    if preset not in _PRESETS:
        raise UserError(f"unknown DIS preset {preset!r}: known are {', '.join(_PRESETS)}")
    images = _as_uint8(check_frames(frames))
    if min(images.shape[1:]) < 16:
        raise UserError(f"frames of {images.shape[1]}x{images.shape[2]}: method dis needs at least 16x16; use tvl1")
    solver = cv2.DISOpticalFlow.create(_PRESETS[preset])
    # each pair starts from zero, so that a pair's flow does not depend on the pairs before it
    return np.stack([solver.calc(a, b, None) for a, b in itertools.pairwise(images)])  # type: ignore[call-overload]


def farneback(
    frames: Frames,
    *,
    pyramid_scale: float = 0.5,
    levels: int = 5,
    window: int = 15,
    iterations: int = 3,
    poly_n: int = 5,
    poly_sigma: float = 1.2,
) -> np.ndarray:
    """Polynomial expansion (Farnebäck 2003) by OpenCV; parameters as in cv2.calcOpticalFlowFarneback."""
    if not 0 < pyramid_scale < 1:
        raise UserError(f"pyramid_scale={pyramid_scale}: must lie between 0 and 1")
    if min(levels, window, iterations) < 1 or poly_n not in (5, 7):
        raise UserError("farneback needs levels, window and iterations of at least 1 and poly_n 5 or 7")
    images = _as_uint8(check_frames(frames))
    return np.stack(
        [
            cv2.calcOpticalFlowFarneback(
                a,
                b,
                None,
                pyramid_scale,
                levels,
                window,
                iterations,
                poly_n,
                poly_sigma,
                0,  # type: ignore[call-overload]
            )
            for a, b in itertools.pairwise(images)
        ]
    )


def raft(
    frames: Frames, *, weights: str | Path | None = None, device: str = "cpu", batch: int = 8, updates: int = 12
) -> np.ndarray:
    """RAFT (Teed, Deng 2020) of torchvision, raft_large or raft_small according to the weights file.

    weights: a local state_dict file of torchvision's model; nothing is ever downloaded. Grey frames are repeated over
    the three channels. updates: refinement steps.
    """
    if weights is None:
        raise UserError(
            "method raft needs weights=FILE with a state_dict of torchvision's raft_large or raft_small, e.g. "
            "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth; nothing is downloaded by itself"
        )
    images = check_frames(frames)
    solve = importlib.import_module("vidprep.flow.raft").solve
    return cast(np.ndarray, solve(images, Path(weights), device=device, batch=batch, updates=updates))


METHODS: dict[str, Callable[..., np.ndarray]] = {"tvl1": tvl1, "dis": dis, "farneback": farneback, "raft": raft}
