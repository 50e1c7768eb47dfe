"""One video → the samples it becomes, as encoded frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards import jpeg
from shards.errors import StorageError
from shards.keys import segment_key
from vidprep.decode import Facts, Picture, decode
from vidprep.packing.options import PackOptions
from vidprep.records import Video
from vidprep.resample import resample
from vidprep.sources import source_name
from vidprep.verdicts import BadVideo, Note

_REPORT_EVERY = 32  # frames


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A whole video as stored frames.

    `times_us` (T,) belongs to the stored frames, also after resampling.
    """

    frames: list[bytes]
    times_us: npt.NDArray[np.int64]
    fps: float
    constant: bool
    facts: Facts
    notes: list[Note]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What `shards.tarwriter.ShardWriter.add` takes."""

    key: str
    info: dict[str, Any]
    frames: list[bytes]
    fps: float
    size: tuple[int, int]
    times_us: npt.NDArray[np.int64]


def encode(
    video: Video, options: PackOptions, *, on_frames: Callable[[int], None] | None = None, limit: int | None = None
) -> Encoded:
    """Decode and compress a video, frame by frame: only compressed frames are held.

    Args:
        on_frames: told now and then how many frames there are.
        limit: stop after this many decoded frames (to measure a long video).

    Raises:
        BadVideo: the file gives no frame.
        StorageError: the root or the file cannot be read.
    """
    decoded = decode(video.location, resize=options.resize, start=video.start, end=video.end, limit=limit)
    pictures: Iterator[Picture] = decoded.pictures()
    if options.fps is not None:
        pictures = resample(pictures, options.fps)
    frames: list[bytes] = []
    before: Picture | None = None
    try:
        for picture in pictures:
            # Resampling repeats pictures; the same picture is the same bytes.
            frames.append(frames[-1] if picture is before else jpeg.encode(picture.image(), quality=options.quality))
            before = picture
            if on_frames is not None and len(frames) % _REPORT_EVERY == 0:
                on_frames(len(frames))
    except BadVideo as bad:
        if bad.code == "missing-file":
            _check_root(video)
        raise
    facts = decoded.facts
    times, fps, constant = facts.times_us, facts.fps, facts.constant
    if options.fps is not None:
        times = np.round(np.arange(len(frames)) * (1e6 / options.fps)).astype(np.int64)
        fps, constant = options.fps, True
    return Encoded(frames=frames, times_us=times, fps=fps, constant=constant, facts=facts, notes=decoded.notes)


def samples(video: Video, encoded: Encoded, options: PackOptions) -> Iterator[Sample]:
    """The video's samples: one, or one a segment. All segments but the last have `segment_frames` frames."""
    facts, total = encoded.facts, len(encoded.frames)
    step = options.segment_frames or total
    for number, first in enumerate(range(0, total, step)):
        part = slice(first, min(first + step, total))
        times = encoded.times_us[part] - encoded.times_us[first]
        info: dict[str, Any] = {"source": video.path, "label": video.label, "label_index": video.label_index}
        key = video.key
        if options.segment_frames is not None:
            key = segment_key(video.key, number)
            info |= {"video": video.key, "segment": number}
        info |= {"fps": encoded.fps, "frames": len(times), "height": facts.height, "width": facts.width}
        info |= {"source_height": facts.info.height, "source_width": facts.info.width}
        info |= {"rotation": facts.rotation, "mirrored": facts.mirrored, "codec": facts.info.codec}
        if video.start is not None or video.end is not None or first:
            info["start"] = (video.start or 0.0) + int(encoded.times_us[first]) / 1e6
        if video.end is not None:
            info["end"] = video.end
        if not encoded.constant:
            info["times_us"] = times.tolist()
        if encoded.notes:
            info["warnings"] = [note.code for note in encoded.notes]
        yield Sample(
            key=key,
            info=info,
            frames=encoded.frames[part],
            fps=encoded.fps,
            size=(facts.height, facts.width),
            times_us=times,
        )


def _check_root(video: Video) -> None:
    """A missing file is the video's fault only where its root is there, and is no empty mount point."""
    root, reason = source_name(video.root), None
    if "://" in root or root.rstrip("/").endswith(".tar!"):
        return  # a store that can be reached has told that there is no such object
    try:
        with os.scandir(root) as found:
            reason = None if next(found, None) is not None else "it is empty"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason is not None:
        raise StorageError(
            f"cannot find the videos in their root {video.root}: {reason}; mount it, or say where it is now with "
            "--root DIR"
        )
