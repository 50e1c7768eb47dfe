"""Marks in the three partition patterns."""

from __future__ import annotations

import numpy as np
import pytest

from vidprep.drawing.patterns import OCTANTS, Mark, draw_pattern, octant_colour
from vidprep.statistics import appearance_labels
from vidprep.statistics.regions import PATTERN_SIZES, regions

SIDE = 96
COLOUR, OTHER = (222, 106, 0), (0, 110, 214)
GROUND = np.full((SIDE, SIDE, 3), 128, np.uint8)


def _where(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=-1)


@pytest.mark.parametrize(("pattern", "block"), [(p, b + 1) for p, n in enumerate(PATTERN_SIZES) for b in range(n)])
def test_a_mark_outlines_its_block_and_nothing_else(pattern: int, block: int) -> None:
    picture = draw_pattern(GROUND, pattern, [Mark(block=block, colour=COLOUR)])
    drawn, mask = _where(picture, COLOUR), regions(SIDE).masks[pattern][block - 1]
    assert drawn.any() and not (drawn & ~mask).any()
    shifted = [np.roll(np.pad(mask, 1), shift, axis)[1:-1, 1:-1] for shift in (-1, 1) for axis in (0, 1)]
    rim = mask & ~np.logical_and.reduce(shifted)
    assert drawn[rim].all()
    assert drawn.sum() < mask.sum()


def test_lines_are_between_the_regions() -> None:
    grid, rings, triangles = (draw_pattern(GROUND, pattern, []) != 128 for pattern in range(3))
    assert {x for x in range(SIDE) if grid[5, x].any()} == {24, 25, 48, 49, 72, 73}
    assert {x for x in range(SIDE) if rings[SIDE // 2, x].any()} == {12, 13, 24, 25, 36, 37, 60, 61, 72, 73, 84, 85}
    assert triangles[SIDE // 2].any(axis=-1).mean() > 0.9  # the horizontal mid line
    assert triangles[20, 17:24].any() and not triangles[20, 26:44].any()


def test_block_0_is_not_marked() -> None:
    still = draw_pattern(GROUND, 0, [Mark(block=0, colour=COLOUR, angle=0), Mark(block=3, colour=OTHER)])
    assert (still == draw_pattern(GROUND, 0, [Mark(block=3, colour=OTHER)])).all()


@pytest.mark.parametrize("pattern", [0, 1, 2])
def test_two_marks_share_a_block(pattern: int) -> None:
    marks = [Mark(block=2, colour=COLOUR, angle=0), Mark(block=2, colour=OTHER, angle=90)]
    picture = draw_pattern(np.full((192, 192, 3), 128, np.uint8), pattern, marks)
    alone = draw_pattern(np.full((192, 192, 3), 128, np.uint8), pattern, marks[:1])
    assert _where(picture, COLOUR).sum() > 0.6 * _where(alone, COLOUR).sum()
    assert _where(picture, OTHER).sum() > 0.3 * _where(picture, COLOUR).sum()


@pytest.mark.parametrize("angle", range(0, 360, 45))
def test_arrows_point_where_the_label_says(angle: int) -> None:
    for pattern, block in ((0, 6), (1, 4), (2, 8)):
        ground = np.full((192, 192, 3), 128, np.uint8)
        plain = draw_pattern(ground, pattern, [Mark(block=block, colour=COLOUR)])
        with_arrow = draw_pattern(ground, pattern, [Mark(block=block, colour=COLOUR, angle=angle)])
        y, x = np.nonzero(_where(with_arrow, COLOUR) & ~_where(plain, COLOUR))
        middle = np.array([(x.min() + x.max()) / 2, (y.min() + y.max()) / 2])
        changed = np.nonzero((with_arrow != plain).any(axis=-1))
        assert changed[0].min() > 0 and changed[0].max() < 191  # not cut off
        if pattern == 1:
            continue  # part of its shaft lies on the ring's outline
        lean = np.array([x.mean(), y.mean()]) - middle  # the head has more pixels than the tail
        if angle % 90:
            lean = np.sign(lean) * (np.abs(lean) > 0.3)
        wanted = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
        assert lean @ wanted > 0.9 * np.linalg.norm(lean) > 0


@pytest.mark.parametrize("label", range(1, 9))
def test_swatches_are_in_the_octant_of_their_label(label: int) -> None:
    colour = octant_colour(label)
    clip = np.broadcast_to(np.array(colour, np.uint8), (2, 16, 16, 3)).copy()
    assert appearance_labels(clip)[-1] == label
    picture = draw_pattern(GROUND, 0, [Mark(block=7, colour=COLOUR, swatch=colour)])
    mask = regions(SIDE).masks[0][6]
    assert not (_where(picture, colour) & ~mask).any()
    assert _where(picture, colour).sum() == 12 * 12
    bright = {"blue": (0, 0, 1), "dark": (0, 0, 0), "bright": (1, 1, 1), "yellow": (1, 1, 0)}
    if OCTANTS[label - 1] in bright:
        assert tuple(int(c > 128) for c in colour) == bright[OCTANTS[label - 1]]
