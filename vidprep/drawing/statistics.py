"""One row of a statistics table as a picture: frames of the clip and what the labels say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidprep.drawing.canvas import (
    FAINT,
    GAP,
    INK,
    SMALL,
    Colour,
    Image,
    below,
    beside,
    paper,
    put,
    scaled,
    text_line,
    text_width,
    write,
)
from vidprep.drawing.labelled import LabelledClip
from vidprep.drawing.patterns import (
    CONSISTENT_COLOUR,
    DIVERSE_COLOUR,
    OCTANTS,
    U_COLOUR,
    V_COLOUR,
    Mark,
    draw_pattern,
    draw_swatch,
    octant_colour,
)

SIDE = 192
"""Side of a pattern's picture in pixels, a multiple of 8."""
PATTERNS = ("grid", "rings", "triangles")

_GAP = 14  # between the columns of the panel
_LINE = 21  # height of a line of text
_SWATCH = 12


@dataclass(frozen=True)
class _Words:
    text: str
    colour: Colour
    swatch: Colour | None = None


def statistics_panel(clip: LabelledClip, *, name: str) -> Image:
    """Two rows of four pictures: frames of the clip, then the patterns with the motion labels; the labels of the clip
    as a whole, then the patterns with the appearance labels.

    Args:
        name: of the column.

    Returns:
        (H,W,3) uint8 RGB; the width does not depend on the clip.
    """
    middle = scaled(clip.frames[len(clip.frames) // 2], SIDE, SIDE)
    grey = middle.mean(axis=2, keepdims=True)
    pale = np.rint(0.15 * middle + 0.6 * grey + 0.25 * 255).astype(np.uint8)  # so that outlines and arrows stand out
    motion, appearance = [_frames(clip)], [_whole(clip)]
    for number, pattern in enumerate(PATTERNS):
        motion.append(_motion(clip.labels, pale, number, pattern))
        appearance.append(_appearance(clip.labels, middle, number))
    body = below([beside(motion, gap=_GAP), beside(appearance, gap=_GAP)], gap=6)
    facts = [
        f"{name} · row {clip.row} (of {clip.rows}) · frames {clip.start}–{clip.start + clip.geometry.window - 1}",
        f"{clip.geometry.crop}x{clip.geometry.crop} at ({clip.top}, {clip.left}) of {clip.size[0]}x{clip.size[1]}",
        *(["mirrored"] if clip.flip else []),
    ]
    return below([text_line(" · ".join(facts), body.shape[1]), body], gap=0)


def _frames(clip: LabelledClip) -> Image:
    """Up to four frames of the window, two by two, and their numbers."""
    small = (SIDE - GAP) // 2
    outer = [k for k in range(len(clip.frames)) if len(clip.frames) < 5 or k != len(clip.frames) // 2][:4]
    picture = paper(SIDE, SIDE)
    for place, k in enumerate(outer):
        put(picture, scaled(clip.frames[k], small, small), place // 2 * (small + GAP), place % 2 * (small + GAP))
    numbers = ", ".join(str(clip.start + clip.shown[k]) for k in outer)
    return below([picture, _caption([_Words(f"frames {numbers}", FAINT)])], gap=0)


def _motion(labels: dict[str, int], ground: Image, number: int, pattern: str) -> Image:
    marks, words = [], []
    for component, colour in (("u", U_COLOUR), ("v", V_COLOUR)):
        block = labels[f"p{number + 1}_{component}_block"]
        angle = labels[f"p{number + 1}_{component}_angle"]
        degrees = 45 * (angle - 1)
        if block and angle:
            marks.append(Mark(block=block, colour=colour, angle=degrees))
        said = f"{block}, {degrees}°" if block and angle else "still"
        words.append(_Words(f"{component} {said}", colour))
    return below([draw_pattern(ground, number, marks), _caption([_Words(pattern, FAINT), *words])], gap=0)


def _appearance(labels: dict[str, int], ground: Image, number: int) -> Image:
    marks, words = [], []
    for which, colour in (("diverse", DIVERSE_COLOUR), ("consistent", CONSISTENT_COLOUR)):
        block = labels[f"p{number + 1}_{which}_block"]
        swatch = octant_colour(labels[f"p{number + 1}_{which}_colour"])
        marks.append(Mark(block=block, colour=colour, swatch=swatch))
        words.append(_Words(f"{which} {block}", colour, swatch))
    return below([draw_pattern(ground, number, marks), _caption(words)], gap=0)


def _whole(clip: LabelledClip) -> Image:
    """The labels of the clip as a whole, in words."""
    picture = paper(SIDE, SIDE)
    lines = [_Words("most motion", INK)]
    for component, colour in (("u", U_COLOUR), ("v", V_COLOUR)):
        field = clip.labels[f"global_{component}_frame"]
        first = clip.start + field - 1
        lines.append(_Words(f"{component} frames {first}–{first + 1}" if field else f"{component} still", colour))
    octant = clip.labels["global_colour"]
    lines += [_Words("most frequent colour", INK), _Words(OCTANTS[octant - 1], FAINT, octant_colour(octant))]
    for place, words in enumerate(lines):
        _say(picture, words, 0, place * _LINE + (place >= 3) * _LINE // 2)
    return picture


def _caption(words: Sequence[_Words]) -> Image:
    """A line of text below a picture, spread over its width."""
    line = paper(_LINE + 4, SIDE)
    free = SIDE - sum(map(_width, words))
    gap = free // (len(words) - 1) if len(words) > 1 else 0
    left = 0
    for word in words:
        _say(line, word, left, 2)
        left += _width(word) + min(gap, 24)
    return line


def _width(words: _Words) -> int:
    return text_width(words.text, SMALL, bold=False) + (_SWATCH + 8 if words.swatch else 0)


def _say(image: Image, words: _Words, left: int, top: int) -> None:
    write(image, words.text, left, top + SMALL + 2, SMALL, words.colour)
    if words.swatch:
        at = left + text_width(words.text, SMALL, bold=False) + 6 + _SWATCH // 2
        draw_swatch(image, (at, top + SMALL - 3), words.swatch, side=_SWATCH - 2)
