"""Frames of an encoded video inside a tar: which bytes have to be read for them, and decoding.

`vidprep index-shards` finds the video's packets and the places from which decoding gives the same pictures as decoding
from the beginning; the index keeps both. So a clip costs the packets from the nearest such place to its last frame,
and no container is parsed. Where that was not seen to work, the whole file is read and decoded as a player does.
"""

from __future__ import annotations

import base64
import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple

import av
import av.container
import av.error
import av.video.stream
import numpy as np
import numpy.typing as npt
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from shards.picture import Orientation, to_rgb

Image = npt.NDArray[np.uint8]


class Entry(NamedTuple):
    """A place where decoding can begin.

    Attributes:
        packet: number of the packet (as they are stored) to begin with.
        frame: the first frame that comes out right.
        skip: pictures that come out before it.
    """

    packet: int
    frame: int
    skip: int


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a video is decoded; JSON in the sample's description.

    Attributes:
        container, stream: FFmpeg's name of the format, and the number of the video stream, for reading it whole.
        codec, tag, extradata: of the decoder. extradata: base64.
        height, width: of the coded picture, before it is turned upright.
        matrix, levels: FFmpeg's numbers for colours, as the container has them.
        packets: how many there are; 0: the video is always read whole.
        intra: all of them are key frames; otherwise keys: numbers of those that are.
        entries: ascending.
        delay: packets the decoder wants beyond that of a frame before it hands the frame out.
        swap, mirror_x, mirror_y: as in `shards.picture.Orientation`.
        options: of the decoder.
    """

    container: str
    stream: int
    codec: str
    tag: str
    extradata: str
    height: int
    width: int
    matrix: int
    levels: int
    packets: int = 0
    intra: bool = False
    keys: tuple[int, ...] = ()
    entries: tuple[Entry, ...] = ()
    delay: int = 0
    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False
    options: Mapping[str, str] | None = None

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Coding:
        """From plain JSON values. Raises TypeError or ValueError: they are not those of a video."""
        entries = tuple(Entry(*map(int, entry)) for entry in tree.get("entries", ()))
        return cls(**{**tree, "entries": entries, "keys": tuple(map(int, tree.get("keys", ())))})

    def tree(self) -> dict[str, Any]:
        """As plain JSON values, which `of` reads."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value is not False and value != ()
        }

    @property
    def upright(self) -> Orientation:
        return Orientation(swap=self.swap, mirror_x=self.mirror_x, mirror_y=self.mirror_y)

    def parts(self, wanted: Iterable[int]) -> Iterator[tuple[Entry, list[int], range]]:
        """What has to be decoded for some frames: where to begin, the frames, the packets to read."""
        firsts = [entry.frame for entry in self.entries]
        numbers = sorted(set(wanted))
        for at, group in groupby(numbers, key=lambda number: bisect_right(firsts, number) - 1):
            entry, frames = self.entries[at], list(group)
            last = entry.packet + frames[-1] - entry.frame + entry.skip + self.delay
            yield entry, frames, range(entry.packet, min(last + 1, self.packets))

    def needed(self, wanted: Iterable[int]) -> list[int]:
        """Numbers of the index's records that have to be read for some frames, ascending."""
        if not self.packets:
            return [0]  # every record is the whole file
        return sorted({packet for _, _, packets in self.parts(wanted) for packet in packets})

    def decoder(self) -> VideoCodecContext:
        """A fresh decoder, on one thread."""
        context = CodecContext.create(self.codec, "r")
        assert isinstance(context, VideoCodecContext)
        if self.options:
            context.options = dict(self.options)
        context.height, context.width = self.height, self.width
        if self.tag:
            context.codec_tag = self.tag
        if self.extradata:
            context.extradata = base64.b64decode(self.extradata)
        context.colorspace, context.color_range = self.matrix, self.levels
        context.thread_count = 1
        return context


def pictures(
    coding: Coding, packets: Iterable[tuple[int, bytes | memoryview]], *, to_end: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode packets: (packets fed so far, picture) in the order pictures come out.

    Args:
        packets: numbers and contents.
        to_end: these are the last packets; what the decoder holds comes out.

    Raises:
        av.error.FFmpegError: a packet does not decode.
    """
    context, fed = coding.decoder(), 0
    keys = frozenset(coding.keys)
    for number, data in packets:
        packet = av.Packet(len(data))  # FFmpeg's own memory, zero beyond the end, where decoders read a little
        packet.update(bytes(data))
        packet.is_keyframe = coding.intra or number in keys
        fed += 1
        for frame in context.decode(packet):
            yield fed, frame
    if to_end:
        for frame in context.decode(None):
            yield fed + 1, frame


def whole(coding: Coding, data: bytes | memoryview) -> Iterator[VideoFrame]:
    """All pictures of a file, in order; what does not decode is passed over, as when it was indexed.

    Raises:
        av.error.FFmpegError: it cannot be opened.
    """
    with av.open(io.BytesIO(data), format=coding.container, metadata_errors="ignore") as container:
        stream = container.streams[coding.stream]
        assert isinstance(stream, av.video.stream.VideoStream)
        stream.codec_context.thread_count = 1
        packets = container.demux(stream)
        while True:
            packet, frames = None, list[VideoFrame]()
            with suppress(av.error.FFmpegError):  # the container breaks off; the decoder hands out what it holds
                packet = next(packets, None)
            with suppress(av.error.FFmpegError):
                frames = stream.decode(packet)
            yield from frames
            if packet is None:
                return


def decode_frames(
    coding: Coding, stored: Mapping[int, memoryview], wanted: Sequence[int], out: npt.NDArray[np.uint8]
) -> None:
    """Decode and convert frames into `out` (T,H,W,3), RGB and upright; each is decoded once.

    Args:
        stored: number → bytes of the records that `Coding.needed` names.
        wanted: (T,) numbers of frames.

    Raises:
        ValueError: the bytes do not decode to these frames.
    """
    places: dict[int, list[int]] = {}
    for place, number in enumerate(wanted):
        places.setdefault(number, []).append(place)
    if not places:
        return
    reformatter, size = VideoReformatter(), (out.shape[1], out.shape[2])
    try:
        for number, frame in _numbered(coding, stored, places):
            first, *others = places.pop(number)
            out[first] = to_rgb(frame, coding.upright, size, reformatter)
            for place in others:
                out[place] = out[first]
    except av.error.FFmpegError as error:
        raise ValueError(f"its video does not decode ({error})") from error
    if places:
        raise ValueError(f"its video ends before frame {min(places)}")


def _numbered(
    coding: Coding, stored: Mapping[int, memoryview], wanted: Iterable[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """The wanted frames, each with its number."""
    if not coding.packets:
        numbers = set(wanted)
        last = max(numbers, default=-1)
        for number, frame in enumerate(whole(coding, stored[0])):
            if number in numbers:
                yield number, frame
            if number >= last:
                return
        return
    for entry, frames, packets in list(coding.parts(wanted)):
        numbers, last = set(frames), frames[-1]
        found = pictures(coding, ((p, stored[p]) for p in packets), to_end=packets.stop == coding.packets)
        for number, (_, frame) in enumerate(found, entry.frame - entry.skip):
            if number in numbers:
                yield number, frame
            if number >= last:
                break
