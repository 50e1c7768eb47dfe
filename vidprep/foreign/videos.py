"""What the index keeps of an encoded video in another tool's tar: its frames' times, and how to reach each frame.

A video is decoded from its beginning, as `vidprep pack` does; that fixes what its frames are. Then decoding is tried
from each key frame with the packets alone, as readers will, and the key frames that gave the very same pictures become
entries. Broken streams, open groups of pictures, packets that a container stores in parts: whatever does not come
out the same is read whole.
"""

from __future__ import annotations

import base64
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import av.error
import av.video.stream
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from shards.index import FRAME
from shards.picture import Orientation, orientation
from shards.video import Coding, Entry, pictures, whole
from vidprep.decode import Decoded, Facts, decode
from vidprep.probe import open_video
from vidprep.verdicts import BadVideo, Note

# What the three families of containers begin with. Anything else is not handed to FFmpeg, whose other demuxers follow
# paths and addresses that a file names.
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_MATROSKA = b"\x1aE\xdf\xa3"
_GAP = 12  # frames from an entry to the next, at least
_NEAR = 64  # bytes of container before a packet's contents
_DUMMY = 8  # bytes, at most, of a packet that only says that there is no new picture
_STRICT = {"strict": "strict"}  # H.264 then waits for every reordered picture, where the stream does not say how many

Rows = npt.NDArray[np.void]


class BadMember(Exception):  # noqa: N818 - the member is what is wrong, not the program
    """What gives no sample: a verdict's code and message."""

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class Studied:
    """A video that has a sample.

    Attributes:
        facts: as decoded. notes: what a user should know.
        coding: how its frames are reached. rows: (T,) `shards.index.FRAME`.
    """

    facts: Facts
    notes: Sequence[Note]
    coding: Coding
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class _Packet:
    offset: int
    data: memoryview
    is_key: bool
    pts: int | None


def study(data: bytes) -> Studied:
    """Decode a video and find out how to reach its frames.

    Raises:
        BadMember: it gives no frame.
    """
    if not data:
        raise BadMember("empty-file", "it has 0 bytes")
    if not _is_video(data[:16]):
        raise BadMember("not-a-video", f"it is no MP4, MOV, WebM, Matroska or AVI; it begins with {data[:8]!r}")
    with tempfile.NamedTemporaryFile(prefix="vidprep-") as file:
        file.write(data)
        file.flush()
        decoded = decode(file.name)
        try:
            marks, times, upright = _watch(decoded)
            coding, packets = _demux(file.name, data, upright)
        except BadVideo as bad:  # its message names the temporary file
            raise BadMember(bad.code, bad.reason) from bad
    facts = decoded.facts
    if max(facts.height, facts.width) > np.iinfo(np.uint16).max:
        raise BadMember("too-large", f"its frames are {facts.height}x{facts.width}")
    packets = None if packets is None else _without_dummies(packets, len(marks))
    found = None if packets is None else _entries(coding, packets, marks, times)
    if found is None or packets is None:
        if (again := sum(1 for _ in whole(coding, data))) != len(marks):
            raise BadMember("undecodable", f"it decodes to {len(marks)} frames once, and to {again} the next time")
        found, rows = coding, _rows([(0, data)] * len(marks), facts)
    else:
        rows = _rows([(it.offset, it.data) for it in packets], facts)
    return Studied(facts=facts, notes=decoded.notes, coding=found, rows=rows)


def _is_video(head: bytes) -> bool:
    return head[4:8] in _BOXES or head.startswith(_MATROSKA) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def _watch(decoded: Decoded) -> tuple[list[int], list[int | None], Orientation]:
    """Of every frame what tells it from others and its time stamp, and how the video is turned upright."""
    marks: list[int] = []
    times: list[int | None] = []
    upright = Orientation()
    for picture in decoded.pictures():
        if not marks:
            upright = orientation(picture.frame)
        marks.append(_mark(picture.frame))
        times.append(picture.frame.pts)
    return marks, times, upright


def _mark(frame: VideoFrame) -> int:
    """A checksum of a picture's pixels and of what their conversion depends on."""
    about = (frame.format.name, frame.height, frame.width, int(frame.colorspace), int(frame.color_range))
    mark = zlib.crc32(repr(about).encode())
    for number, plane in enumerate(frame.planes):
        # Lines are padded with anything; the name of the format tells how many bytes of a line are pixels.
        lines = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size]
        lines = lines.reshape(plane.height, plane.line_size)[:, : _line(frame, number)]
        mark = zlib.crc32(np.ascontiguousarray(lines).data, mark)
    return mark


def _line(frame: VideoFrame, number: int) -> int:
    """Bytes of a line of a plane that are pixels."""
    plane = frame.planes[number]
    parts = frame.format.components
    if any(part.plane for part in parts):
        bits = sum(-(-part.bits // 8) * 8 for part in parts if part.plane == number)
    else:
        bits = frame.format.padded_bits_per_pixel
    return min(int(plane.line_size), int(plane.width) * bits // 8)


def _demux(path: str, data: bytes, upright: Orientation) -> tuple[Coding, list[_Packet] | None]:
    """How the stream is decoded, and its packets; None where their bytes do not lie in the file as they are."""
    packets: list[_Packet] = []
    with open_video(path) as (container, stream):
        context = stream.codec_context
        coding = Coding(
            container=container.format.name.partition(",")[0],
            stream=stream.index,
            codec=context.codec.name,
            tag=context.codec_tag.strip("\0"),
            extradata=base64.b64encode(context.extradata or b"").decode(),
            height=context.height,
            width=context.width,
            matrix=int(context.colorspace),
            levels=int(context.color_range),
            swap=upright.swap,
            mirror_x=upright.mirror_x,
            mirror_y=upright.mirror_y,
        )
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                found = _find(packet, data)
                if found is None:
                    return coding, None
                packets.append(found)
        except av.error.FFmpegError:
            return coding, None
    return coding, packets


def _find(packet: Any, data: bytes) -> _Packet | None:
    inside, at = bytes(packet), packet.pos
    if at is None or at < 0:
        return None
    offset = data.find(inside, at, at + len(inside) + _NEAR)
    return (
        None
        if offset < 0
        else _Packet(
            offset=offset,
            data=memoryview(data)[offset : offset + len(inside)],
            is_key=packet.is_keyframe,
            pts=packet.pts,
        )
    )


def _without_dummies(packets: list[_Packet], count: int) -> list[_Packet]:
    """The packets without those of a few bytes that hold no picture, so that there are as many as frames.

    Streams with packed B-frames (all of HMDB51) have one at least. That all pictures come without them is tried after.
    """
    surplus = len(packets) - count
    tiny = sorted((len(it.data), place) for place, it in enumerate(packets) if len(it.data) <= _DUMMY)
    if not 0 < surplus <= len(tiny):
        return packets
    dropped = {place for _, place in tiny[:surplus]}
    return [it for place, it in enumerate(packets) if place not in dropped]


def _entries(
    coding: Coding, packets: Sequence[_Packet], marks: Sequence[int], times: Sequence[int | None]
) -> Coding | None:
    """The coding with entries that were seen to work; None where not even the first one does."""
    if len(packets) != len(marks) or any(a.offset >= b.offset for a, b in pairwise(packets)):
        return None
    keys = tuple(number for number, packet in enumerate(packets) if packet.is_key)
    intra = len(keys) == len(packets)
    coding = replace(coding, packets=len(packets), intra=intra, keys=() if intra else keys)
    starts = _candidates(packets, times)
    for options in (None, _STRICT):
        trial = _Trial(replace(coding, options=options), packets, marks)
        found = trial.entries(starts)
        if found is not None:
            return replace(trial.coding, entries=tuple(found), delay=trial.delay)
    return None


def _candidates(packets: Sequence[_Packet], times: Sequence[int | None]) -> list[tuple[int, int]]:
    """(packet, frame) of the beginning and of key frames."""
    starts = [(0, 0)]
    at = {time: frame for frame, time in enumerate(times) if time is not None}
    for number, packet in enumerate(packets):
        frame = at.get(packet.pts) if packet.is_key and packet.pts is not None else None
        if frame is not None and frame - starts[-1][1] >= _GAP:
            starts.append((number, frame))
    return starts


class _Trial:
    """Decodes from key frames and compares."""

    def __init__(self, coding: Coding, packets: Sequence[_Packet], marks: Sequence[int]) -> None:
        self.coding, self._packets, self._marks = coding, packets, marks
        self.delay = 0

    def entries(self, starts: Sequence[tuple[int, int]]) -> list[Entry] | None:
        """Those of the candidates that work; None where the beginning is not among them."""
        stops = [frame for _, frame in starts[1:]] + [len(self._marks)]
        found: list[tuple[Entry, int]] = []
        for (packet, frame), stop in zip(starts, stops, strict=True):
            skip = self._decode(packet, frame, stop)
            if skip is not None:
                found.append((Entry(packet, frame, skip), stop))
            elif not found:
                return None
        # Where a candidate was dropped, the entry before it has to lead beyond it.
        stops = [entry.frame for entry, _ in found[1:]] + [len(self._marks)]
        for (entry, seen), stop in zip(found, stops, strict=True):
            if seen < stop and self._decode(entry.packet, entry.frame, stop) != entry.skip:
                return None
        return [entry for entry, _ in found]

    def _decode(self, packet: int, frame: int, stop: int) -> int | None:
        """Decode frames `frame` to `stop` − 1 from a packet on: pictures that come before them, None for wrong ones."""
        wanted = self._marks[frame:stop]
        data = ((packet + number, it.data) for number, it in enumerate(self._packets[packet:]))
        skip, right, delay = 0, 0, 0
        try:
            for number, (fed, picture) in enumerate(pictures(self.coding, data, to_end=True)):
                mark = _mark(picture)
                if not right and mark != wanted[0]:
                    skip += 1
                    if skip > _GAP:
                        return None
                    continue
                if mark != wanted[right]:
                    return None
                right += 1
                if fed <= len(self._packets) - packet:
                    delay = max(delay, fed - number - 1)
                if right == len(wanted):
                    self.delay = max(self.delay, delay)
                    return skip
        except (av.error.FFmpegError, ValueError, OverflowError):  # the last two: what PyAV cannot set up
            return None
        return None


def _rows(found: Sequence[tuple[int, bytes | memoryview]], facts: Facts) -> Rows:
    rows = np.zeros(len(found), FRAME)
    crc_of: dict[int, int] = {}
    for number, (offset, data) in enumerate(found):
        if offset not in crc_of:
            crc_of[offset] = zlib.crc32(data)
        rows[number] = (offset, len(data), crc_of[offset], facts.times_us[number])
    return rows
