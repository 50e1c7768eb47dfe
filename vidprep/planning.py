"""Planning: which video goes into which shard, and every option, fixed in the destination before work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards import captions
from shards.errors import StorageError, UserError
from shards.plan import NAME as PLAN
from shards.plan import Plan, read_plan, write_plan
from shards.storage import Storage, open_storage
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.labels import LabelMaker
from vidprep.deriving.makers import ColumnPlan, flow_maker, label_maker, text_maker, write_column_plan
from vidprep.deriving.text import TextMaker
from vidprep.estimate import measure_videos, shard_bounds, spread
from vidprep.packing.options import PackOptions, check_same
from vidprep.packing.planning import Manifest, entries, read_whole_manifest, roots_now
from vidprep.packing.probing import balanced, probe_videos
from vidprep.packing.work import FOLDER
from vidprep.resize import Resize
from vidprep.runs import OnEvent, ignore, worker_count

_SHORT_SIDE = 128
_MEASURED = 8  # videos, for the plan's estimate
_MEASURED_FRAMES = 256  # of each of them
FEW = 64  # videos that need no balance
_COLUMNS = ("rgb", "flow", "statistics", "text")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A planned data set.

    Attributes:
        url: the data set.
        videos, shards: how many are planned; columns: the planned columns.
        roots: where the videos are now, by the number of their root in the plan.
        unreadable: headers that cannot be read, by code; empty where none was read.
        fresh: it was planned now.
    """

    url: str
    videos: int
    shards: int
    columns: tuple[str, ...]
    roots: tuple[str, ...]
    unreadable: Mapping[str, int] = field(default_factory=dict)
    fresh: bool = False

    def __str__(self) -> str:
        bad = ", ".join(f"{count} {code}" for code, count in self.unreadable.items())
        return (
            f"{self.url}: {'planned' if self.fresh else 'was planned before'}: {self.videos:,} videos in {self.shards} "
            f"shards, columns {', '.join(self.columns)}" + (f"; headers that cannot be read: {bad}" if bad else "")
        )


def plan(
    manifest: str | Path,
    dest: str | Path,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    quality: int = 90,
    shard_size: float = 256e6,
    segment_frames: int | None = None,
    name: str | None = None,
    root: str | Path | None = None,
    classes: str | Path | None = None,
    workers: int | None = None,
    max_bad: float = 0.02,
    timeout: float = 600,
    columns: Sequence[str] = ("rgb",),
    flow: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    on_event: OnEvent | None = None,
) -> Planned:
    """Fix which video goes into which shard, and all options, in `dest`: then `vidprep.farm.work.run` works anywhere.

    An existing plan is compared with what is asked for. Arguments as for `vidprep.pack.pack`; `max_bad` and `timeout`
    are what `run` and `finish` take unless they are told otherwise.

    Raises:
        UserError: wrong options or manifest, options or manifest other than the plan's.
        StorageError: videos cannot be read or the destination cannot be written.
    """
    tell = on_event or ignore
    if not 0 <= max_bad <= 1:
        raise UserError(f"max_bad is {max_bad}; it is a share from 0 to 1")
    storage = open_storage(dest)
    options = PackOptions(
        name=name or _name(storage),
        resize=asked_size(short_side, size),
        fps=fps,
        quality=quality,
        shard_size=int(shard_size),
        segment_frames=segment_frames,
    )
    derived = makers(columns, flow or {}, labels or {})
    workers = worker_count(workers)
    videos = read_whole_manifest(manifest, root=root, classes=classes, segments=segment_frames is not None)
    if derived.text is not None and not any(captions.encode(captions.of(video.caption)) for video in videos):
        raise UserError(
            f"no video of {manifest} has a caption, so there is no text to pack; leave text out of the columns, and "
            "after packing give vidprep annotate DEST FILE, then vidprep text DEST"
        )
    storage.create(PLAN).discard()  # a destination that cannot be written is found before hours of work
    fresh = not storage.exists(PLAN)
    unreadable: Mapping[str, int] = {}
    if fresh:
        policy = {"max_bad": float(max_bad), "timeout": float(timeout)}
        unreadable = _write_plan(storage, videos, options, policy, workers=workers, timeout=timeout, tell=tell)
    plan = read_plan(storage)
    check_same(plan.options, options, dest=storage.url)
    classes_ = tuple(plan.options["classes"])
    if (classes_[: len(videos.classes)] if plan.options.get("appended") else classes_) != videos.classes:
        raise UserError(
            f"{storage.url} was planned with other classes; give the same class table, or another destination"
        )
    for column, maker in derived.items():
        write_column_plan(storage, ColumnPlan.of(column, maker))
    count, shards = _size(plan)
    return Planned(
        url=storage.url,
        videos=count,
        shards=shards,
        columns=tuple(name for name in _COLUMNS if name in columns),
        roots=roots_now(plan, videos, dest=storage.url),
        unreadable=unreadable,
        fresh=fresh,
    )


@dataclass(frozen=True, kw_only=True)
class Makers:
    """What makes the columns besides rgb; None for those that are not asked for."""

    flow: FlowMaker | None = None
    statistics: LabelMaker | None = None
    text: TextMaker | None = None

    def items(self) -> list[tuple[str, FlowMaker | LabelMaker | TextMaker]]:
        """Name and maker of those that are asked for."""
        return [(name, maker) for name, maker in vars(self).items() if maker is not None]


def makers(
    columns: Sequence[str], flow: Mapping[str, Any], labels: Mapping[str, Any], *, probe: bool = False
) -> Makers:
    """What makes the columns that are asked for.

    Args:
        probe: compute the flow of one pair, to find out whether it can be computed here.

    Raises:
        UserError: unknown columns, wrong options.
    """
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or "rgb" not in columns:
        wrong = f"no column {unknown[0]!r} can be made" if unknown else "rgb is missing"
        raise UserError(
            f"columns are {', '.join(columns)}: {wrong}; give rgb and any of flow, statistics (which needs flow) and "
            "text, such as --columns rgb,flow,statistics"
        )
    if "statistics" in columns and "flow" not in columns:
        raise UserError("statistics are computed from flow: give the columns rgb,flow,statistics")
    maker = flow_maker(**flow) if "flow" in columns else None
    if maker is not None and probe:
        maker.probe()
    return Makers(
        flow=maker,
        statistics=label_maker(**labels) if "statistics" in columns else None,
        text=text_maker() if "text" in columns else None,
    )


def asked_size(short_side: int | None, size: tuple[int, int] | None) -> Resize:
    """Raises UserError: both are given, or a size too small."""
    if short_side is not None and size is not None:
        raise UserError(f"give either short_side ({short_side}) or size ({size[0]}x{size[1]}), not both")
    if size is not None:
        return Resize(size=size)
    return Resize(short_side=_SHORT_SIDE if short_side is None else short_side)


def _name(storage: Storage) -> str:
    """The planned name where there is a plan, else that of the folder."""
    if storage.exists(PLAN):
        return str(read_plan(storage).options["name"])
    return storage.url.rstrip("/").rpartition("/")[2] or "data"


def _size(plan: Plan) -> tuple[int, int]:
    """Lines and shards."""
    lines, last = 0, -1
    for entry in plan:
        lines, last = lines + 1, entry.shard
    return lines, last + 1


def _write_plan(
    storage: Storage,
    videos: Manifest,
    options: PackOptions,
    policy: Mapping[str, float],
    *,
    workers: int,
    timeout: float,
    tell: OnEvent,
) -> Mapping[str, int]:
    """Returns how many headers cannot be read, by code."""
    if storage.list(FOLDER):
        raise StorageError(f"{storage.url} holds shards but no plan; choose an empty destination")
    picked = videos.at(spread(videos.videos, _MEASURED))
    tell({"event": "plan", "message": f"measuring {len(picked)} of {videos.videos:,} videos"})
    estimate = measure_videos(picked, options, workers=workers, limit=_MEASURED_FRAMES, timeout=timeout)
    bounds = shard_bounds(videos.videos, estimate, options)
    unreadable: Mapping[str, int] = {}
    if videos.videos > FEW:
        tell({"event": "plan", "message": f"reading the headers of {videos.videos:,} videos"})
        headers = probe_videos(videos, videos.videos, options, workers=workers, timeout=timeout, tell=tell)
        bounds = balanced(headers.weights, len(bounds))
        unreadable = headers.bad
        if unreadable:
            bad = ", ".join(f"{count} {code}" for code, count in unreadable.items())
            tell({"event": "plan", "message": f"warning: headers that cannot be read: {bad}"})
    recorded = {
        "measured": estimate.measured,
        "bytes_per_video": round(estimate.bytes_per_video(options)),
        "frames_per_video": round(estimate.frames, 1),
    }
    planned = {
        **options.planned(),
        "classes": list(videos.classes),
        "estimate": recorded,
        "roots": list(videos.roots),
        "policy": dict(policy),
    }
    write_plan(storage, planned, entries(videos, bounds, roots=videos.roots))
    return unreadable
