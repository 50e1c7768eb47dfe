"""The plan of an import: shards of about one size, and the check that a later run imports the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from shards.errors import StorageError, UserError
from shards.plan import Entry, Plan
from vidprep.catalog import Index
from vidprep.estimate import Estimate, shard_bounds, spread
from vidprep.folders.jpegs import BadJpeg, fit
from vidprep.folders.layouts import Layout, numbered
from vidprep.folders.scan import read_numbers
from vidprep.packing.options import PackOptions
from vidprep.packing.planning import planned
from vidprep.records import Video
from vidprep.resize import Resize

_MEASURED = 64  # videos


def plan_options(
    found: Index, layout: Layout, *, name: str, fps: float, shard_size: int
) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """The plan's options, and the first video of each shard and the one after its last.

    Sizes of files, and of the pictures in them, come from up to 64 evenly spread videos.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    frames, payload = [], []
    for number in spread(len(found.videos), _MEASURED):
        files = _files(found.videos[number], layout)
        frames.append(len(files))
        payload.append(sum(file.stat().st_size for file in files))
        size = _size(files[0]) if files else None
        if size is not None:
            sizes[size] += 1
    estimate = Estimate(measured=len(frames), bad=0, frames=fmean(frames), payload=fmean(payload), seconds=0.0)
    # Frames keep their size and bytes; of packing's options only the size of a shard decides here.
    packing = PackOptions(name=name, resize=Resize(short_side=1), shard_size=shard_size)
    options = {
        "name": name,
        "layout": layout.name,
        "classes": list(found.classes),
        "size": _asked_size(sizes),
        "fps": fps,
        "quality": None,
        "segment_frames": None,
        "shard_size": shard_size,
        "estimate": {
            "measured": estimate.measured,
            "bytes_per_video": round(estimate.bytes_per_video(packing)),
            "frames_per_video": round(estimate.frames, 1),
        },
    }
    return options, shard_bounds(len(found.videos), estimate, packing)


def plan_entries(videos: Sequence[Video], bounds: Sequence[tuple[int, int]]) -> Iterator[Entry]:
    """The plan's lines: shard i gets videos bounds[i][0]…bounds[i][1]−1."""
    for shard, (first, last) in enumerate(bounds):
        for video in videos[first:last]:
            yield Entry(shard=shard, video=planned(video))


def check_plan(plan: Plan, found: Index, asked: Mapping[str, Any], *, dest: str) -> None:
    """A destination is imported into with one set of options and from one tree.

    Raises:
        UserError: the plan was made with other options or of other videos; names the first difference.
    """
    for option, value in asked.items():
        if plan.options.get(option) != value:
            raise UserError(
                f"{dest} was planned with {option} {plan.options.get(option)}, this command asks for {value}; give the "
                "same, or another destination"
            )
    if tuple(plan.options["classes"]) != found.classes:
        raise UserError(f"{dest} was planned with other classes; give the same class table, or another destination")
    lines = [dict(entry.video) for entry in plan]
    now = [planned(video) for video in found.videos]
    for before, line in zip(lines, now, strict=False):
        if before != line:
            what = next(k for k in {**before, **line} if before.get(k) != line.get(k))
            raise UserError(
                f"the tree is not the one {dest} was planned from: {what} of {before['key']} was {before.get(what)!r} "
                f"and is {line.get(what)!r}; labels and splits of a finished data set are changed by vidprep annotate, "
                "other changes need another destination"
            )
    if len(lines) != len(now):
        raise UserError(
            f"the tree holds {len(now)} videos, {dest} was planned from {len(lines)}; give the same tree, or another "
            "destination"
        )


def _files(video: Video, layout: Layout) -> list[Path]:
    try:
        names = read_numbers(Path(video.location), numbered(layout.frame))
    except ValueError:  # it will get a verdict
        return []
    return [Path(video.location, name) for name in names.values()]


def _size(file: Path) -> tuple[int, int] | None:
    try:
        image = fit(file.read_bytes(), decode=False)
    except BadJpeg:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    return image.height, image.width


def _asked_size(sizes: Counter[tuple[int, int]]) -> dict[str, int]:
    """As dataset.json has it: the one size of all, or the usual short side."""
    if not sizes:
        return {"short_side": 0}
    if len(sizes) == 1:
        [(height, width)] = sizes
        return {"height": height, "width": width}
    sides: Counter[int] = Counter()
    for size, count in sizes.items():
        sides[min(size)] += count
    return {"short_side": max(sides, key=lambda side: (sides[side], side))}
