"""Opening a video file, and what its header says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
import av.stream
import av.video.stream

from vidprep.sources import check_readable, check_source, is_file, open_source, source_name
from vidprep.verdicts import BadVideo


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file's header says; it need not be true.

    Attributes:
        container, codec: FFmpeg's names.
        height, width: of the coded picture, before rotation.
        fps: mean frames a second, or None.
        frames: number of frames, or None.
        duration: seconds, or None.
        start: time of the first picture on the container's clock, seconds.
    """

    container: str
    codec: str
    height: int
    width: int
    fps: float | None
    frames: int | None
    duration: float | None
    start: float


def probe(path: str | Path) -> VideoInfo:
    """Read the header of a video file.

    Raises:
        BadVideo: the file is missing, empty, not a video, or has no video stream.
        StorageError: the file exists but cannot be read.
    """
    name = source_name(path)
    with open_video(name) as (container, stream):
        return describe(container, stream)


def describe(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> VideoInfo:
    """Header facts of an open file."""
    seconds: float | None = None
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1e6
    start = stream.start_time * stream.time_base if stream.start_time is not None and stream.time_base else 0
    return VideoInfo(
        container=container.format.name,
        codec=stream.codec_context.codec.name,
        height=stream.codec_context.height,
        width=stream.codec_context.width,
        fps=None if (rate := header_rate(stream)) is None else float(rate),
        frames=stream.frames or None,
        duration=seconds,
        start=float(start),
    )


def header_rate(stream: av.video.stream.VideoStream) -> Fraction | None:
    """Mean frames a second as the header has it, or FFmpeg's guess; None where that is but the clock's tick."""
    if stream.average_rate:
        return stream.average_rate
    guess, tick = stream.guessed_rate, stream.time_base
    return guess if guess and tick and guess * tick < 1 else None


@contextmanager
def open_video(name: str) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    """The container and its best video stream, set to decode on one thread.

    Several threads decode broken streams differently from run to run, and packing runs a process a core anyway.
    """
    check_source(name)
    with ExitStack() as stack:
        # "file:" keeps names with a colon from being taken for a protocol; the whitelist keeps playlists from
        # reaching out to the network, and those that are no files from reaching files.
        local = is_file(name)
        source = f"file:{name}" if local else stack.enter_context(open_source(name))
        options = {"protocol_whitelist": "file" if local else "none"}
        try:
            # Tags in other encodings than UTF-8 must not fail a video.
            container = stack.enter_context(av.open(source, metadata_errors="ignore", options=options, timeout=None))
        except av.error.FFmpegError as error:
            check_readable(name)
            raise BadVideo("not-a-video", name, f"no demuxer can read it ({error.strerror})") from error
        stream = _best_stream(container, name)
        stream.codec_context.thread_count = 1
        yield container, stream


def _best_stream(container: av.container.InputContainer, name: str) -> av.video.stream.VideoStream:
    cover = av.stream.Disposition.attached_pic
    videos = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not videos:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise BadVideo("no-video-stream", name, f"it holds {kinds} but no video" if kinds else "it holds no streams")
    best = container.streams.best("video")
    chosen = next((stream for stream in videos if best is not None and stream.index == best.index), videos[0])
    # The stubs promise a codec context; a codec that this FFmpeg does not know has none.
    context: object = chosen.codec_context
    if context is None:
        raise BadVideo("unknown-codec", name, "this FFmpeg has no decoder for its codec")
    return chosen
