"""What the headers of all videos say, read in parallel before the plan is made: shards of like size need it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from shards.procs import Lost, WorkerError, notify, run_tasks
from vidprep.packing.options import PackOptions
from vidprep.probe import probe
from vidprep.records import Video
from vidprep.runs import OnEvent
from vidprep.verdicts import BadVideo

_PROBE = "vidprep.packing.probing:read_headers"
_BATCH = 64
_TELL_EVERY = 4096  # videos


@dataclass(frozen=True, kw_only=True)
class Headers:
    """What was found.

    Attributes:
        weights: (N,) pixels a video will store, as its header has it; NaN where that does not say.
        bad: how many headers cannot be read, by code of the verdict they will get.
    """

    weights: npt.NDArray[np.float64]
    bad: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class HeaderTask:
    """Videos first, first + 1, … of a manifest. `skip`: numbers of those whose headers end or hang a process."""

    first: int
    videos: tuple[Video, ...]
    options: PackOptions
    skip: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class HeaderAnswer:
    first: int
    weights: list[float]
    bad: Mapping[str, int] = field(default_factory=dict)


def probe_videos(
    videos: Iterable[Video], count: int, options: PackOptions, *, workers: int, timeout: float, tell: OnEvent
) -> Headers:
    """Read the headers of all videos in worker processes.

    Raises:
        StorageError: videos cannot be read.
    """
    weights = np.full(count, np.nan)
    bad: Counter[str] = Counter()
    deaths: Counter[int] = Counter()

    def give_up(it: Lost) -> HeaderTask | None:
        """One death may be somebody's kill; after the second, or a silence, the batch is read without that header."""
        task: HeaderTask = it.task
        at = task.first if it.message is None else int(it.message)
        deaths[at] += 1
        if not it.silent and deaths[at] < 2:
            return task
        if at in task.skip:
            raise WorkerError(f"a worker {it.reason} again and again while it read headers, but at no video")
        bad["timeout" if it.silent else "crashed"] += 1
        return replace(task, skip=task.skip | {at})

    done = told = 0
    for answer in run_tasks(_PROBE, _batches(videos, options), workers=workers, on_lost=give_up, silence=timeout):
        weights[answer.first : answer.first + len(answer.weights)] = answer.weights
        bad.update(answer.bad)
        done += len(answer.weights)
        if done - told >= _TELL_EVERY:
            told = done
            tell({"event": "plan", "message": f"read {done:,} of {count:,} headers"})
    return Headers(weights=weights, bad=dict(bad.most_common()))


def read_headers(task: HeaderTask) -> HeaderAnswer:
    """In a worker: the weights of a batch of videos."""
    bad: Counter[str] = Counter()
    weights = []
    for number, video in enumerate(task.videos, task.first):
        if number in task.skip:
            weights.append(math.nan)
            continue
        notify(number)
        try:
            weights.append(_weight(video, task.options))
        except BadVideo as error:
            bad[error.code] += 1
            weights.append(math.nan)
    return HeaderAnswer(first=task.first, weights=weights, bad=dict(bad))


def balanced(weights: npt.NDArray[np.float64], shards: int) -> list[tuple[int, int]]:
    """First video of each of `shards` shards and the one after its last, so that their weights are about equal.

    A video without weight counts as the mean of the others; every shard has a video.
    """
    known = weights[~np.isnan(weights)]
    filled = np.where(np.isnan(weights), known.mean() if known.size else 1.0, weights)
    filled = np.maximum(filled, 1e-9 + filled.mean() * 1e-3)  # also a video without a frame takes some time
    total = np.cumsum(filled)
    ends = np.searchsorted(total, total[-1] * np.arange(1, shards) / shards, side="left") + 1
    # Every shard needs a video of its own, from the front and from the back.
    ends = np.maximum.accumulate(ends - np.arange(shards - 1)) + np.arange(shards - 1)
    ends = np.minimum(ends, len(weights) - np.arange(shards - 1, 0, -1))
    return list(pairwise([0, *ends.tolist(), len(weights)]))


def _weight(video: Video, options: PackOptions) -> float:
    info = probe(video.location)
    seconds = info.duration
    if video.start is not None or video.end is not None:
        length = (info.duration or math.inf) if video.end is None else video.end
        seconds = max(0.0, length - (video.start or 0.0))
        frames = None if info.fps is None else seconds * info.fps
    else:
        frames = info.frames or (None if info.fps is None or seconds is None else seconds * info.fps)
    if options.fps is not None and seconds is not None:
        frames = seconds * options.fps
    if frames is None or not math.isfinite(frames):
        return math.nan
    height, width = options.resize.target(info.height, info.width)
    return float(frames * height * width)


def _batches(videos: Iterable[Video], options: PackOptions) -> Iterator[HeaderTask]:
    waiting, first = iter(videos), 0
    while batch := tuple(islice(waiting, _BATCH)):
        yield HeaderTask(first=first, videos=batch, options=options)
        first += len(batch)
