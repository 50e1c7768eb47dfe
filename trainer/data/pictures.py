"""From stored bytes to the pixels of clips: RGB frames and flow planes, resized and cropped. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from shards import jpeg
from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.errors import DataError
from shards.flow import CODECS
from shards.storage import read_together
from trainer.data.plans import IntArray, Row

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Shown:
    """Clips of one sample to show, of one item or of several, of one spec or of several.

    Attributes:
        frames: for each clip, (T,) numbers of stored frames.
        crop: for each clip, (4,) what to cut.
        sizes: for each clip, (height, width) of the resized frames to cut from.
        out: for each clip, (T,H,W,C) to write to; empty where nothing is to be written.
    """

    dataset: Dataset
    sample: int
    frames: Sequence[IntArray]
    crop: Sequence[IntArray]
    sizes: Sequence[tuple[int, int]]
    out: Sequence[Pixels]

    def places(self) -> dict[int, list[tuple[int, int]]]:
        """Frame number → (clip, place in the clip) it is shown at."""
        found: dict[int, list[tuple[int, int]]] = {}
        for v, numbers in enumerate(self.frames):
            for t, number in enumerate(numbers.tolist()):
                found.setdefault(number, []).append((v, t))
        return found

    def fields(self, column: str) -> dict[int, list[tuple[int, int]]]:
        """The same for fields of a flow column: frame t shows the field that leads from it, the last one the last."""
        last = int(self.dataset.record(self.sample, column)["frames"]) // 2 - 1
        found: dict[int, list[tuple[int, int]]] = {}
        for number, shown_at in self.places().items():
            found.setdefault(min(number, last), []).extend(shown_at)
        return found

    def boxes(self) -> list[tuple[slice, slice]]:
        return [
            (slice(top, top + h), slice(left, left + w)) for top, left, h, w in (crop.tolist() for crop in self.crop)
        ]


def shown(parts: Sequence[Dataset], rows: Sequence[Row], outs: Sequence[tuple[int, Pixels | None]]) -> Shown:
    """Rows of one sample, read together.

    Args:
        outs: numbers of specs, each with an array (rows,V,T,H,W,C) to write to, or None to write nothing.
    """
    shows = [(row.plans[view], None if out is None else out[i]) for view, out in outs for i, row in enumerate(rows)]
    return Shown(
        dataset=parts[rows[0].part],
        sample=rows[0].sample,
        frames=[frames for plan, _ in shows for frames in plan.frames],
        crop=[crop for plan, _ in shows for crop in plan.crop],
        sizes=[plan.size for plan, _ in shows for _ in range(len(plan.frames))],
        out=[clip for _, out in shows if out is not None for clip in out],
    )


def stored(column: str, item: Shown) -> list[int]:
    """Numbers of the stored images of a column that showing an item reads."""
    if is_flow(item.dataset, column):
        return [2 * t + c for t in item.fields(column) for c in (0, 1)]
    return list(item.places())


def is_flow(dataset: Dataset, column: str) -> bool:
    """Whether a column of the data set holds flow."""
    return COLUMNS[dataset.meta.columns[column].kind].planes == 2


def pixel_type(dataset: Dataset, column: str) -> str:
    """NumPy type of a column's pixels in a batch: torch has too little of uint16, so 16 bit planes become int16."""
    return "int16" if is_flow(dataset, column) and _codec(dataset, column) == "lossless" else "uint8"


def flow_zero(dataset: Dataset, column: str) -> float:
    """The number that stands for no motion in a batch's planes of a flow column."""
    return 0.0 if pixel_type(dataset, column) == "int16" else CODECS[_codec(dataset, column)].zero


def _codec(dataset: Dataset, column: str) -> str:
    return str(dataset.meta.columns[column].parameters["codec"])


def flow_step(dataset: Dataset, column: str, sample: int, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels of a frame resized to `size` (height, width) from one number of a plane to the next, for u and v."""
    record = dataset.record(sample, column)
    step = dataset.codec(sample, column=column).step
    return step * size[1] / int(record["width"]), step * size[0] / int(record["height"])


def write_frames(column: str, items: Sequence[Shown]) -> None:
    """Read, decode, resize and crop RGB frames; each distinct frame is decoded once.

    Raises:
        DataError: stored bytes are damaged.
    """
    for item in items:
        if COLUMNS[item.dataset.meta.columns[column].kind].encoded:
            _write_decoded(column, item)
    items = [item for item in items if not COLUMNS[item.dataset.meta.columns[column].kind].encoded]
    # All bytes before any pixel: in turn, each would find its code and data gone from the processor's caches.
    places_of = [item.places() for item in items]
    found = _read(column, items, [list(places) for places in places_of])
    for item, places, jpegs in zip(items, places_of, found, strict=True):
        dataset = item.dataset
        record = dataset.record(item.sample, column)
        stored = (int(record["height"]), int(record["width"]))
        boxes, buffers = item.boxes(), dict[tuple[int, int], Pixels]()
        image = np.empty((*stored, 3), np.uint8)
        for (number, shown_at), data in zip(places.items(), jpegs, strict=True):
            try:
                jpeg.decode(data, out=image)
            except ValueError:
                dataset.frames(item.sample, [number], column=column)  # raises the error that names shard and key
                raise
            _show(item, image, shown_at, boxes, buffers)


def _show(
    item: Shown,
    image: Pixels,
    shown_at: Sequence[tuple[int, int]],
    boxes: Sequence[tuple[slice, slice]],
    buffers: dict[tuple[int, int], Pixels],
) -> None:
    """Show a frame wherever it is shown; resized once for neighbouring clips of one size, into `buffers`."""
    size, resized = image.shape[:2], image
    for v, t in shown_at:
        if item.sizes[v] != size:
            size = item.sizes[v]
            resized = image
            if size != image.shape[:2]:
                resized = cv2.resize(image, size[::-1], dst=buffers.get(size), interpolation=cv2.INTER_LINEAR)
                buffers[size] = resized
        _cut(resized[boxes[v]], item.out[v][t])


def _write_decoded(column: str, item: Shown) -> None:
    """As `write_frames`, from an encoded video: one item at a time, for its frames are decoded at full size first."""
    places, boxes, buffers = item.places(), item.boxes(), dict[tuple[int, int], Pixels]()
    images = item.dataset.frames(item.sample, list(places), column=column)
    for image, shown_at in zip(images, places.values(), strict=True):
        _show(item, image, shown_at, boxes, buffers)


def _read(column: str, items: Sequence[Shown], wanted: Sequence[Sequence[int]]) -> Sequence[list[memoryview]]:
    """The stored images of every item; all at the same time where they come from far away."""
    calls = [
        partial(item.dataset.jpegs, item.sample, numbers, column=column)
        for item, numbers in zip(items, wanted, strict=True)
    ]
    return read_together((item.dataset.storage for item in items), calls)


def _cut(part: Pixels, out: Pixels) -> None:
    """Show a part of a frame, resized where it is not as large as `out`."""
    if part.shape == out.shape:
        out[...] = part
    else:
        cv2.resize(part, out.shape[1::-1], dst=out, interpolation=cv2.INTER_LINEAR)


def write_flow(column: str, items: Sequence[Shown]) -> None:
    """Read, decode, resize and crop flow: for frame t of a plan the field that leads from it to the next frame, at the
    video's end the last field. Planes are resized as they are stored; their step changes with the size (`flow_step`).

    Raises:
        DataError: stored bytes are damaged.
    """
    found = _read(column, items, [stored(column, item) for item in items])
    for item, jpegs in zip(items, found, strict=True):
        dataset, fields = item.dataset, item.fields(column)
        codec, boxes = dataset.codec(item.sample, column=column), item.boxes()
        data = iter(jpegs)
        for field, shown_at in fields.items():
            for channel in (0, 1):
                try:
                    plane = codec.decode(next(data))
                except (ValueError, DataError):
                    dataset.flow_planes(item.sample, [field], column=column)  # raises, naming shard and key
                    raise
                size: tuple[int, int] | None = None
                for v, t in shown_at:
                    if item.sizes[v] != size:
                        size = item.sizes[v]
                        resized = _resized_plane(plane, size)
                    item.out[v][t, ..., channel] = resized[boxes[v]]


def _resized_plane(plane: Pixels, size: tuple[int, int]) -> Pixels:
    if plane.shape != size:
        plane = cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)
    return (plane.astype(np.int32) - 32768).astype(np.int16) if plane.dtype == np.uint16 else plane
