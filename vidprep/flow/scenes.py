"""Rendered frame pairs whose motion is known exactly, for tests and benchmarks.

A texture is a sum of sinusoids, so it is evaluated at any position without interpolation: the pictures are exact,
also at sub-pixel motion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Position = np.ndarray  # (H,W) float64


@dataclass(frozen=True)
class Scene:
    """first, second: (H,W) uint8; flow: (H,W,2) float32, the motion of every pixel of `first`; valid: (H,W) bool, where
    that pixel is also visible in `second`."""

    name: str
    first: np.ndarray
    second: np.ndarray
    flow: np.ndarray
    valid: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        """(2,H,W) uint8."""
        return np.stack([self.first, self.second])


def texture(seed: int, *, side: int, waves: int = 40) -> Callable[..., np.ndarray]:
    """A function (x, y) → grey values in 0..255 with wavelengths from 5 % to 50 % of the frame's short side."""
    shortest, longest = 0.05 * side, 0.5 * side
    rng = np.random.default_rng(seed)
    length = shortest * (longest / shortest) ** rng.random(waves)
    angle = rng.random(waves) * 2 * np.pi
    kx, ky = 2 * np.pi / length * np.cos(angle), 2 * np.pi / length * np.sin(angle)
    phase = rng.random(waves) * 2 * np.pi
    strength = np.sqrt(length)
    strength *= 55 / np.sqrt((strength**2).sum() / 2)

    def paint(x: Position, y: Position) -> np.ndarray:
        grey = np.full(np.shape(x), 128.0)
        for i in range(waves):
            grey += strength[i] * np.sin(kx[i] * x + ky[i] * y + phase[i])
        return np.asarray(np.clip(grey, 0, 255))

    return paint


def _grid(height: int, width: int) -> tuple[Position, Position]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return x, y


def affine(
    name: str,
    height: int,
    width: int,
    *,
    seed: int,
    shift: tuple[float, float] = (0, 0),
    angle: float = 0,
    zoom: float = 1,
) -> Scene:
    """One textured plane, turned by `angle` degrees and zoomed about the centre, then shifted by (x, y) pixels."""
    x, y = _grid(height, width)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    turn = np.deg2rad(angle)
    c, s = zoom * np.cos(turn), zoom * np.sin(turn)
    u = c * (x - cx) - s * (y - cy) + cx + shift[0] - x
    v = s * (x - cx) + c * (y - cy) + cy + shift[1] - y
    paint = texture(seed, side=min(height, width))
    bx, by = x - cx - shift[0], y - cy - shift[1]
    back_x = (c * bx + s * by) / zoom**2 + cx
    back_y = (-s * bx + c * by) / zoom**2 + cy
    return _finish(name, paint(x, y), paint(back_x, back_y), u, v, np.ones((height, width), bool))


def layers(
    name: str, height: int, width: int, *, seed: int, front: tuple[float, float], back: tuple[float, float]
) -> Scene:
    """A textured disc that moves by `front` over a background that moves by `back`; valid excludes what it covers."""
    x, y = _grid(height, width)
    cx, cy, radius = width * 0.45, height * 0.5, min(height, width) * 0.28

    def inside(at_x: Position, at_y: Position) -> np.ndarray:
        return (at_x - cx) ** 2 + (at_y - cy) ** 2 < radius**2

    disc, ground = (texture(seed + i, side=min(height, width)) for i in range(2))
    first = np.where(inside(x, y), disc(x, y), ground(x, y))
    moved = inside(x - front[0], y - front[1])
    second = np.where(moved, disc(x - front[0], y - front[1]), ground(x - back[0], y - back[1]))
    here = inside(x, y)
    u, v = np.where(here, front[0], back[0]), np.where(here, front[1], back[1])
    covered = ~here & inside(x + back[0] - front[0], y + back[1] - front[1])
    return _finish(name, first, second, u, v, ~covered)


def _finish(name: str, first: np.ndarray, second: np.ndarray, u: np.ndarray, v: np.ndarray, valid: np.ndarray) -> Scene:
    height, width = first.shape
    x, y = _grid(height, width)
    seen = (x + u >= 0) & (x + u <= width - 1) & (y + v >= 0) & (y + v <= height - 1)
    flow = np.stack([u, v], axis=-1).astype(np.float32)
    return Scene(name, np.rint(first).astype(np.uint8), np.rint(second).astype(np.uint8), flow, valid & seen)


def scenes(height: int, width: int) -> list[Scene]:
    """Translation (whole and sub-pixel), rotation, zoom and occluding layers, with motion in proportion to the size."""
    k = min(height, width) / 128
    return [
        affine("shift-1", height, width, seed=1, shift=(1.0, 0.0)),
        affine("shift-subpixel", height, width, seed=2, shift=(0.37, -0.21)),
        affine("shift-large", height, width, seed=3, shift=(5.3 * k, -3.7 * k)),
        affine("rotation", height, width, seed=4, angle=3.0),
        affine("zoom-in", height, width, seed=5, zoom=1.05),
        affine("zoom-out-turn", height, width, seed=6, zoom=0.97, angle=-1.5, shift=(0.8, 0.6)),
        layers("layers", height, width, seed=7, front=(3.4 * k, 1.2 * k), back=(-0.6 * k, 0.3 * k)),
        layers("layers-opposite", height, width, seed=9, front=(-4.0 * k, 2.0 * k), back=(2.0 * k, 0.0)),
    ]
