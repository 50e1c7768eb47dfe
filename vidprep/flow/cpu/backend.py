"""TV-L1 on the CPU: checks, workspaces and threads around the compiled solver."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

from vidprep.flow.cpu.median import EDGE
from vidprep.flow.cpu.pyramid import level_sizes
from vidprep.flow.cpu.simd import LANES
from vidprep.flow.cpu.solve import row_pitch, solve_pair
from vidprep.flow.cpu.sweep import LINES, MAX_STEPS
from vidprep.flow.cpu.warp import MARGIN, cubic_coefficients
from vidprep.flow.params import TVL1Params


def _aligned(count: int) -> np.ndarray:
    """(count,) float32 zeros that begin on a cache line: unaligned vectors would each touch two."""
    raw = np.zeros(count + LANES, np.float32)
    return raw[-(raw.ctypes.data // 4) % LANES :][:count]


class Workspace:
    """Scratch memory for frames of one size; one thread uses it at a time."""

    def __init__(self, height: int, width: int, params: TVL1Params) -> None:
        self.params = params
        self.sizes = level_sizes(height, width, params.nscales, params.scale_step)
        columns = -(-width // LANES) * LANES
        padded = columns + 2 * EDGE
        pixels = sum(h * w for h, w in self.sizes)
        self.coefficients = cubic_coefficients()
        # in the order of solve's arguments; LANES more where vectors reach past the last pixel
        self.scratch = (
            _aligned((height + 2) * LINES * row_pitch(width) + 2 * LANES),
            _aligned(pixels + 2 * LANES),
            _aligned(pixels + 2 * LANES),
            _aligned((height + 2 * MARGIN) * 4 * (width + 2 * MARGIN) + 4 * LANES),
            _aligned((height + 4) * padded),
            _aligned(5 * padded),
            _aligned(3 * columns),
            _aligned(2 * columns),
            _aligned(LANES * MAX_STEPS),
            np.zeros(width, np.int64),
            np.zeros(width, np.float32),
            np.zeros(2 * width, np.float32),
            np.zeros(2 * height * width, np.float32),
            np.arange(columns, dtype=np.float32),
            np.zeros(2 * columns, np.int32),
            _aligned(5 * columns),
        )

    def solve(self, first: np.ndarray, second: np.ndarray, flow: np.ndarray) -> int:
        """Flow of one pair into `flow` (h, w, 2) float32; returns the number of inner iterations."""
        p = self.params
        if first.dtype != np.uint8:
            first, second = first * np.float32(255), second * np.float32(255)
        first, second = first.astype(np.float32, copy=False), second.astype(np.float32, copy=False)
        sizes = np.array(self.sizes, np.int64)
        return solve_pair(
            first, second, flow, sizes, p.scale_step, p.warps, p.inner_iterations, p.outer_iterations,
            p.median_filtering, p.epsilon, np.float32(p.tau), np.float32(p.tau / p.theta),
            np.float32(p.lambda_ * p.theta), self.coefficients, *self.scratch,
        )  # fmt: skip


def solve(frames: np.ndarray, params: TVL1Params, *, threads: int = 1) -> np.ndarray:
    """(T,H,W) checked frames → (T−1,H,W,2) float32; pairs are independent, so `threads` does not change a byte."""
    frames = np.ascontiguousarray(frames)
    pairs, height, width = len(frames) - 1, *frames.shape[1:]
    flows = np.empty((pairs, height, width, 2), np.float32)
    threads = min(threads, pairs)
    idle: SimpleQueue[Workspace] = SimpleQueue()
    for _ in range(threads):
        idle.put(Workspace(height, width, params))

    def run(i: int) -> None:
        workspace = idle.get()
        try:
            workspace.solve(frames[i], frames[i + 1], flows[i])
        finally:
            idle.put(workspace)

    if threads == 1:
        for i in range(pairs):
            run(i)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="flow") as pool:
            list(pool.map(run, range(pairs)))
    return flows
