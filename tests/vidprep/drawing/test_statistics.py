"""The panel of a statistics row: what the table says is what the picture shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from shards.dataset import open_dataset
from tests.vidprep.drawing.columns import GEOMETRY, add_table, row
from vidprep.drawing.canvas import SMALL
from vidprep.drawing.labelled import read_clip
from vidprep.drawing.patterns import CONSISTENT_COLOUR, DIVERSE_COLOUR, U_COLOUR, V_COLOUR, octant_colour
from vidprep.drawing.statistics import SIDE, statistics_panel
from vidprep.statistics.regions import regions

TEXT_LINE, LINE_GAP = SMALL + 9, 6

LABELS = {
    **{"p1_u_block": 6, "p1_u_angle": 3, "p1_v_block": 16, "p1_v_angle": 8},
    **{"p2_u_block": 1, "p2_u_angle": 1, "p2_v_block": 3, "p2_v_angle": 2},
    **{"p3_u_block": 0, "p3_u_angle": 0, "p3_v_block": 5, "p3_v_angle": 4},
    **{"p1_diverse_block": 9, "p1_diverse_colour": 7, "p1_consistent_block": 1, "p1_consistent_colour": 5},
    **{"p2_diverse_block": 2, "p2_diverse_colour": 2, "p2_consistent_block": 4, "p2_consistent_colour": 6},
    **{"p3_diverse_block": 8, "p3_diverse_colour": 8, "p3_consistent_block": 2, "p3_consistent_colour": 3},
    **{"global_u_frame": 0, "global_v_frame": 7, "global_colour": 4},
}


def _panel(dest: Path) -> np.ndarray:
    dataset = open_dataset(dest, columns=("rgb", "statistics"))
    clip = read_clip(dataset, 0, table="statistics", frames="rgb", rng=np.random.default_rng(0))
    return statistics_panel(clip, name="statistics")


@pytest.fixture
def panel(tiny_dataset: Callable[..., Path]) -> np.ndarray:
    dest = tiny_dataset(samples=1)
    add_table(dest, lambda i: [row(2, 3, 4, **LABELS)])
    return _panel(dest)


def _tiles(panel: np.ndarray) -> list[list[np.ndarray]]:
    """The pictures, two lines of four; a line of text is above the first, captions are below each."""
    across = (panel.shape[1] - SIDE) // 3
    down = (panel.shape[0] - TEXT_LINE + LINE_GAP) // 2
    return [[panel[TEXT_LINE + y * down :][:SIDE, x * across :][:, :SIDE] for x in range(4)] for y in (0, 1)]


@pytest.mark.parametrize(
    ("line", "what", "colours"),
    [(0, ("u", "v"), (U_COLOUR, V_COLOUR)), (1, ("diverse", "consistent"), (DIVERSE_COLOUR, CONSISTENT_COLOUR))],
)
def test_the_winning_blocks_are_outlined(
    panel: np.ndarray, line: int, what: tuple[str, str], colours: tuple[tuple[int, int, int], ...]
) -> None:
    for pattern in range(3):
        tile = _tiles(panel)[line][1 + pattern]
        for name, colour in zip(what, colours, strict=True):
            drawn, block = (tile == colour).all(axis=-1), LABELS[f"p{pattern + 1}_{name}_block"]
            if not block:
                assert not drawn.any()
                continue
            mask = regions(SIDE).masks[pattern][block - 1]
            assert drawn[mask].sum() > 200
            assert drawn[~mask].sum() < 0.1 * drawn.sum()  # an arrow may reach out of a ring


def test_swatches_have_the_labels_colours(panel: np.ndarray) -> None:
    for pattern in range(3):
        tile = _tiles(panel)[1][1 + pattern]
        for name in ("diverse", "consistent"):
            colour = octant_colour(LABELS[f"p{pattern + 1}_{name}_colour"])
            mask = regions(SIDE).masks[pattern][LABELS[f"p{pattern + 1}_{name}_block"] - 1]
            assert (tile == colour).all(axis=-1)[mask].sum() == 12 * 12


def test_frames_are_the_clips(panel: np.ndarray, tiny_dataset: Callable[..., Path]) -> None:
    tile = _tiles(panel)[0][0]
    frames = open_dataset(tiny_dataset(samples=1)).frames(0, [2, 9])[:, 3:19, 4:20]
    small = (SIDE - 2) // 2
    for place, frame in ((tile[:small, :small], frames[0]), (tile[-small:, -small:], frames[1])):
        seen = cv2.resize(place, (16, 16), interpolation=cv2.INTER_AREA)
        assert np.abs(seen.astype(int) - frame).mean() < 6


def test_still_clips_and_tables_of_one_row(tiny_dataset: Callable[..., Path], panel: np.ndarray) -> None:
    dest = tiny_dataset(samples=1)
    add_table(dest, lambda i: [row()])
    still = _panel(dest)
    assert still.shape == panel.shape
    for tile in _tiles(still)[0][1:]:
        assert not (tile == U_COLOUR).all(axis=-1).any()
        assert not (tile == V_COLOUR).all(axis=-1).any()


def test_windows_of_few_frames(tiny_dataset: Callable[..., Path], panel: np.ndarray) -> None:
    for window in (2, 3, 4):
        dest = tiny_dataset(samples=1)
        labels = {"p1_u_block": 16, "p1_u_angle": 1}
        add_table(dest, lambda i, labels=labels: [row(1, **labels)], parameters=GEOMETRY | {"window": window})
        few = _panel(dest)
        assert few.shape == panel.shape
        assert (_tiles(few)[0][1] == U_COLOUR).all(axis=-1).any()
