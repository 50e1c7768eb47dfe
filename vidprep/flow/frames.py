"""What every flow method asks of its frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shards.errors import UserError

MIN_SIDE = 4


def check_frames(frames: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Grey frames as one C-contiguous (T,H,W) array, uint8 or float32 in [0,1].

    Raises UserError for fewer than two frames, frames of different sizes or types, another type, NaN, numbers outside
    [0,1], or sides below 4 pixels.
    """
    if not isinstance(frames, np.ndarray):
        frames = _stack(frames)
    if frames.ndim != 3:
        raise UserError(f"flow frames have shape {frames.shape}: give grey frames as (T,H,W), e.g. cv2.cvtColor first")
    if len(frames) < 2:
        raise UserError(f"{len(frames)} frame(s): optical flow needs at least two")
    height, width = frames.shape[1:]
    if min(height, width) < MIN_SIDE:
        raise UserError(f"frames of {height}x{width}: optical flow needs at least {MIN_SIDE}x{MIN_SIDE} pixels")
    if frames.dtype == np.float32:
        low, high = float(frames.min()), float(frames.max())
        if not (low >= 0 and high <= 1):
            found = (
                f"reach from {low:g} to {high:g}" if np.isfinite([low, high]).all() else "hold NaN or infinite values"
            )
            raise UserError(f"float32 frames {found}: values must lie in [0, 1]; divide 0..255 by 255 or give uint8")
    elif frames.dtype != np.uint8:
        raise UserError(f"frames are {frames.dtype}: give uint8, or float32 in [0, 1]")
    return np.ascontiguousarray(frames)


def _stack(frames: Sequence[np.ndarray]) -> np.ndarray:
    arrays = [np.asarray(frame) for frame in frames]
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
            raise UserError(
                f"frame {i} is {_describe(array)}, frame 0 is {_describe(arrays[0])}: "
                "all frames need one size and type; resize them first"
            )
    return np.stack(arrays) if arrays else np.empty((0, 0, 0), np.uint8)


def _describe(array: np.ndarray) -> str:
    return f"{'x'.join(map(str, array.shape))} {array.dtype}"
