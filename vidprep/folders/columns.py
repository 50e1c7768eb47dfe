"""What worker processes of an import do: write one shard of the rgb or of the flow column."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shards.columns import COLUMNS
from shards.flow import Release
from shards.index import ShardIndex, parse_idx
from shards.procs import notify
from shards.receipts import Receipt, Verdict, package_versions, stem
from shards.storage import Storage, open_storage
from shards.tarwriter import ShardWriter
from vidprep.folders.frames import BadFolder, Images, read_fields, read_frames
from vidprep.folders.layouts import LAYOUTS, Layout, numbered
from vidprep.folders.roots import Place
from vidprep.folders.scan import read_numbers
from vidprep.records import Video
from vidprep.runs import Progress

RGB = "rgb"
_PACKAGES = ("vidprep", "simplejpeg")


@dataclass(frozen=True, kw_only=True)
class ImportTask:
    """One shard to write.

    Attributes:
        folder: of the column; flow: whether it is the flow column.
        places: key → where its flow lies; videos without an entry have none.
        skip: verdicts on videos that ended or hung an earlier worker, by key.
    """

    url: str
    shard: int
    videos: tuple[Video, ...]
    layout: str
    fps: float
    folder: str = RGB
    flow: bool = False
    places: Mapping[str, Place] = field(default_factory=dict)
    skip: Mapping[str, Verdict] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"shard {self.shard} of {self.folder} in {self.url}"

    def parameters(self) -> dict[str, Any]:
        """What the bytes depend on besides the files."""
        if self.flow:
            return flow_parameters(self.layout)
        return {"method": "imported", "layout": self.layout, "fps": self.fps}


def flow_parameters(layout: str) -> dict[str, Any]:
    """Parameters of an imported flow column."""
    return {"method": "imported", "codec": Release.name, "bound": Release().bound, "layout": layout}


def import_shard(task: ImportTask) -> Receipt:
    """Write the shard; its receipt exists afterwards.

    Raises:
        StorageError: files cannot be read or the shard cannot be written.
        DataError: the rgb shard that flow belongs to is damaged.
    """
    began, storage = time.time(), open_storage(task.url)
    verdicts: list[Verdict] = []
    frames = 0
    with ShardWriter(
        storage,
        task.shard,
        folder=task.folder,
        kind=COLUMNS["flow" if task.flow else "rgb"],
        parameters=task.parameters(),
        versions=package_versions(*_PACKAGES),
    ) as writer:
        index = read_index(storage, task.shard) if task.flow else None
        stored = {} if index is None else dict(zip(index.all_keys(), index.samples, strict=True))
        for done, video in enumerate(task.videos):
            if task.flow and video.key not in stored:
                continue  # it has no sample
            at = Progress(shard=task.shard, item=video, items=done, frames=frames)
            notify(at)
            told = _Told(at)
            if task.flow:
                verdicts += _add_flow(writer, task, video, stored[video.key], told)
            else:
                verdicts += _add_frames(writer, task, video, told)
            frames += told.files
        notify(Progress(shard=task.shard, item=None, items=len(task.videos), frames=frames))
        run = {"began": round(began, 3), "seconds": round(time.time() - began, 3), "host": platform.node()}
        return writer.finish(verdicts=verdicts, run=run)


def read_index(storage: Storage, shard: int, folder: str = RGB) -> ShardIndex:
    """The .idx of a finished shard. Raises DataError, StorageError."""
    name = f"{stem(folder, shard)}.idx"
    return parse_idx(np.frombuffer(storage.read(name), np.uint8), f"{storage.url}/{name}")


class _Told:
    """Counts files read and passes the count on."""

    def __init__(self, at: Progress) -> None:
        self._at, self.files = at, 0

    def __call__(self, files: int) -> None:
        self.files = files
        notify(replace(self._at, frames=self._at.frames + files))


def _add_frames(writer: ShardWriter, task: ImportTask, video: Video, told: Callable[[int], None]) -> list[Verdict]:
    if video.key in task.skip:
        return [task.skip[video.key]]
    layout = LAYOUTS[task.layout]
    try:
        images = read_frames(Path(video.location), numbered(layout.frame), on_files=told)
    except BadFolder as bad:
        return [verdict(video, "bad", bad.code, bad.reason)]
    warnings = _warnings(video, images)
    if len(images.data) == 1:
        warnings.append(verdict(video, "warning", "one-frame", "it is a single frame"))
    times = images.times_us(task.fps)
    height, width = images.size
    info: dict[str, Any] = {"source": video.path, "label": video.label, "label_index": video.label_index}
    info |= {"fps": task.fps, "fps_assumed": True, "frames": len(images.data), "height": height, "width": width}
    info |= {"codec": "mjpeg", "layout": task.layout}
    if images.gaps:
        info["times_us"] = times.tolist()
    if warnings:
        info["warnings"] = [it.code for it in warnings]
    writer.add(video.key, info, images.data, fps=task.fps, size=images.size, times_us=times)
    told(len(images.data))
    return warnings


def _add_flow(
    writer: ShardWriter, task: ImportTask, video: Video, record: np.void, told: Callable[[int], None]
) -> list[Verdict]:
    layout, place = LAYOUTS[task.layout], task.places.get(video.key)
    size = (int(record["height"]), int(record["width"]))
    try:
        if video.key in task.skip:
            raise BadFolder(task.skip[video.key].code, task.skip[video.key].message)
        if int(record["frames"]) < 2:
            raise BadFolder("one-frame", "one frame has no flow")
        if place is None:
            raise BadFolder("no-flow", "there is no flow for it in u and v, or beside the frames")
        numbers = _frame_numbers(video, layout, int(record["frames"]))
        planes = place.planes(layout)
        u, v, unused = read_fields(*planes, frames=numbers, as_many=layout.as_many, on_files=told)
    except BadFolder as bad:
        writer.add(video.key, {"failed": bad.code}, b"", fps=task.fps, size=size, failed=True)
        return [verdict(video, "bad", bad.code, bad.reason, place)]
    warnings = _warnings(video, u, v, place=place)
    if unused:
        listed = ", ".join(map(str, unused[:3])) + (", …" if len(unused) > 3 else "")
        text = f"{len(unused)} fields belong to no pair of neighbouring frames and were left out: number {listed}"
        warnings.append(verdict(video, "warning", "fields-unused", text, place))
    if u.size != size:
        text = (
            f"its flow is {u.size[0]}x{u.size[1]}, its frames are {size[0]}x{size[1]}; vectors count pixels of the flow"
        )
        warnings.append(verdict(video, "warning", "flow-size", text, place))
    codec = Release()
    info = {"source": place.source, "fields": len(u.data), "height": u.size[0], "width": u.size[1]}
    info |= {"codec": codec.name, "zero": codec.zero, "step": codec.step}
    payload = [plane for pair in zip(u.data, v.data, strict=True) for plane in pair]
    times = np.round(np.arange(len(u.data)) * (1e6 / task.fps)).astype(np.int64)
    writer.add(video.key, info, payload, fps=task.fps, size=u.size, times_us=np.repeat(times, 2))
    told(len(payload))
    return warnings


def _frame_numbers(video: Video, layout: Layout, stored: int) -> list[int]:
    try:
        numbers = list(read_numbers(Path(video.location), numbered(layout.frame)))
    except ValueError as error:
        raise BadFolder("frame-names", str(error)) from error
    if len(numbers) != stored:
        raise BadFolder(
            "frames-changed",
            f"its folder holds {len(numbers)} frames, {stored} were imported; import it into a new destination",
        )
    return numbers


def _warnings(video: Video, *images: Images, place: Place | None = None) -> list[Verdict]:
    found = []
    if gaps := images[0].gaps:
        first, *_, last = images[0].numbers
        text = f"{gaps} numbers are missing between {first} and {last}; the times of the frames keep the gaps"
        found.append(verdict(video, "warning", "frames-missing", text, place))
    if changed := sum(it.changed for it in images):
        text = (
            f"of {changed} files a segment with JPEG markers in it (a thumbnail) or bytes behind the end were left out"
        )
        found.append(verdict(video, "warning", "segments-removed", text, place))
    return found


def verdict(
    video: Video, level: Literal["bad", "warning"], code: str, message: str, place: Place | None = None
) -> Verdict:
    """On a video; `place`: on its flow."""
    source = video.path if place is None else place.source
    return Verdict(key=video.key, source=source, level=level, code=code, message=message)
