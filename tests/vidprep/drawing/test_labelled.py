"""Rows of tables: which pixels they are of, and what cannot be drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from shards.dataset import open_dataset
from shards.errors import DataError
from tests.vidprep.drawing.columns import GEOMETRY, add_table, row
from vidprep.drawing.labelled import LabelledClip, read_clip


def _read(dest: Path, i: int = 0, *, seed: int = 0) -> LabelledClip:
    dataset = open_dataset(dest, columns=("rgb", "statistics"))
    return read_clip(dataset, i, table="statistics", frames="rgb", rng=np.random.default_rng(seed))


@pytest.mark.parametrize("resize", [None, [24, 32], [30, 48], 20])
@pytest.mark.parametrize("flip", [0, 1])
def test_the_pixels_are_those_the_row_is_of(
    tiny_dataset: Callable[..., Path], resize: list[int] | int | None, flip: int
) -> None:
    dest = tiny_dataset(samples=2)
    values = row(3, 4, 7, flip, global_u_frame=5, p2_v_block=4)
    add_table(dest, lambda i: [values], parameters=GEOMETRY | {"resize": resize})
    clip = _read(dest, 1)
    assert (clip.start, clip.top, clip.left, clip.flip) == (3, 4, 7, bool(flip))
    assert (clip.labels["global_u_frame"], clip.labels["p2_v_block"], clip.labels["p1_u_block"]) == (5, 4, 0)
    assert clip.shown == (0, 2, 4, 5, 7) and clip.frames.shape == (5, 16, 16, 3)
    height, width = clip.size
    assert clip.size == {"None": (24, 32), "20": (20, 27)}.get(str(resize), tuple(np.atleast_1d(resize or 0)))
    for t, drawn in zip(clip.shown, clip.frames, strict=True):
        frame = cv2.resize(open_dataset(dest).frames(1, [3 + t])[0], (width, height))[4:20, 7:23]
        assert (drawn == (frame[:, ::-1] if flip else frame)).all()


def test_the_seed_draws_the_row(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=2)
    add_table(dest, lambda i: [row(n % 5, n, n) for n in range(8)])
    rows = [_read(dest, seed=seed).row for seed in range(12)]
    assert rows == [_read(dest, seed=seed).row for seed in range(12)]
    assert len(set(rows)) > 3
    assert all(clip.top == clip.row for clip in (_read(dest, seed=seed) for seed in range(5)))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.empty((0, 31)), "table is empty"),
        ([row()[:-1]], "has 30 numbers where statistics labels have 31"),
        ([row(5)], "starts 8 frames at frame 5, but there are 12"),
        ([row(0, 9)], r"16x16 at \(9, 0\) from frames of 24x32"),
        ([row(p1_u_block=17)], "p1_u_block 17; allowed are 0 to 16"),
        ([row(p2_diverse_block=0)], "p2_diverse_block 0; allowed are 1 to 4"),
        ([row(global_v_frame=8)], "global_v_frame 8; allowed are 0 to 7"),
        ([row(global_colour=9)], "global_colour 9; allowed are 1 to 8"),
    ],
)
def test_rows_that_cannot_be_right(
    tiny_dataset: Callable[..., Path], rows: Sequence[Sequence[int]], words: str
) -> None:
    dest = tiny_dataset(samples=2)
    add_table(dest, lambda i: rows)
    with pytest.raises(DataError, match=words) as caught:
        _read(dest)
    assert "video_000" in str(caught.value) and "run the same vidprep test command again" in str(caught.value)


def test_a_column_that_does_not_say_how_it_was_cut(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=2)
    add_table(dest, lambda i: [row()], parameters={"window": 8})
    with pytest.raises(DataError, match="does not say how its clips were cut"):
        _read(dest)
