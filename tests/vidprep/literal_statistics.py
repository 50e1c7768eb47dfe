"""The statistics labels once more, as slowly and plainly as reference/statistics.md states them.

Regions are spelled out pixel by pixel from the text, not taken from the package.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def region_masks(side: int) -> list[list[NDArray[np.bool_]]]:
    eighth, half = side // 8, side // 2
    y, x = np.mgrid[:side, :side]
    grid = [(y // (side // 4) == i // 4) & (x // (side // 4) == i % 4) for i in range(16)]
    squares = [(abs(y - half + 0.5) < k * eighth) & (abs(x - half + 0.5) < k * eighth) for k in (1, 2, 3, 4)]
    rings = [squares[0]] + [squares[k] & ~squares[k - 1] for k in (1, 2, 3)]
    lower = np.tril(np.ones((half, half), np.bool_))
    upper = lower.T
    triangles = []
    for row, column, part in (
        (0, 0, lower), (0, 0, upper), (0, 1, upper[:, ::-1]), (0, 1, lower[:, ::-1]),
        (1, 0, upper[:, ::-1]), (1, 0, lower[:, ::-1]), (1, 1, lower), (1, 1, upper),
    ):  # fmt: skip
        mask = np.zeros((side, side), np.bool_)
        mask[row * half : (row + 1) * half, column * half : (column + 1) * half] = part
        triangles.append(mask)
    return [grid, rings, triangles]


def boundaries(field: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    padded = np.pad(field.astype(np.float64), 1, mode="symmetric")
    down = padded[:-2] + padded[1:-1] + padded[2:]
    along = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (down[:, :-2] - down[:, 2:]).astype(np.float32), (along[:-2] - along[2:]).astype(np.float32)


def direction(magnitude: NDArray[np.float32], angle: NDArray[np.float32]) -> int:
    votes = [0.0] * 8
    for m, a in zip(magnitude.tolist(), angle.tolist(), strict=True):
        q, r = int(a // 45) % 8, (a % 45) / 45
        votes[q] += m * (1 - r)
        votes[(q + 1) % 8] += m * r
    return int(np.argmax(votes)) + 1


def motion(flow: NDArray[np.float32], ranked: int) -> NDArray[np.int64]:
    """Labels of all the fields given; the last two numbers rank the first `ranked`."""
    out = np.zeros(14, np.int64)
    for c in (0, 1):
        each = [boundaries(f[..., c]) for f in flow]
        dx, dy = sum(e[0] for e in each), sum(e[1] for e in each)
        magnitude, angle = cv2.cartToPolar(dx, dy, angleInDegrees=True)
        for pattern, masks in enumerate(region_masks(flow.shape[1])):
            score = [magnitude[m].astype(np.float64) for m in masks]
            best = int(np.argmax([s.mean() if pattern == 1 else s.sum() for s in score]))
            out[4 * pattern + 2 * c] = best + 1
            out[4 * pattern + 2 * c + 1] = direction(magnitude[masks[best]], angle[masks[best]])
        sizes = [np.sqrt(x * x + y * y).sum(dtype=np.float64) for x, y in each[:ranked]]
        out[12 + c] = int(np.argmax(sizes)) + 1
    return out


def colour(pixels_rgb: NDArray[np.uint8]) -> int:
    red, green, blue = pixels_rgb.reshape(-1, 3).astype(np.int64).T
    packed, counts = np.unique(blue << 16 | green << 8 | red, return_counts=True)
    mode = int(packed[counts.argmax()])
    b, g, r = mode >> 16, mode >> 8 & 255, mode & 255
    return 4 * (b < 128) + 2 * (r >= 128) + (g >= 128) + 1


def appearance(rgb: NDArray[np.uint8], *, reference: bool) -> NDArray[np.int64]:
    out: list[int] = []
    for pattern, masks in enumerate(region_masks(rgb.shape[1])):
        scores = []
        for mask in masks:
            iou = []
            for channel in (2, 1, 0):
                histograms = np.stack([np.bincount(f[mask, channel], minlength=256) for f in rgb])
                iou.append(histograms.min(axis=0).sum() / histograms.max(axis=0).sum())
            scores.append(sum(iou) / 3)
        for best in (int(np.argmin(scores)), int(np.argmax(scores))):
            pixels = rgb[:, masks[best]].reshape(-1, 3)
            if reference and pattern == 1 and best == 1:
                pixels = faulty_ring(rgb)
            out += [best + 1, colour(pixels)]
    return np.array([*out, colour(rgb)], np.int64)


def faulty_ring(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    e = rgb.shape[1] // 8
    square = rgb[:, 2 * e : 6 * e, 2 * e : 6 * e].copy()
    square[:, e : 3 * e, e : 3 * e] = 0
    parts = (square[:, :e], square[:, e : 3 * e, :e], square[:, e : 3 * e, 3 * e :], square[:2])
    return np.concatenate([p.reshape(-1, 3) for p in parts])
