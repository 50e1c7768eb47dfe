"""What worker processes of packing do: write a shard, or measure a video."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from shards.procs import notify
from shards.receipts import Receipt, Verdict, package_versions
from shards.storage import open_storage
from shards.tarwriter import ShardWriter
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.labels import LabelMaker
from vidprep.deriving.measure import flow_cost, label_cost
from vidprep.farm.scratch import through
from vidprep.packing.encode import Encoded, encode, samples
from vidprep.packing.options import PackOptions
from vidprep.records import Video
from vidprep.runs import Progress, how_it_ran
from vidprep.verdicts import BadVideo

FOLDER = "rgb"
_PACKAGES = ("vidprep", "av", "numpy", "simplejpeg", "webdataset")


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write.

    Attributes:
        scratch: folder on the worker's machine that it is written in first; None: beside its final place.
        skip: verdicts on videos that ended or hung an earlier worker, by key.
    """

    url: str
    shard: int
    videos: tuple[Video, ...]
    options: PackOptions
    scratch: str | None = None
    skip: Mapping[str, Verdict] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"shard {self.shard} of {self.url}"


def pack_shard(task: ShardTask) -> Receipt:
    """Decode, compress and write the shard's videos; its receipt exists afterwards.

    Raises:
        StorageError: videos cannot be read or the shard cannot be written.
    """
    began, cpu, options = time.time(), time.process_time(), task.options
    verdicts: list[Verdict] = []
    frames = 0
    with ShardWriter(
        through(open_storage(task.url), task.scratch),
        task.shard,
        folder=FOLDER,
        parameters=options.parameters(),
        versions=package_versions(*_PACKAGES),
    ) as writer:
        for done, video in enumerate(task.videos):
            if video.key in task.skip:
                verdicts.append(task.skip[video.key])
                continue
            at = Progress(shard=task.shard, item=video, items=done, frames=frames)
            notify(at)
            try:
                encoded = encode(video, options, on_frames=partial(_report, at))
            except BadVideo as bad:
                verdicts.append(verdict(video, "bad", bad.code, bad.reason, bad.command))
                continue
            verdicts += [verdict(video, "warning", n.code, n.message, n.command) for n in encoded.notes]
            for sample in samples(video, encoded, options):
                writer.add(
                    sample.key,
                    sample.info,
                    sample.frames,
                    fps=sample.fps,
                    size=sample.size,
                    times_us=sample.times_us,
                )
            frames += len(encoded.frames)
        notify(Progress(shard=task.shard, item=None, items=len(task.videos), frames=frames))
        run = how_it_ran(began, cpu)
        return writer.finish(verdicts=verdicts, run=run)


def verdict(video: Video, level: Literal["bad", "warning"], code: str, message: str, command: str) -> Verdict:
    return Verdict(key=video.key, source=video.path, level=level, code=code, message=message, command=command)


def _report(at: Progress, frames: int) -> None:
    notify(replace(at, frames=at.frames + frames))


@dataclass(frozen=True, kw_only=True)
class MeasureTask:
    """One video to measure; `limit`: decode at most this many frames of it; `flow`, `labels`: measure these too."""

    number: int
    video: Video
    options: PackOptions
    limit: int | None
    flow: FlowMaker | None = None
    labels: LabelMaker | None = None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one video costs.

    Attributes:
        number: of its task.
        frames, payload: stored frames and their bytes, extended from the measured part to the whole video.
        seconds: of processor time, extended likewise.
        columns: bytes and seconds of derived columns, extended likewise.
        bad: code of the verdict, None where there is none.
    """

    number: int
    frames: float
    payload: float
    seconds: float
    columns: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bad: str | None = None


def measure(task: MeasureTask) -> Measure:
    """Decode and compress a video (or its first part) without storing it."""
    began = time.process_time()
    notify(task.video)
    try:
        encoded = encode(task.video, task.options, limit=task.limit, on_frames=lambda _: notify(task.video))
    except BadVideo as bad:
        return Measure(number=task.number, frames=0, payload=0, seconds=time.process_time() - began, bad=bad.code)
    share = 1.0
    if task.limit is not None and len(encoded.facts.times_us) >= task.limit:
        share = max(1.0, _expected_frames(task.video, encoded) / task.limit)
    seconds = (time.process_time() - began) * share
    columns: dict[str, tuple[float, float]] = {}
    if task.flow is not None:
        columns["flow"] = flow_cost(encoded.frames, task.flow)
    if task.labels is not None:
        columns["statistics"] = label_cost(encoded.frames, task.labels)
    return Measure(
        number=task.number,
        frames=len(encoded.frames) * share,
        payload=sum(map(len, encoded.frames)) * share,
        seconds=seconds,
        columns={name: (size * share, cost * share) for name, (size, cost) in columns.items()},
    )


def _expected_frames(video: Video, encoded: Encoded) -> float:
    """Decoded frames of the whole video, as the header has it."""
    info = encoded.facts.info
    if video.start is None and video.end is None and info.frames is not None:
        return info.frames
    length = (info.duration or 0.0) if video.end is None else video.end
    return max(0.0, length - (video.start or 0.0)) * encoded.facts.fps
