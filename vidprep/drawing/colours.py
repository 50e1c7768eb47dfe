"""The Middlebury colour code of flow: the hue is the direction, the saturation the length.

Source: Baker, Scharstein, Lewis, Roth, Black and Szeliski, "A Database and Evaluation Methodology for Optical Flow",
IJCV 92, 2011.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from vidprep.drawing.canvas import PAPER, Image

HUES = (15, 6, 4, 11, 13, 6)
"""Hues from red to yellow, yellow to green, green to cyan, cyan to blue, blue to magenta and magenta to red."""

_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1))


@cache
def hues() -> npt.NDArray[np.float32]:
    """(55,3) RGB in [0,1], clockwise from red, which is motion to the right."""
    corners = np.array([*_CORNERS, _CORNERS[0]], np.float32)
    steps = [(np.arange(n, dtype=np.float32) / n)[:, None] for n in HUES]
    return np.concatenate([corners[i] * (1 - s) + corners[i + 1] * s for i, s in enumerate(steps)])


def flow_colours(flow: npt.NDArray[np.float32], *, full: float) -> Image:
    """Flow fields as colours: no motion is white, longer vectors are more saturated.

    Args:
        flow: (…,H,W,2) float32: u to the right, v down.
        full: length whose colour is fully saturated, in the unit of `flow`, above 0; longer vectors are darkened.

    Returns:
        (…,H,W,3) uint8 RGB.
    """
    u, v = flow[..., 0] / full, flow[..., 1] / full
    table = hues()
    # The first and the last hue both stand at "right", as in the authors' code.
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(table) - 1)
    lower = place.astype(np.int64)
    share = (place - lower)[..., None]
    hue = (1 - share) * table[lower] + share * table[(lower + 1) % len(table)]
    length = np.hypot(u, v)[..., None]
    colour = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.asarray(np.rint(255 * colour), np.uint8)


def wheel(side: int) -> Image:
    """The colour code's key, (side,side,3): the colour at a place is that of a motion from the middle to there."""
    y, x = (2 * np.mgrid[:side, :side] + 1 - side).astype(np.float32) / side
    picture = flow_colours(np.stack([x, y], axis=-1), full=1)
    inside = np.clip((1 - np.hypot(x, y)) * side / 2, 0, 1)[..., None]  # an edge that fades over one pixel
    return np.asarray(np.rint(inside * picture + (1 - inside) * np.array(PAPER)), np.uint8)
