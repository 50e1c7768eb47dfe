"""A clip of a statistics table: a row's labels and the pixels that they describe."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from shards.dataset import Dataset
from shards.errors import DataError
from shards.spec import resized_size
from shards.table import PLACES, TableGeometry
from vidprep.drawing.canvas import Image
from vidprep.statistics.regions import APPEARANCE_NAMES, MOTION_NAMES, PATTERN_SIZES

NAMES = (*MOTION_NAMES, *APPEARANCE_NAMES)


@dataclass(frozen=True, kw_only=True)
class LabelledClip:
    """A row of a table and the pixels it was made from.

    Attributes:
        row: its number; rows: how many the table has.
        start: first stored frame; top, left: of the crop in the resized frame; flip: mirrored.
        geometry: of the column.
        size: (height, width) of the resized frames.
        labels: the 27 numbers by name.
        shown: which of the window's frames `frames` has.
        frames: (n,S,S,3) uint8, cut and mirrored.
    """

    row: int
    rows: int
    start: int
    top: int
    left: int
    flip: bool
    geometry: TableGeometry
    size: tuple[int, int]
    labels: dict[str, int]
    shown: tuple[int, ...]
    frames: Image


def read_clip(
    dataset: Dataset, i: int, *, table: str, frames: str, rng: np.random.Generator, count: int = 5
) -> LabelledClip:
    """Draw a row of a sample's table and read `count` evenly spread frames of its clip.

    Args:
        dataset: with both columns open, `table` and the `frames` it was made from.

    Raises:
        DataError: the table does not hold statistics labels, or does not fit the frames.
    """
    column = dataset.meta.columns[table]
    again = f"run the same {column.producer or 'vidprep labels'} command again"
    try:
        geometry = TableGeometry.of(column.parameters)
    except (KeyError, TypeError) as error:
        raise DataError(f"column {table} of {dataset.url} does not say how its clips were cut; {again}") from error
    rows = dataset.clip_table(i, column=table).rows
    record = dataset.record(i, frames)
    size = resized_size(geometry.resize, int(record["height"]), int(record["width"]))
    number = int(rng.integers(max(1, len(rows))))
    values = [int(value) for value in rows[number]] if len(rows) else []
    problem = _problem(values, geometry, size, int(record["frames"]))
    if problem:
        raise DataError(f"row {number} of the table {table} of {dataset.key(i)} in {dataset.url} {problem}; {again}")
    start, top, left, flip = values[: len(PLACES)]
    shown = tuple(int(t) for t in np.unique(np.linspace(0, geometry.window - 1, count).round()))
    cuts = []
    for image in dataset.frames(i, [start + t for t in shown], column=frames):
        resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        cut = resized[top : top + geometry.crop, left : left + geometry.crop]
        cuts.append(cut[:, ::-1] if flip else cut)
    return LabelledClip(
        row=number,
        rows=len(rows),
        start=start,
        top=top,
        left=left,
        flip=bool(flip),
        geometry=geometry,
        size=size,
        labels=dict(zip(NAMES, values[len(PLACES) :], strict=True)),
        shown=shown,
        frames=np.stack(cuts).astype(np.uint8),
    )


def _problem(values: list[int], geometry: TableGeometry, size: tuple[int, int], frames: int) -> str:
    """Why a row cannot be drawn, or nothing."""
    if not values:
        return "does not exist: the table is empty"
    if len(values) != len(PLACES) + len(NAMES):
        return f"has {len(values)} numbers where statistics labels have {len(PLACES) + len(NAMES)}"
    start, top, left, _ = values[: len(PLACES)]
    if not 0 <= start <= frames - geometry.window:
        return f"starts {geometry.window} frames at frame {start}, but there are {frames}"
    if not (0 <= top <= size[0] - geometry.crop and 0 <= left <= size[1] - geometry.crop):
        return f"cuts {geometry.crop}x{geometry.crop} at ({top}, {left}) from frames of {size[0]}x{size[1]}"
    for name, value in zip(NAMES, values[len(PLACES) :], strict=True):
        least, most = _range(name, geometry.window)
        if not least <= value <= most:
            return f"has {name} {value}; allowed are {least} to {most}"
    return ""


def _range(name: str, window: int) -> tuple[int, int]:
    """Least and greatest value of a label; 0 is "motionless"."""
    if name.endswith("_frame"):
        return 0, window - 1
    least = 0 if name in MOTION_NAMES else 1
    return least, PATTERN_SIZES[int(name[1]) - 1] if name.endswith("_block") else 8
