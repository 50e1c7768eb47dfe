"""TV-L1 of an OpenCV built with CUDA (docs/opencv-cuda.md).

Another variant of the algorithm (no median filter, one run of iterations per warp, its own stopping rule), so it is
outside the parity of the other backends. Not in any wheel on PyPI.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from shards.errors import UserError
from vidprep.flow.params import TVL1Params

STREAMS = 2


def _module() -> Any:
    cuda: Any = getattr(cv2, "cuda", None)
    if not hasattr(cuda, "OpticalFlowDual_TVL1"):
        raise UserError(
            f"this OpenCV ({cv2.__version__}) is built without CUDA optical flow: build one with "
            "scripts/build-opencv-cuda.sh (docs/opencv-cuda.md), or use backend='triton', which needs no build"
        )
    if cuda.getCudaEnabledDeviceCount() < 1:
        raise UserError("OpenCV finds no CUDA device: check nvidia-smi, or use backend='numba'")
    return cuda


def solve(frames: np.ndarray, params: TVL1Params, *, threads: int = 1) -> np.ndarray:
    """(T,H,W) checked frames → (T−1,H,W,2) float32. `threads` has no effect: the work is on the device.

    Pairs alternate between two streams, each with its own solver and flow buffer. A frame is uploaded once and serves
    as the second of one pair and the first of the next.
    """
    cuda = _module()
    pairs = len(frames) - 1
    streams = [cuda.Stream() for _ in range(STREAMS)]
    solvers = [
        cuda.OpticalFlowDual_TVL1.create(
            params.tau,
            params.lambda_,
            params.theta,
            params.nscales,
            params.warps,
            params.epsilon,
            params.inner_iterations * params.outer_iterations,
            params.scale_step,
            0.0,
            False,
        )
        for _ in range(STREAMS)
    ]
    images = [cuda.GpuMat() for _ in range(STREAMS + 1)]
    fields = [cuda.GpuMat() for _ in range(STREAMS)]
    waiting: list[int | None] = [None] * STREAMS
    flows = np.empty((pairs, *frames.shape[1:], 2), np.float32)

    def collect(lane: int) -> None:
        pair = waiting[lane]
        if pair is not None:
            streams[lane].waitForCompletion()
            flows[pair] = fields[lane].download()
            waiting[lane] = None

    images[0].upload(frames[0])
    for i in range(pairs):
        lane = i % STREAMS
        collect(lane)  # also frees the image that is overwritten next: its last pair ran in this lane
        following = images[(i + 1) % len(images)]
        following.upload(frames[i + 1])
        solvers[lane].calc(images[i % len(images)], following, fields[lane], streams[lane])
        waiting[lane] = i
    for lane in range(STREAMS):
        collect(lane)
    return flows
