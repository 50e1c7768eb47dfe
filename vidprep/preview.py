"""Contact sheets: what a data set looks like, clip by clip."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.columns import COLUMNS
from shards.dataset import Dataset, Sample
from shards.derived import missing_column
from shards.errors import UserError
from shards.meta import Meta
from vidprep.drawing.canvas import (
    ACCENT,
    FAINT,
    INK,
    LEAST,
    LINE,
    SMALL,
    TEXT,
    TITLE,
    Image,
    below,
    beside,
    fit,
    named,
    paper,
    paragraph,
    put,
    scaled,
    text_width,
    write,
)
from vidprep.drawing.colours import wheel
from vidprep.drawing.fields import flow_strips
from vidprep.drawing.labelled import read_clip
from vidprep.drawing.statistics import statistics_panel

_EDGE = 28  # margin around the sheet
_GAP = 22  # between clips
_BETWEEN = 10  # between the pictures of one clip
_WHEEL = 64  # side of the colour code's key
_CAPTIONS = 3  # of a clip

_LEGENDS = {
    "flow": "Flow: the hue is the direction, as in the wheel, the saturation the length. ∂u, ∂v: motion boundaries of "
    "u and v, summed over up to 15 fields around the frame.",
    "statistics": "Statistics, above: the region with the strongest motion boundaries of u and of v; its arrow points "
    "from larger to smaller values. Below: the regions whose colours change most (diverse) and least (consistent), "
    "with their most frequent colour.",
}


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A column to draw: its name, its kind (frames, flow, statistics or text), and the column of the frames it was made
    from; for frames that is itself, for text the first."""

    name: str
    kind: str
    frames: str


def contact_sheet(
    dataset: Dataset,
    *,
    columns: Sequence[str] = ("rgb",),
    count: int | None = None,
    frames_per_clip: int = 8,
    seed: int = 0,
    split: str | None = None,
    frame_height: int = 72,
    side_by_side: int = 2,
) -> Image:
    """Draw clips of a data set with label, key, frame range and rate: frames, flow, statistics labels, captions.

    Frames are evenly spaced and scaled to one height, at most three times their size. Flow is drawn in the Middlebury
    colour code, with its motion boundaries, below its frames. Of a statistics table one row is drawn: where the three
    patterns' regions lie and what they are labelled with; of captions the first three. Classes take turns, so that
    `count` clips show as many classes as they can; which clip of a class and which row of a table is drawn from `seed`.
    Samples that failed in one of the columns are left out.

    Args:
        columns: names of columns, drawn in this order. They need not be open in `dataset`.
        count: clips to show, fewer where the data set has fewer; by default 24, or 8 where more than frames is drawn.
        split: only samples of this split.
        side_by_side: clips in a line.

    Returns:
        (H,W,3) uint8 RGB.

    Raises:
        UserError: no sample to show, no such column, a column that cannot be drawn, or a number below 1.
        DataError: stored bytes are damaged, or a table does not fit its frames.
    """
    for name, value in (
        ("count", 1 if count is None else count),
        ("frames_per_clip", frames_per_clip),
        ("side_by_side", side_by_side),
    ):
        if value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1")
    drawn = [_drawn(dataset, name) for name in columns]
    if count is None:
        count = 24 if {d.kind for d in drawn} == {"frames"} else 8
    opened = tuple(dict.fromkeys([d.frames for d in drawn] + [d.name for d in drawn]))
    dataset = Dataset(dataset.storage, dataset.meta, columns=opened)
    numbers = _numbers(dataset, opened, split)
    chosen = _choose(numbers, dataset.labels[numbers], count, np.random.default_rng(seed))
    pictures = [_pictures(dataset, drawn, i, frames_per_clip, frame_height, seed) for i in chosen]
    width = max(LEAST, *(picture.shape[1] for picture in pictures))
    cells = [_cell(dataset[i], picture, width) for i, picture in zip(chosen, pictures, strict=True)]
    lines = [beside(cells[at : at + side_by_side], gap=_GAP) for at in range(0, len(cells), side_by_side)]
    body = below(lines, gap=_GAP)
    head = _head(dataset, drawn, split, selected=len(numbers), shown=len(cells), width=body.shape[1])
    sheet = paper(head.shape[0] + body.shape[0] + 2 * _EDGE, body.shape[1] + 2 * _EDGE)
    put(sheet, head, _EDGE, _EDGE)
    put(sheet, body, _EDGE + head.shape[0], _EDGE)
    return sheet


def _drawn(dataset: Dataset, name: str) -> _Drawn:
    meta = dataset.meta
    if name not in meta.columns:
        raise UserError(missing_column(dataset.url, meta, name))
    kind = _kind(meta, name)
    if not kind:
        drawable = ", ".join(other for other in meta.columns if _kind(meta, other))
        raise UserError(f"column {name!r} holds {meta.columns[name].kind}, which is not drawn; draw {drawable}")
    # Imported flow names no source: then it is over the first frames there are.
    candidates = (name, *meta.columns[name].sources, *meta.columns)
    source = next((c for c in candidates if c in meta.columns and _kind(meta, c) == "frames"), None)
    if source is None:
        raise UserError(f"{dataset.url} has no frames to draw {name!r} over; it has: {', '.join(meta.columns)}")
    return _Drawn(name=name, kind=kind, frames=source)


def _kind(meta: Meta, name: str) -> str:
    """frames, flow, statistics, text, or nothing for what cannot be drawn."""
    kind = meta.columns[name].kind
    if COLUMNS[kind].framed:
        return "flow" if COLUMNS[kind].planes == 2 else "frames"
    return kind if kind in ("statistics", "text") else ""


def _numbers(dataset: Dataset, columns: Sequence[str], split: str | None) -> npt.NDArray[np.int64]:
    """The samples that can be shown."""
    there = dataset.table.mask(split) if split is not None else np.ones(len(dataset), np.bool_)
    numbers = np.flatnonzero(there & dataset.valid & (dataset.frame_counts > 0))
    if not len(numbers):
        where = f" in split {split!r}" if split is not None else ""
        failed = int((there & ~dataset.valid).sum())
        why = f": {failed} failed in {' or '.join(columns)}; vidprep info {dataset.url} counts the reasons"
        raise UserError(f"{dataset.url} has no sample to show{where}{why if failed else ''}")
    return numbers


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


def _pictures(dataset: Dataset, drawn: Sequence[_Drawn], i: int, count: int, height: int, seed: int) -> Image:
    """What is drawn of one sample, one column below the other."""
    fields = [int(dataset.record(i, d.name)["frames"]) // 2 for d in drawn if d.kind == "flow"]
    # All columns show the same moments; the last frame has no flow.
    times = _spread(min(fields, default=int(dataset.frame_counts[i])), count)
    shown = {d.name for d in drawn if d.kind == "frames"}
    pictures = []
    for d in drawn:
        if d.kind == "statistics":
            clip = read_clip(dataset, i, table=d.name, frames=d.frames, rng=np.random.default_rng([seed, i]))
            pictures.append(statistics_panel(clip, name=d.name))
            continue
        if d.kind == "text":
            pictures.append(_texts(dataset, i, d.name))
            continue
        tile = _tile(dataset, i, d.frames, height)
        frames = _strip(dataset, i, times, d.frames, tile)
        if d.kind == "flow":
            above = None if d.frames in shown else frames
            pictures.append(flow_strips(dataset, i, times, column=d.name, tile=tile, frames=above))
        else:
            pictures.append(named("frame", frames) if fields else frames)
    return below(pictures, gap=_BETWEEN)


def _texts(dataset: Dataset, i: int, column: str) -> Image:
    """The first captions of a sample, and how many more there are."""
    texts = dataset.captions([i], column=column)[0]
    more = [f"… {len(texts) - _CAPTIONS} more"] if len(texts) > _CAPTIONS else []
    return below([paragraph(text, LEAST) for text in [*texts[:_CAPTIONS], *more]], gap=0)


def _tile(dataset: Dataset, i: int, column: str, height: int) -> tuple[int, int]:
    """(height, width) at which a sample's frames are shown."""
    record = dataset.record(i, column)
    stored = int(record["height"]), int(record["width"])
    height = min(height, 3 * stored[0])
    return height, max(1, round(stored[1] * height / stored[0]))


def _strip(dataset: Dataset, i: int, wanted: Sequence[int], column: str, tile: tuple[int, int]) -> Image:
    """Frames side by side with a thin gap."""
    return beside([scaled(image, *tile) for image in dataset.frames(i, wanted, column=column)])


def _spread(total: int, wanted: int) -> list[int]:
    """Up to `wanted` frame numbers from the first to the last."""
    return [int(n) for n in np.unique(np.linspace(0, total - 1, wanted).round())]


def _cell(sample: Sample, picture: Image, width: int) -> Image:
    """One clip: label on the left, facts on the right, the key below them, the picture."""
    label_height, key_height = TEXT + 9, SMALL + 9
    cell = paper(label_height + key_height + picture.shape[0], width)
    seconds = f" · {sample.frames / sample.fps:.1f} s" if sample.fps else ""
    facts = f"frames 0–{sample.frames - 1} · {sample.fps:.5g} fps{seconds}"
    facts_width = text_width(facts, SMALL, bold=False)
    write(cell, facts, width - facts_width, TEXT, SMALL, FAINT)
    label, colour = (sample.label, INK) if sample.label is not None else ("no label", FAINT)
    write(cell, fit(label, width - facts_width - 16, TEXT), 0, TEXT, TEXT, colour, bold=True)
    key = " · ".join([sample.key, ", ".join(sample.splits)]) if sample.splits else sample.key
    write(cell, fit(key, width, SMALL), 0, label_height + SMALL - 2, SMALL, FAINT)
    put(cell, picture, label_height + key_height, 0)
    return cell


def _head(
    dataset: Dataset, drawn: Sequence[_Drawn], split: str | None, *, selected: int, shown: int, width: int
) -> Image:
    """Title, one line of facts about the data set, and keys to what is drawn, over a thin line."""
    kinds = {d.kind for d in drawn}
    key = _WHEEL + _GAP if "flow" in kinds else 0  # room for the wheel
    name = dataset.meta.name or dataset.url.rstrip("/").rpartition("/")[2]
    counts = dataset.frame_counts
    facts = [
        f"{len(dataset):,} samples",
        f"{len(dataset.classes):,} classes" if dataset.classes else "no labels",
        f"{int(counts.sum()):,} frames, median {int(np.median(counts)):,}",
        _sizes(dataset),
        f"split {split}: {selected:,} samples" if split else f"splits: {', '.join(dataset.splits) or 'none'}",
        f"{shown} shown",
    ]
    title = paper(TITLE + TEXT + 24, width)
    write(title, fit(name, width - key, TITLE), 0, TITLE, TITLE, ACCENT, bold=True)
    write(title, fit(" · ".join(facts), width - key, TEXT), 0, TITLE + TEXT + 12, TEXT, FAINT)
    legends = [paragraph(words, width - key) for kind, words in _LEGENDS.items() if kind in kinds]
    head = below([title, *legends, paper(22, width)], gap=0)
    if key:
        put(head, wheel(_WHEEL), 0, width - _WHEEL)
    head[-19:-18] = LINE
    return head


def _sizes(dataset: Dataset) -> str:
    """Frame sizes in words."""
    records = dataset.records[dataset.frame_counts > 0]
    sizes = {(int(h), int(w)) for h, w in np.unique(np.stack([records["height"], records["width"]], 1), axis=0)}
    one = "{}x{}".format(*min(sizes))
    return f"{one} high x wide" if len(sizes) == 1 else f"{len(sizes)} frame sizes"
