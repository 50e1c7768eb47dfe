"""Paper, text and tiles: what all pictures are put together from.

Text is drawn by OpenCV 5's TrueType fonts, which come inside its wheel and cover Latin, Greek, Cyrillic, Arabic and
CJK letters. Pillow's built-in font has ASCII only, and other fonts would be a dependency on the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""(H,W,3) uint8 RGB."""
Colour = tuple[int, int, int]

PAPER: Colour = (250, 250, 248)
INK: Colour = (32, 33, 36)
FAINT: Colour = (112, 115, 120)
LINE: Colour = (218, 218, 214)
ACCENT: Colour = (30, 90, 160)
TEXT, SMALL, TITLE = 16, 13, 24  # heights of letters in pixels
GAP = 2  # between tiles of a strip
GUTTER = 46  # for the names of strips
LEAST = 420  # width of a cell: words need room where clips have one frame


def paper(height: int, width: int) -> Image:
    return np.full((height, width, 3), PAPER, np.uint8)


def put(sheet: Image, image: Image, top: int, left: int) -> None:
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image


def scaled(image: Image, height: int, width: int) -> Image:
    """An image at another size, averaged where it shrinks."""
    shrinks = height * width < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def beside(images: Sequence[Image], *, gap: int = GAP) -> Image:
    """Images side by side, tops aligned."""
    strip = paper(max(image.shape[0] for image in images), sum(image.shape[1] + gap for image in images) - gap)
    left = 0
    for image in images:
        put(strip, image, 0, left)
        left += image.shape[1] + gap
    return strip


def below(images: Sequence[Image], *, gap: int = GAP) -> Image:
    """Images one below the other, left sides aligned."""
    stack = paper(sum(image.shape[0] + gap for image in images) - gap, max(image.shape[1] for image in images))
    top = 0
    for image in images:
        put(stack, image, top, 0)
        top += image.shape[0] + gap
    return stack


def write(image: Image, text: str, left: int, baseline: int, size: int, colour: Colour, *, bold: bool = False) -> None:
    cv2.putText(image, _printable(text), (left, baseline), colour, _font(), size, 600 if bold else 400)


def text_width(text: str, size: int, *, bold: bool = True) -> int:
    box = cv2.getTextSize((0, 0), _printable(text), (0, 0), _font(), size, 600 if bold else 400)
    return int(box[0] + box[2])


def fit(text: str, width: int, size: int) -> str:
    """Text cut at its end to a width in pixels, that of bold letters."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def text_line(text: str, width: int) -> Image:
    """One line of small faint text on paper, cut to the width."""
    line = paper(SMALL + 9, width)
    write(line, fit(text, width, SMALL), 0, SMALL + 1, SMALL, FAINT)
    return line


def paragraph(text: str, width: int) -> Image:
    """Small faint text on paper, broken between words into as many lines as it needs."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if text_width(longer, SMALL, bold=False) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return below([text_line(line, width) for line in lines], gap=0)


def named(name: str, strip: Image) -> Image:
    """A strip with its name in a gutter on its left."""
    row = paper(strip.shape[0], GUTTER + strip.shape[1])
    write(row, name, 0, strip.shape[0] // 2 + SMALL // 2, SMALL, FAINT)
    put(row, strip, 0, GUTTER)
    return row


@cache
def _font() -> Any:
    return cv2.FontFace("sans")


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
