"""Decoding: every frame of a video once, upright, in RGB, with its time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.container
import av.error
import av.video.stream
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from vidprep.clock import Clock, frame_rate
from vidprep.probe import VideoInfo, describe, header_rate, open_video
from vidprep.resize import Converter, Image, Resize
from vidprep.sources import check_readable, source_name
from vidprep.verdicts import BadVideo, Note, note

# Seeking pays from here on, in seconds; it is trusted in containers with an index of key frames only.
_SEEK_FROM = 10.0
_SEEK_MARGIN = 2.0
_SLACK = 2  # frames
_INDEXED = frozenset({"mov", "mp4", "matroska", "webm"})


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decoding has shown. `height`, `width`: as stored, upright; those of `info` are the coded picture's.

    Attributes:
        times_us: (T,) int64, microseconds since the first frame, strictly increasing.
        fps: frames a second; the mean where it is not constant.
        constant: frame i is at i / fps, up to what the file rounds times to.
        rotation, mirrored: what was done to make it upright: degrees clockwise, then left-right.
        is_smaller: stored smaller than asked, because the video is.
    """

    info: VideoInfo
    height: int
    width: int
    times_us: npt.NDArray[np.int64]
    fps: float
    constant: bool
    rotation: int
    mirrored: bool
    is_smaller: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One decoded frame before conversion: what is not wanted need not be converted."""

    time_us: int
    frame: VideoFrame
    converter: Converter

    def image(self) -> Image:
        """(H,W,3) uint8 RGB, upright.

        Raises:
            av.error.FFmpegError: this kind of picture cannot be converted.
        """
        return self.converter(self.frame)


def decode(
    path: str | Path,
    *,
    resize: Resize | None = None,
    start: float | None = None,
    end: float | None = None,
    limit: int | None = None,
) -> Decoded:
    """The frames of a video's best stream, in one pass: iterate over (image, time_us) pairs, once.

    Args:
        path: a file, the URL of one, or a member of a tar; see `vidprep.sources`.
        resize: stored size; None keeps the video's own.
        start, end: seconds from the beginning of the video; frames with start <= time < end.
        limit: end after this many frames.

    Iterating raises:
        BadVideo: the file gives no frame.
        StorageError: the file exists but cannot be read.

    One thread, so that a broken stream decodes to the same frames every time. Interlaced fields stay woven, alpha
    is dropped, pixels that are not square stay so.
    """
    return Decoded(source_name(path), resize=resize, start=start, end=end, limit=limit)


class Decoded:
    """See `decode`. `facts` and `notes` are there when the iteration is over."""

    def __init__(
        self, name: str, *, resize: Resize | None, start: float | None, end: float | None, limit: int | None
    ) -> None:
        self._name = name
        self._resize = resize
        self._start_us = 0 if start is None else round(start * 1e6)
        self._end_us = math.inf if end is None else round(end * 1e6)
        self._limit = math.inf if limit is None else limit
        self._errors: list[str] = []
        self._corrupt = 0
        self._sizes: set[tuple[int, int]] = set()
        self._facts: Facts | None = None
        self.notes: list[Note] = []

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            raise RuntimeError("facts are known after the last frame; iterate over all frames first")
        return self._facts

    def __iter__(self) -> Iterator[tuple[Image, int]]:
        for picture in self.pictures():
            yield picture.image(), picture.time_us

    def pictures(self) -> Iterator[Picture]:
        """The frames as they are decoded, not converted yet; `time_us` counts from the first one."""
        try:
            with open_video(self._name) as (container, stream):
                yield from self._pictures(container, stream)
        except av.error.FFmpegError as error:
            check_readable(self._name)
            raise BadVideo("undecodable", self._name, f"its pictures cannot be converted ({error})") from error

    def _pictures(
        self, container: av.container.InputContainer, stream: av.video.stream.VideoStream
    ) -> Iterator[Picture]:
        info = describe(container, stream)
        time_base = stream.time_base or Fraction(1, 1_000_000)
        rates = (stream.average_rate, header_rate(stream))
        clock = Clock(time_base, header_rate(stream), by_decoding=info.container == "avi")
        zero = None if stream.start_time is None else round(stream.start_time * time_base * 1_000_000)
        seen = 0
        times: list[int] = []
        converter: Converter | None = None
        for frame in self._from_start(container, stream):
            seen += 1
            time = clock.time_us(frame.pts, frame.dts)
            zero = time if zero is None else zero
            if time - zero >= self._end_us or len(times) >= self._limit:
                break
            if self._start_us and time - zero < self._start_us:
                continue
            if converter is None:
                converter = Converter(frame, self._resize)
            self._corrupt += frame.is_corrupt
            self._sizes.add((frame.height, frame.width))
            times.append(time)
            yield Picture(time_us=time - times[0], frame=frame, converter=converter)
        if self._errors or self._corrupt or not times:
            check_readable(self._name)
        if converter is None:
            raise self._nothing(seen, info)
        found = np.asarray(times, np.int64) - times[0]
        fps, constant = frame_rate(found, time_base=time_base, rates=rates)
        self._facts = Facts(
            info=info,
            height=converter.size[0],
            width=converter.size[1],
            times_us=found,
            fps=fps,
            constant=constant,
            rotation=converter.orientation.rotation,
            mirrored=converter.orientation.mirrored,
            is_smaller=converter.is_smaller,
        )
        self._note(clock, converter)

    def _from_start(
        self, container: av.container.InputContainer, stream: av.video.stream.VideoStream
    ) -> Iterator[VideoFrame]:
        """Frames from a little before the start of the cut, where the container can seek exactly."""
        seconds = self._start_us / 1e6
        if (
            seconds < _SEEK_FROM
            or not _INDEXED & set(container.format.name.split(","))
            or stream.start_time is None
            or stream.time_base is None
        ):
            yield from self._frames(container.demux(stream), stream)
            return
        wanted = stream.start_time + round(Fraction(seconds) / stream.time_base)
        container.seek(wanted - round(_SEEK_MARGIN / stream.time_base), stream=stream)
        frames = self._frames(container.demux(stream), stream)
        first = next(frames, None)
        if first is not None and first.pts is not None and first.pts <= wanted:
            yield first
            yield from frames
            return
        # The index leads somewhere else: decode from the beginning.
        self._errors.clear()
        with open_video(self._name) as (again, same):
            yield from self._frames(again.demux(same), same)

    def _frames(self, packets: Iterator[Any], stream: av.video.stream.VideoStream) -> Iterator[VideoFrame]:
        """Every frame that decodes; what does not is counted and passed over."""
        while True:
            frames: Iterable[VideoFrame] = ()
            packet = None
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self._errors.append(f"the container breaks off: {error.strerror}")
            try:
                # Without a packet the decoder hands out what it still holds; so does the last, empty packet.
                frames = stream.decode(packet)
            except av.error.EOFError:
                pass  # already empty
            except av.error.FFmpegError as error:
                self._errors.append(str(error.strerror))
            yield from frames
            if packet is None:
                return

    def _nothing(self, seen: int, info: VideoInfo) -> BadVideo:
        if seen:
            end = "the end" if self._end_us == math.inf else f"{self._end_us / 1e6:g} s"
            reason = f"no frame between {self._start_us / 1e6:g} s and {end}; its header gives {info.duration} s"
            return BadVideo("nothing-between", self._name, reason)
        why = f" ({len(self._errors)} errors, the first: {self._errors[0]})" if self._errors else ""
        return BadVideo("undecodable", self._name, f"no frame of its {info.codec} stream decodes{why}")

    def _note(self, clock: Clock, converter: Converter) -> None:
        found: list[tuple[str, str]] = []
        facts, count = self.facts, len(self.facts.times_us)
        if self._errors or self._corrupt:
            first = f", the first: {self._errors[0]}" if self._errors else ""
            text = f"{self._corrupt} of {count} frames are damaged, {len(self._errors)} packets failed{first}"
            found.append(("decode-errors", text))
        whole = not self._start_us and self._end_us == math.inf and count < self._limit
        if whole and (shortfall := _shortfall(facts)):
            found.append(("fewer-frames-than-header", shortfall))
        if count == 1:
            found.append(("one-frame", "it has a single frame, so nothing moves in it"))
        if clock.missing > count // 2:
            found.append(("no-times", f"it carries no frame times; {facts.fps:g} frames a second assumed"))
        elif clock.repaired:
            found.append(("times-repaired", f"{clock.repaired} of {count} frame times were missing or not increasing"))
        if len(self._sizes) > 1:
            sizes = ", ".join(f"{h}x{w}" for h, w in sorted(self._sizes))
            text = f"its frame size changes ({sizes}); all frames were scaled to the first one's"
            found.append(("size-changes", text))
        if converter.guessed_matrix is not None:
            text = f"colour matrix {converter.guessed_matrix} (ISO/IEC 23091-2) cannot be converted; BT.601 assumed"
            found.append(("colours-guessed", text))
        self.notes = [note(code, self._name, message) for code, message in found]


def _shortfall(facts: Facts) -> str | None:
    """How decoded frames fall short of what the header promises, in words."""
    count, info = len(facts.times_us), facts.info
    if info.frames is not None:
        # One or two packets without a picture end every AVI with packed B-frames (all of HMDB51) and many edit lists.
        return f"the header says {info.frames} frames, {count} decode" if info.frames - count > _SLACK else None
    covered = float(facts.times_us[-1]) / 1e6 + 1 / facts.fps
    # Containers without a frame count give a duration, which includes the sound's.
    if info.duration is not None and covered < 0.75 * info.duration and info.duration - covered > 0.5:
        return f"the header says {info.duration:.2f} s, its {count} frames cover {covered:.2f} s"
    return None
