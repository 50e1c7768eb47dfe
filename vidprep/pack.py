"""Packing: the videos of a manifest become a data set of shards.

First a plan fixes which video goes into which shard. Then worker processes write shards, each published whole with a
receipt. Then everything is put together. Whatever ends a run, the same call goes on where it stopped, and the tars
and indexes are byte for byte those of an uninterrupted run, on any number of workers and on any engine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from shards.storage import open_storage
from vidprep.estimate import DryRun, dry_run, measure_videos, spread
from vidprep.farm.engines import Engine, Local, make_column
from vidprep.farm.finish import finish
from vidprep.farm.reports import PackReport
from vidprep.farm.work import Job
from vidprep.packing.options import PackOptions
from vidprep.packing.planning import read_whole_manifest
from vidprep.planning import asked_size, makers, plan
from vidprep.runs import OnEvent, ignore, worker_count

__all__ = ["PackReport", "estimate_pack", "pack"]

_DRY_RUN = 20  # videos


def pack(
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
    memory: int | None = None,
    scratch: str | Path | None = None,
    engine: Engine | None = None,
    on_event: OnEvent | None = None,
) -> PackReport:
    """Decode the videos of a manifest into a data set; going on where an earlier run stopped.

    Args:
        manifest: written by `vidprep index` or by hand.
        dest: the data set's folder.
        short_side: stored short side in pixels (128 unless `size` is given); smaller videos stay as they are.
        size: exact (height, width) instead.
        fps: resample to this rate by timestamps; None keeps all frames.
        quality: of the JPEGs, 1 to 100.
        shard_size: bytes of a shard, about.
        segment_frames: cut videos into samples of this many frames.
        name: what reports call the data set; the folder's name by default.
        root: where the videos are now, instead of the manifest's roots.
        classes: class table file; by default the one beside the manifest.
        workers: processes; one a core by default.
        max_bad: share of videos without a frame above which no data set is published.
        timeout: seconds without a new frame after which a video is given up.
        columns: "rgb", and "flow", "statistics" and "text" to add these columns as `vidprep.derive.add_flow`,
            `add_labels` and `add_text` do, with the same bytes.
        flow, labels: arguments of the first two.
        memory: bytes that a process may hold; a video that needs more is given up.
        scratch: folder that shards are written in before they are published, for slow destinations.
        engine: where shards are written; processes on this machine by default.
        on_event: receives dicts with "event": "plan", "start", "progress", "shard", "verdict" or "done".

    Raises:
        UserError: wrong options or manifest, options or manifest other than the plan's, too many bad videos.
        StorageError: videos cannot be read or the destination cannot be written.
    """
    began, tell, engine = time.monotonic(), on_event or ignore, engine or Local()
    if engine.here:
        makers(columns, flow or {}, labels or {}, probe=True)  # wrong options are found before hours of work
    planned = plan(
        manifest,
        dest,
        short_side=short_side,
        size=size,
        fps=fps,
        quality=quality,
        shard_size=shard_size,
        segment_frames=segment_frames,
        name=name,
        root=root,
        classes=classes,
        workers=workers,
        max_bad=max_bad,
        timeout=timeout,
        columns=columns,
        flow=flow,
        labels=labels,
        on_event=on_event,
    )
    job = Job(
        url=planned.url,
        roots=planned.roots,
        workers=workers,
        max_bad=max_bad,
        timeout=timeout,
        memory=memory,
        scratch=None if scratch is None else str(scratch),
    )
    engine.write(job, tell)
    report = finish(job, began=began, now=time.monotonic())
    assert isinstance(report, PackReport)
    tell({"event": "done", "message": str(report), **asdict(report)})
    for column in planned.columns[1:]:
        make_column(replace(job, column=column), engine, tell)
    return report


def estimate_pack(
    manifest: str | Path,
    dest: str | Path,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    quality: int = 90,
    shard_size: float = 256e6,
    segment_frames: int | None = None,
    root: str | Path | None = None,
    classes: str | Path | None = None,
    workers: int | None = None,
    timeout: float = 600,
    columns: Sequence[str] = ("rgb",),
    flow: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
) -> DryRun:
    """Decode 20 evenly spaced videos and say what `pack` with these arguments would need; writes nothing.

    Derived columns are measured on a few frames of each.

    Raises:
        UserError: wrong options or manifest.
        StorageError: videos cannot be read, or the destination cannot be a folder or be written.
    """
    options = PackOptions(
        name="dry run",
        resize=asked_size(short_side, size),
        fps=fps,
        quality=quality,
        shard_size=int(shard_size),
        segment_frames=segment_frames,
    )
    workers = worker_count(workers)
    place = open_storage(dest).url
    videos = read_whole_manifest(manifest, root=root, classes=classes, segments=segment_frames is not None)
    picked = videos.at(spread(videos.videos, _DRY_RUN))
    derived = makers(columns, flow or {}, labels or {}, probe=True)
    estimate = measure_videos(
        picked,
        options,
        workers=workers,
        limit=None,
        timeout=timeout,
        flow=derived.flow,
        labels=derived.statistics,
        text=derived.text is not None,
    )
    return dry_run(videos.videos, estimate, options, dest=place, workers=workers)
