"""What packing will cost, from a few evenly spaced videos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from shutil import disk_usage
from statistics import fmean

from shards.errors import StorageError
from shards.index import FRAME, MEMBER, SAMPLE
from shards.procs import Lost, run_tasks
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.labels import LabelMaker
from vidprep.deriving.measure import text_bytes
from vidprep.packing.options import PackOptions
from vidprep.packing.work import Measure, MeasureTask
from vidprep.records import Video

# A sample's two tar headers, their padding and its description, measured on real sets.
_TAR_OVERHEAD = 2500
_FEWEST = 8
_MEASURE = "vidprep.packing.work:measure"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Means per video of a manifest, bad ones counting as nothing.

    Attributes:
        measured: how many videos were decoded; bad: how many of these gave no frame.
        frames, payload: stored frames of a video and the bytes of their JPEGs.
        seconds: processor time of a video.
        columns: bytes and seconds of the derived columns of a video.
    """

    measured: int
    bad: int
    frames: float
    payload: float
    seconds: float
    columns: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def bytes_per_video(self, options: PackOptions) -> float:
        """In tars and indexes."""
        samples = 1.0 if options.segment_frames is None else max(1.0, self.frames / options.segment_frames)
        return self.payload + samples * _TAR_OVERHEAD + self.index_bytes(samples)

    def index_bytes(self, samples: float = 1.0) -> float:
        return self.frames * FRAME.itemsize + samples * (2 * SAMPLE.itemsize + MEMBER.itemsize)


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a whole run would need.

    Attributes:
        videos, shards: counts.
        rgb_bytes: of the rgb column's tars; index_bytes: of its indexes.
        scratch_bytes: the part of these that unfinished shards hold at any time.
        free_bytes: on the destination's disk; None where it is no disk of this machine.
        core_hours: processor time of all columns; wall_hours: at the given number of workers.
        columns: bytes and core-hours of every derived column.
        bad: of the measured videos.
    """

    videos: int
    shards: int
    measured: int
    bad: int
    rgb_bytes: float
    index_bytes: float
    scratch_bytes: float
    free_bytes: int | None
    core_hours: float
    wall_hours: float
    workers: int
    columns: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def bytes(self) -> float:
        """Of everything."""
        return self.rgb_bytes + self.index_bytes + sum(size for size, _ in self.columns.values())

    @property
    def fits(self) -> bool:
        return self.free_bytes is None or self.bytes <= self.free_bytes


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` numbers evenly spread over 0..count−1."""
    wanted = min(count, wanted)
    return [int((k + 0.5) * count / wanted) for k in range(wanted)]


def measure_videos(
    videos: Sequence[Video],
    options: PackOptions,
    *,
    workers: int,
    limit: int | None,
    timeout: float,
    flow: FlowMaker | None = None,
    labels: LabelMaker | None = None,
    text: bool = False,
) -> Estimate:
    """Decode the given videos in worker processes.

    Args:
        limit: decode at most this many frames of a video and extend by what its header says.
        timeout: seconds without a frame after which a video counts as bad.
        flow, labels, text: measure these columns too.

    Raises:
        StorageError: videos cannot be read.
    """
    tasks = [
        MeasureTask(number=i, video=v, options=options, limit=limit, flow=flow, labels=labels)
        for i, v in enumerate(videos)
    ]
    lost: list[Measure] = []

    deaths: Counter[int] = Counter()

    def give_up(it: Lost) -> MeasureTask | None:
        """One death may be somebody's kill, and the plan must not depend on it; the second is the video's."""
        task: MeasureTask = it.task
        deaths[task.number] += 1
        if not it.silent and deaths[task.number] < 2:
            return task
        lost.append(Measure(number=task.number, frames=0, payload=0, seconds=0, bad="crashed"))
        return None

    found: Iterable[Measure | None] = run_tasks(_MEASURE, tasks, workers=workers, on_lost=give_up, silence=timeout)
    # Sums of floats depend on their order, and the plan that holds them must not depend on which worker was faster.
    measures = sorted([m for m in found if m is not None] + lost, key=lambda m: m.number)
    if not measures:
        return Estimate(measured=0, bad=0, frames=0, payload=0, seconds=0)
    return Estimate(
        measured=len(measures),
        bad=sum(m.bad is not None for m in measures),
        frames=fmean(m.frames for m in measures),
        payload=fmean(m.payload for m in measures),
        seconds=fmean(m.seconds for m in measures),
        columns={
            name: _mean_cost([m.columns.get(name, (0.0, 0.0)) for m in measures])
            for name, maker in (("flow", flow), ("statistics", labels))
            if maker is not None
        }
        | ({"text": _mean_cost([(text_bytes(video), 0.0) for video in videos])} if text else {}),
    )


def _mean_cost(costs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(size for size, _ in costs), fmean(seconds for _, seconds in costs)


def shard_bounds(videos: int, estimate: Estimate, options: PackOptions) -> list[tuple[int, int]]:
    """First video of each shard and the one after its last: shards of nearly equal counts, about `shard_size` each.

    A small data set has smaller shards, so that several processes share the work; how many must not depend on this
    machine. Where nothing could be measured a video is taken for a megabyte.
    """
    each = estimate.bytes_per_video(options) if estimate.payload else 1e6
    shards = min(videos, max(1, round(videos * each / options.shard_size), min(_FEWEST, videos // _FEWEST)))
    return list(pairwise(videos * i // shards for i in range(shards + 1)))


def dry_run(videos: int, estimate: Estimate, options: PackOptions, *, dest: str, workers: int) -> DryRun:
    """Extend the measured means to all videos. `dest`: the storage's URL."""
    shards = len(shard_bounds(videos, estimate, options))
    index = videos * estimate.index_bytes()
    rgb = videos * estimate.bytes_per_video(options) - index
    columns = {name: (videos * size, videos * cost / 3600) for name, (size, cost) in estimate.columns.items()}
    hours = videos * estimate.seconds / 3600 + sum(cost for _, cost in columns.values())
    return DryRun(
        videos=videos,
        shards=shards,
        measured=estimate.measured,
        bad=estimate.bad,
        rgb_bytes=rgb,
        index_bytes=index,
        scratch_bytes=(rgb + index) * min(1.0, workers / shards),
        free_bytes=None if "://" in dest else disk_usage(_existing(Path(dest))).free,
        core_hours=hours,
        wall_hours=hours / min(workers, shards),
        workers=workers,
        columns=columns,
    )


def _existing(path: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    found = next(p for p in (path, *path.parents) if p.exists())
    if not found.is_dir():
        raise StorageError(f"{path} cannot be a folder: {found} is a file; choose another destination")
    if not os.access(found, os.W_OK):
        raise StorageError(f"{found} cannot be written; make it writable or choose another destination")
    return found
