"""Contact sheets: what a data set looks like, clip by clip.

Text is drawn by OpenCV 5's TrueType fonts, which come inside its wheel and cover Latin, Greek, Cyrillic, Arabic and
CJK letters. Pillow's built-in font has ASCII only, and other fonts would be a dependency on the system.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from shards.dataset import Dataset, Sample
from shards.errors import UserError

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_PAPER: Colour = (250, 250, 248)
_INK: Colour = (32, 33, 36)
_FAINT: Colour = (112, 115, 120)
_LINE: Colour = (218, 218, 214)
_ACCENT: Colour = (30, 90, 160)
_EDGE = 28  # margin around the sheet
_GAP = 22  # between clips
_TEXT, _SMALL, _TITLE = 16, 13, 24  # heights of letters in pixels


def contact_sheet(
    dataset: Dataset,
    *,
    count: int = 24,
    frames_per_clip: int = 8,
    seed: int = 0,
    split: str | None = None,
    frame_height: int = 72,
    columns: int = 2,
) -> Image:
    """Draw clips of a data set as strips of evenly spaced frames, with label, key, frame range and rate.

    Classes take turns, so that `count` clips show as many classes as they can; which clip of a class is drawn from
    `seed`. Frames are scaled to one height, at most three times their size.

    Args:
        count: clips to show; fewer where the data set has fewer.
        split: only samples of this split.
        columns: strips side by side.

    Returns:
        (H,W,3) uint8 RGB.

    Raises:
        UserError: no sample to show, or a number below 1.
    """
    for name, value in (("count", count), ("frames_per_clip", frames_per_clip), ("columns", columns)):
        if value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1")
    numbers = dataset.select(split=split)
    numbers = numbers[dataset.frame_counts[numbers] > 0]
    if not len(numbers):
        raise UserError(f"{dataset.url} has no sample to show" + (f" in split {split!r}" if split else ""))
    chosen = _choose(numbers, dataset.labels[numbers], count, np.random.default_rng(seed))
    strips = [_strip(dataset, i, frames_per_clip, frame_height) for i in chosen]
    width = max(strip.shape[1] for strip in strips)
    cells = [_cell(dataset[i], strip, width) for i, strip in zip(chosen, strips, strict=True)]
    columns = min(columns, len(cells))
    lines = -(-len(cells) // columns)
    cell_height = max(cell.shape[0] for cell in cells)
    head = _head(dataset, split, len(numbers), len(cells), columns * width + (columns - 1) * _GAP)
    sheet = _paper(
        head.shape[0] + lines * (cell_height + _GAP) + 2 * _EDGE - _GAP,
        head.shape[1] + 2 * _EDGE,
    )
    _put(sheet, head, _EDGE, _EDGE)
    for place, cell in enumerate(cells):
        line, column = divmod(place, columns)
        top = _EDGE + head.shape[0] + line * (cell_height + _GAP)
        _put(sheet, cell, top, _EDGE + column * (width + _GAP))
    return sheet


def _choose(
    numbers: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], count: int, rng: np.random.Generator
) -> list[int]:
    """Up to `count` sample numbers: classes take turns with a drawn sample of theirs; sorted by class."""
    by_class: dict[int, list[int]] = defaultdict(list)
    for i in rng.permutation(len(numbers)):
        by_class[int(labels[i])].append(int(numbers[i]))
    # With more classes than places, which classes come is drawn too.
    classes = [int(c) for c in rng.permutation(sorted(by_class))]
    turns = max(map(len, by_class.values()))
    order = [(turn, c) for turn in range(turns) for c in classes if turn < len(by_class[c])]
    shown = sorted(order[:count], key=lambda entry: (entry[1] < 0, entry[1], entry[0]))  # no label: last
    return [by_class[c][turn] for turn, c in shown]


def _strip(dataset: Dataset, i: int, frames: int, height: int) -> Image:
    """Frames side by side with a thin gap, (height, W, 3)."""
    sample = dataset[i]
    wanted = _spread(sample.frames, frames)
    height = min(height, 3 * sample.height)
    width = max(1, round(sample.width * height / sample.height))
    shrinks = height < sample.height
    images = [
        cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        for image in dataset.frames(i, wanted)
    ]
    strip = _paper(height, len(images) * (width + 2) - 2)
    for place, image in enumerate(images):
        _put(strip, np.asarray(image, np.uint8), 0, place * (width + 2))
    return strip


def _spread(total: int, wanted: int) -> npt.NDArray[np.int64]:
    """Up to `wanted` frame numbers from the first to the last."""
    return np.unique(np.linspace(0, total - 1, wanted).round().astype(np.int64))


def _cell(sample: Sample, strip: Image, width: int) -> Image:
    """One clip: label on the left, facts on the right, the key below them, the strip."""
    label_height, key_height = _TEXT + 9, _SMALL + 9
    cell = _paper(label_height + key_height + strip.shape[0], width)
    seconds = f" · {sample.frames / sample.fps:.1f} s" if sample.fps else ""
    facts = f"frames 0–{sample.frames - 1} · {sample.fps:.5g} fps{seconds}"
    facts_width = _text_width(facts, _SMALL, bold=False)
    _write(cell, facts, width - facts_width, _TEXT, _SMALL, _FAINT)
    label, colour = (sample.label, _INK) if sample.label is not None else ("no label", _FAINT)
    _write(cell, _fit(label, width - facts_width - 16, _TEXT), 0, _TEXT, _TEXT, colour, bold=True)
    below = " · ".join([sample.key, ", ".join(sample.splits)]) if sample.splits else sample.key
    _write(cell, _fit(below, width, _SMALL), 0, label_height + _SMALL - 2, _SMALL, _FAINT)
    _put(cell, strip, label_height + key_height, 0)
    return cell


def _head(dataset: Dataset, split: str | None, selected: int, shown: int, width: int) -> Image:
    """Title and one line of facts about the data set over a thin line."""
    head = _paper(_TITLE + _TEXT + 46, width)
    name = dataset.meta.name or dataset.url.rstrip("/").rpartition("/")[2]
    _write(head, _fit(name, width, _TITLE), 0, _TITLE, _TITLE, _ACCENT, bold=True)
    counts = dataset.frame_counts
    facts = [
        f"{len(dataset):,} samples",
        f"{len(dataset.classes):,} classes" if dataset.classes else "no labels",
        f"{int(counts.sum()):,} frames, median {int(np.median(counts)):,}",
        _sizes(dataset),
        f"split {split}: {selected:,} samples" if split else f"splits: {', '.join(dataset.splits) or 'none'}",
        f"{shown} shown",
    ]
    _write(head, _fit(" · ".join(facts), width, _TEXT), 0, _TITLE + _TEXT + 12, _TEXT, _FAINT)
    head[-19:-18] = _LINE
    return head


def _sizes(dataset: Dataset) -> str:
    """Frame sizes in words."""
    records = dataset.records[dataset.frame_counts > 0]
    sizes = {(int(h), int(w)) for h, w in np.unique(np.stack([records["height"], records["width"]], 1), axis=0)}
    one = "{}x{}".format(*min(sizes))
    return f"{one} high x wide" if len(sizes) == 1 else f"{len(sizes)} frame sizes"


def _paper(height: int, width: int) -> Image:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _put(sheet: Image, image: Image, top: int, left: int) -> None:
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image


@cache
def _font() -> Any:
    return cv2.FontFace("sans")


def _write(image: Image, text: str, left: int, baseline: int, size: int, colour: Colour, *, bold: bool = False) -> None:
    cv2.putText(image, _printable(text), (left, baseline), colour, _font(), size, 600 if bold else 400)


def _text_width(text: str, size: int, *, bold: bool = True) -> int:
    box = cv2.getTextSize((0, 0), _printable(text), (0, 0), _font(), size, 600 if bold else 400)
    return int(box[0] + box[2])


def _fit(text: str, width: int, size: int) -> str:
    """Text cut at its end to a width in pixels."""
    if _text_width(text, size) <= width:
        return text
    while text and _text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
