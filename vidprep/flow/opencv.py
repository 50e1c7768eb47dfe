"""OpenCV's own TV-L1 on the CPU: the oracle that the other backends are measured against."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from vidprep.flow.params import TVL1Params


def solve(frames: np.ndarray, params: TVL1Params, *, threads: int = 1) -> np.ndarray:
    """(T,H,W) checked frames → (T−1,H,W,2) float32. OpenCV's own threads (cv2.setNumThreads) come on top."""

    def run(i: int) -> np.ndarray:
        # a fresh object per pair: OpenCV keeps a pyramid shortened by a small frame
        optflow: Any = cv2.optflow
        flow = optflow.DualTVL1OpticalFlow_create(
            tau=params.tau,
            lambda_=params.lambda_,
            theta=params.theta,
            nscales=params.nscales,
            warps=params.warps,
            epsilon=params.epsilon,
            innnerIterations=params.inner_iterations,
            outerIterations=params.outer_iterations,
            scaleStep=params.scale_step,
            medianFiltering=params.median_filtering,
        )
        return np.asarray(flow.calc(frames[i], frames[i + 1], None))

    if threads == 1:
        return np.stack([run(i) for i in range(len(frames) - 1)])
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(run, range(len(frames) - 1))))
