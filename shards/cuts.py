"""Cuts of random area out of a frame, as torchvision's RandomResizedCrop makes them. Sizes are (height, width)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def largest_cut(size: tuple[int, int], low: float, high: float) -> tuple[int, int]:
    """Largest (height, width) that fits into `size` with a width / height of low to high."""
    height, width = size
    if width / height < low:
        return max(1, round(width / low)), width
    if width / height > high:
        return height, max(1, round(height * high))
    return height, width


def area_cut(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], tries: Sequence[Sequence[float]]
) -> tuple[int, int] | None:
    """(height, width) of the first try that fits."""
    height, width = size
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for share, shape in tries:
        pixels = height * width * (area[0] + share * (area[1] - area[0]))
        ratio = math.exp(low + shape * (high - low))
        h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < h <= height and 0 < w <= width:
            return h, w
    return None
