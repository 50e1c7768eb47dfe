"""TV-L1 on a CUDA device with Triton, many pairs at a time.

Frames are uploaded once; a frame is the second of one pair and the first of the next, so its pyramid and gradients
are computed once. All pairs of a batch walk through the levels together; after every `CHECK` iterations the pairs
whose mean squared update has fallen to epsilon² are switched off on the device, and the host looks whether any is
left.

Runs on the CPU under Triton's interpreter (TRITON_INTERPRET=1), for small tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton  # type: ignore[import-untyped]

from shards.errors import UserError
from vidprep.flow.cpu.pyramid import level_sizes
from vidprep.flow.gpu import kernels
from vidprep.flow.gpu.median import median
from vidprep.flow.params import TVL1Params

CHECK = 5  # iterations between two tests of the stopping rule
BATCH_PIXELS = 2**24  # 1.5 GiB of working memory
TILE = {"BY": 4, "BX": 64}


def _device() -> torch.device:
    if triton.knobs.runtime.interpret:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("backend 'triton' needs an NVIDIA GPU that torch can use: check nvidia-smi, or use 'numba'")
    return torch.device("cuda")


def _grid(w: int, h: int, planes: int) -> tuple[int, int, int]:
    return triton.cdiv(w, TILE["BX"]), triton.cdiv(h, TILE["BY"]), planes


@dataclass
class Count:
    """What a run did, for the bandwidth bound of the benchmark."""

    pixel_iterations: int = 0


@dataclass
class _Level:
    """One level of a batch: frames and their gradients (F,h,w), flow and dual in two slots."""

    images: torch.Tensor
    dx: torch.Tensor
    dy: torch.Tensor
    u: torch.Tensor  # (2,B,2,h,w)
    p: torch.Tensor  # (2,B,4,h,w)
    u_slots: torch.Tensor  # (B,) int32
    p_slots: torch.Tensor

    @classmethod
    def start(cls, images: torch.Tensor) -> _Level:
        frames, h, w = images.shape
        pairs, device = frames - 1, images.device
        dx, dy = torch.empty_like(images), torch.empty_like(images)
        kernels.gradients[_grid(w, h, frames)](images, dx, dy, h, w, **TILE)
        slots = torch.zeros((2, pairs), dtype=torch.int32, device=device)
        u = torch.zeros((2, pairs, 2, h, w), device=device)
        return cls(images, dx, dy, u, torch.zeros((2, pairs, 4, h, w), device=device), slots[0], slots[1])


def _resize(
    source: torch.Tensor, target: torch.Tensor, slots: torch.Tensor, scales: tuple[float, float], factor: float
) -> None:
    """source (S,planes…,h,w), target (planes…,rows,columns)."""
    h, w = source.shape[-2:]
    rows, columns = target.shape[-2:]
    planes = target.numel() // (rows * columns)
    kernels.resize[_grid(columns, rows, planes)](
        source, target, slots, planes, h, w, rows, columns, *scales, factor, PER=planes // len(slots), **TILE
    )


def _pyramid(frames: torch.Tensor, params: TVL1Params) -> list[torch.Tensor]:
    levels = [frames]
    slots = torch.zeros(len(frames), dtype=torch.int32, device=frames.device)
    step = 1 / params.scale_step
    height, width = frames.shape[1:]
    for size in level_sizes(height, width, params.nscales, params.scale_step)[1:]:
        smaller = torch.empty((len(frames), *size), device=frames.device)
        _resize(levels[-1], smaller, slots, (step, step), 1.0)
        levels.append(smaller)
    return levels


def _improve(level: _Level, params: TVL1Params, count: Count | None) -> None:
    """All warps of one level."""
    frames, h, w = level.images.shape
    pairs, device = frames - 1, level.images.device
    grid = _grid(w, h, pairs)
    constants = torch.empty((pairs, 4, h, w), device=device)
    errors = torch.empty((pairs, grid[0] * grid[1]), device=device)
    limit = params.epsilon**2 * h * w
    for _ in range(params.warps):
        kernels.data_term[grid](
            level.images, level.dx, level.dy, level.u, level.u_slots, constants, pairs, h, w,
            params.lambda_ * params.theta, **TILE,
        )  # fmt: skip
        active = torch.ones(pairs, dtype=torch.int32, device=device)
        for _ in range(params.outer_iterations):
            if params.median_filtering > 1:
                median[_grid(w, h, 2 * pairs)](
                    level.u, level.u_slots, active, pairs, h, w, SIZE=params.median_filtering, **TILE
                )
                level.u_slots ^= active
            if not _inner(level, constants, active, errors, limit, params, count):
                break


def _inner(
    level: _Level, constants: torch.Tensor, active: torch.Tensor, errors: torch.Tensor, limit: float,
    params: TVL1Params, count: Count | None,
) -> bool:  # fmt: skip
    """The iterations between two medians; whether any pair is still active."""
    h, w = level.images.shape[1:]
    grid = _grid(w, h, len(active))
    for start in range(0, params.inner_iterations, CHECK):
        steps = min(CHECK, params.inner_iterations - start)
        if count is not None:
            count.pixel_iterations += int(active.sum()) * steps * h * w
        for step in range(steps):
            kernels.iterate[grid](
                constants, level.u, level.p, level.u_slots, level.p_slots, active, errors, len(active), step, h, w,
                params.tau, params.tau / params.theta, WITH_ERROR=step == steps - 1, **TILE,
            )  # fmt: skip
        if steps % 2:
            level.u_slots ^= active
            level.p_slots ^= active
        active &= errors.sum(1) > limit
        if not bool(active.any()):
            return False
    return True


def solve_on_device(frames: torch.Tensor, params: TVL1Params, *, count: Count | None = None) -> torch.Tensor:
    """(F,H,W) float32 frames in 0..255 on the device → (F−1,H,W,2) float32 there."""
    pyramid = _pyramid(frames, params)
    coarser: _Level | None = None
    for images in reversed(pyramid):
        level = _Level.start(images)
        if coarser is not None:
            scales = (coarser.u.shape[-2] / images.shape[1], coarser.u.shape[-1] / images.shape[2])
            _resize(coarser.u, level.u[0], coarser.u_slots, scales, 1 / params.scale_step)
        _improve(level, params, count)
        coarser = level
    pairs = torch.arange(len(frames) - 1, device=frames.device)
    return level.u[level.u_slots.long(), pairs].permute(0, 2, 3, 1).contiguous()


def solve(frames: np.ndarray, params: TVL1Params, *, threads: int = 1) -> np.ndarray:
    """(T,H,W) checked frames → (T−1,H,W,2) float32. `threads` has no effect: the work is on the device."""
    device = _device()
    uploaded = torch.from_numpy(frames).to(device)
    scale = 1.0 if frames.dtype == np.uint8 else 255.0
    batch = max(1, BATCH_PIXELS // (frames.shape[1] * frames.shape[2]))
    flows: list[Any] = []
    for start in range(0, len(frames) - 1, batch):
        part = uploaded[start : start + batch + 1].to(torch.float32) * scale
        flows.append(solve_on_device(part.contiguous(), params).cpu().numpy())
    return np.concatenate(flows)
