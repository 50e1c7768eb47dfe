"""Bilinear resizing of planes as cv2.resize(INTER_LINEAR) does for float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vidprep.flow.cpu.jit import kernel
from vidprep.flow.cpu.simd import item

MIN_SIDE = 16  # OpenCV stops the pyramid before a side falls below this


def level_sizes(height: int, width: int, scales: int, step: float) -> list[tuple[int, int]]:
    """Sizes (h, w) of the pyramid, finest first; at least the frame's own."""
    sizes = [(height, width)]
    while len(sizes) < scales:
        h, w = (round(side * step) for side in sizes[-1])
        if min(h, w) < MIN_SIDE:
            break
        sizes.append((h, w))
    return sizes


@kernel
def resize(
    source: Any, at: int, stride: int, h: int, w: int,
    target: Any, to: int, pitch: int, rows: int, columns: int,
    scale_y: float, scale_x: float, factor: Any, places: Any, shares: Any, lines: Any,
) -> None:  # fmt: skip
    """target[to + y·pitch + x] = factor · source resized from h x w to rows x columns.

    scale_y, scale_x: source pixels per target pixel. Both sides of the source are at least 2. Scratch: places
    (`columns` int64), shares (`columns` float32), lines (2·`columns` float32).
    """
    one = np.float32(1)
    for x in range(columns):
        place = np.float32((x + 0.5) * scale_x - 0.5)
        left = math.floor(place)
        share = place - np.float32(left)
        if left < 0:
            left, share = 0, np.float32(0)
        if left >= w - 1:
            left, share = w - 2, np.float32(1)
        places[x], shares[x] = left, share
    have = -9  # source rows have and have + 1 are resized in x: in lines[0..] and lines[columns..]
    for y in range(rows):
        place = np.float32((y + 0.5) * scale_y - 0.5)
        top = math.floor(place)
        low = place - np.float32(top)
        for j in range(2):
            if top + j == have + 1 and j == 0:
                for x in range(columns):
                    lines[x] = item(lines, columns + x)
            elif top != have:
                from_row = at + min(max(top + j, 0), h - 1) * stride
                for x in range(columns):
                    left = from_row + item(places, x)
                    b = item(shares, x)
                    lines[j * columns + x] = item(source, left) * (one - b) + item(source, left + 1) * b
        have = top
        high = one - low
        row = to + y * pitch
        for x in range(columns):
            target[row + x] = (item(lines, x) * high + item(lines, columns + x) * low) * factor
