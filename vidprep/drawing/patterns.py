"""The three partition patterns of the statistics labels over a picture, with regions marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vidprep.drawing.canvas import Colour, Image
from vidprep.statistics.regions import regions

U_COLOUR: Colour = (222, 106, 0)
V_COLOUR: Colour = (0, 110, 214)
DIVERSE_COLOUR: Colour = (196, 30, 140)
CONSISTENT_COLOUR: Colour = (0, 140, 84)

OCTANTS = ("blue", "cyan", "magenta", "bright", "dark", "green", "red", "yellow")
"""The octants of the RGB cube by colour label − 1 (reference/statistics.md section 5.2)."""

Mask = npt.NDArray[np.bool_]

_BAND = 3  # width of an outline
_WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A region that is marked.

    Attributes:
        block: its number in the pattern from 1, or 0: nothing is drawn.
        colour: of outline and arrow.
        angle: where the arrow points, in degrees clockwise from the right; None for no arrow.
        swatch: colour of a square inside the region; None for no square.
    """

    block: int
    colour: Colour
    angle: float | None = None
    swatch: Colour | None = None


def octant_colour(label: int) -> Colour:
    """The middle of the octant that a colour label (1..8) stands for."""
    code = label - 1
    red, green, blue = code & 2, code & 1, not code & 4
    return (192 if red else 64, 192 if green else 64, 192 if blue else 64)


def draw_pattern(image: Image, pattern: int, marks: Sequence[Mark]) -> Image:
    """A copy of an image with the lines of a pattern and its marked regions.

    Args:
        image: (S,S,3) uint8 RGB, S a multiple of 8.
        pattern: 0 grid, 1 rings, 2 triangles.
        marks: at most two; those of the same region share it, one outline inside the other.
    """
    masks = regions(image.shape[0]).masks[pattern]
    picture = _lines(image, masks)
    shown = [mark for mark in marks if mark.block]
    blocks = [mark.block for mark in shown]
    ranks = [blocks[:place].count(block) for place, block in enumerate(blocks)]
    for mark, rank in zip(shown, ranks, strict=True):
        picture[_outline(masks[mark.block - 1], rank)] = mark.colour
    for place, (mark, rank) in enumerate(zip(shown, ranks, strict=True)):
        half = rank if blocks.count(mark.block) > 1 else None
        at = _anchor(masks[mark.block - 1], half=half, last=place > 0)
        if mark.swatch is not None:
            draw_swatch(picture, at, mark.swatch)
        if mark.angle is not None:
            _arrow(picture, at, mark.angle, mark.colour)
    return picture


def draw_swatch(image: Image, middle: tuple[int, int], colour: Colour, *, side: int = 12) -> None:
    """A square of a colour around (x, y), with an edge that shows on any ground."""
    x, y = middle[0] - side // 2, middle[1] - side // 2
    for grow, shade in ((2, (30, 30, 30)), (1, _WHITE), (0, colour)):
        cv2.rectangle(image, (x - grow, y - grow), (x + side - 1 + grow, y + side - 1 + grow), shade, -1)


def _lines(image: Image, masks: Mask) -> Image:
    """The borders between regions: a light line beside a dark one, so that they show on any ground."""
    number = np.argmax(masks, axis=0)
    edges = np.zeros(number.shape, np.bool_)
    edges[:, 1:] |= number[:, 1:] != number[:, :-1]
    edges[1:] |= number[1:] != number[:-1]
    dark = np.zeros_like(edges)
    dark[1:] |= edges[:-1]
    dark[:, 1:] |= edges[:, :-1]
    picture = image.astype(np.float32)
    picture[dark] *= 0.6
    picture[edges] = 0.25 * picture[edges] + 0.75 * 255
    return np.asarray(np.rint(picture), np.uint8)


def _outline(mask: Mask, rank: int) -> Mask:
    """The pixels of a region that are its outline, `rank` outlines further in."""
    depth = _depth(mask)
    return np.asarray((depth > rank * _BAND) & (depth <= (rank + 1) * _BAND))


def _depth(mask: Mask) -> npt.NDArray[np.float32]:
    """Distance of every pixel of a region to the outside, where the picture's end is outside too."""
    padded = np.pad(mask, 1).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)


def _anchor(mask: Mask, *, half: int | None, last: bool) -> tuple[int, int]:
    """(x, y) of the pixel deepest inside a region, or inside its left (0) or right (1) half.

    `last`: of several that are equally deep, as rings have, the last instead of the first.
    """
    if half is not None:
        x = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
        middle = np.median(x[mask])
        mask = mask & ((x < middle) if half == 0 else (x > middle))
    depth = _depth(mask).ravel()
    deepest = np.flatnonzero(depth >= depth.max() - 1e-3)
    y, x_at = divmod(int(deepest[-1 if last else 0]), mask.shape[1])
    return x_at, y


def _arrow(image: Image, middle: tuple[int, int], angle: float, colour: Colour) -> None:
    side = image.shape[0]
    reach = side / 14
    turn = np.deg2rad(angle)
    step = np.array([np.cos(turn), np.sin(turn)]) * reach
    at = np.clip(middle, reach + 5, side - reach - 6)  # whole, also in the outermost ring
    tail, tip = (tuple(int(n) for n in np.rint(at + way * step)) for way in (-1, 1))
    for shade, thickness in ((_WHITE, 5), (colour, 2)):
        cv2.arrowedLine(image, tail, tip, shade, thickness, cv2.LINE_AA, 0, 0.4)
