"""Throughput of the Triton backend, for benchmarks/flow.py."""

from __future__ import annotations

import time

import numpy as np
import torch

from vidprep.flow.gpu.backend import BATCH_PIXELS, Count, solve_on_device
from vidprep.flow.params import TVL1Params

BYTES = 64  # an iteration reads four constants, u and P and writes u and P


def _bandwidth(device: torch.device) -> float:
    """Bytes a second that a plain copy moves."""
    source = torch.empty(2**28, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() * 4 / best


def throughput(frames: np.ndarray) -> list[str]:
    """Markdown lines: pairs a second for (T,H,W) uint8 frames, beside what the iterations' memory traffic allows."""
    device = torch.device("cuda")
    batch = BATCH_PIXELS // (frames.shape[1] * frames.shape[2])
    part = torch.from_numpy(frames[: batch + 1]).to(device, torch.float32)
    pairs = len(part) - 1
    count = Count()
    solve_on_device(part, TVL1Params(), count=count)  # also compiles
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        solve_on_device(part, TVL1Params())
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    bound = _bandwidth(device) / (BYTES * count.pixel_iterations / pairs)
    return [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch of {pairs} pairs of "
        f"{frames.shape[2]}x{frames.shape[1]}, frames on the device.",
        "",
        f"**{pairs / best:,.0f} pairs/s**; {count.pixel_iterations / pairs / 1e6:.1f} M pixel-iterations a pair, whose "
        f"memory traffic alone allows {bound:,.0f} pairs/s ({pairs / best / bound * 100:.0f} % of the bound).",
    ]
