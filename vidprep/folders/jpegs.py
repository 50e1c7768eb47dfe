"""JPEG files that go into a column as they are: what must hold for them, found without and with decoding.

A payload is a concatenation of JPEGs in which `FF D9 FF D8` stands only between two images (docs/format.md), and
readers of raw MJPEG look for either marker. Entropy-coded data cannot hold them; a thumbnail inside an EXIF segment
does. Such a segment is taken out, which changes no pixel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shards import jpeg

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BASELINE, _SCAN, _END, _COMMENT = 0xC0, 0xDA, 0xD9, 0xFE
_KINDS = {0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", 0xC9: "arithmetic-coded"}
# Everything in a scan up to the next marker: FF is followed by 00 (a stuffed byte) or by a restart marker.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class BadJpeg(ValueError):  # noqa: N818 - the file is what is wrong, not the program
    """A file that cannot go into a column. `code` is the verdict's, the message says what is wrong."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """A JPEG fit for a column.

    Attributes:
        data: the file's bytes, or what is left of them; `changed` tells.
        height, width: in pixels. grey: it has one component.
        changed: a segment with markers in it, or bytes behind the end, were left out.
    """

    data: bytes
    height: int
    width: int
    grey: bool
    changed: bool


def fit(data: bytes, *, decode: bool = True) -> Jpeg:
    """Check a JPEG file, and take out what may not stand in a column.

    Args:
        decode: also decode the pixels, strictly, as readers will.

    Raises:
        BadJpeg: no whole JPEG (`unreadable-frame`), not 8 bit baseline, or neither grey nor of three components
            (`not-baseline`).
    """
    parts, height, width, components = _walk(data)
    kept = b"".join(parts)
    if _EOI + _SOI in kept:
        raise BadJpeg("unreadable-frame", "end and start markers (FF D9 FF D8) stand inside it")
    if decode:
        try:
            jpeg.decode(kept)
        except ValueError as error:
            raise BadJpeg("unreadable-frame", f"does not decode ({error})") from error
    return Jpeg(data=kept, height=height, width=width, grey=components == 1, changed=len(kept) != len(data))


def _walk(data: bytes) -> tuple[list[bytes], int, int, int]:
    """The parts to keep, height, width and number of components."""
    if not data.startswith(_SOI):
        raise BadJpeg("unreadable-frame", "is empty" if not data else f"is no JPEG: it starts with {data[:4].hex(' ')}")
    parts, at, frame = [_SOI], 2, None
    while True:
        marker, body, end = _segment(data, at)
        if marker == _END:
            break
        if marker in _FRAME_HEADERS:
            frame = _frame_header(marker, body)
        if marker == _SCAN:
            following = _AFTER_SCAN.search(data, end)
            if following is None:
                raise BadJpeg("unreadable-frame", f"is cut off in its pixels, after {len(data)} bytes")
            end = following.start()
        if not (_may_go(marker, body) and (_SOI in body or _EOI in body)):
            parts.append(data[at:end])
        at = end
    if frame is None:
        raise BadJpeg("unreadable-frame", "has no image in it")
    return [*parts, _EOI], *frame


def _segment(data: bytes, at: int) -> tuple[int, bytes, int]:
    """The marker at a place, what follows its length, and where the segment ends."""
    start = at
    while data[at : at + 1] == b"\xff":
        at += 1
    if at == start or at >= len(data):
        what = "is cut off" if at >= len(data) else "is damaged: a marker is missing"
        raise BadJpeg("unreadable-frame", f"{what} at byte {at}")
    marker = data[at]
    at += 1
    if marker == _END or marker in _STANDALONE:
        return marker, b"", at
    size = int.from_bytes(data[at : at + 2], "big")
    if size < 2 or at + size > len(data):
        raise BadJpeg("unreadable-frame", f"is cut off or damaged in the segment at byte {start}")
    return marker, data[at + 2 : at + size], at + size


def _frame_header(marker: int, body: bytes) -> tuple[int, int, int]:
    if marker != _BASELINE:
        kind = _KINDS.get(marker, f"of kind SOF{marker - 0xC0}")
        raise BadJpeg("not-baseline", f"is a JPEG {kind}, columns hold baseline ones")
    if len(body) < 6 or body[0] != 8:
        raise BadJpeg("not-baseline", f"has {body[0] if body else 0} bits a sample, columns hold 8")
    height, width, components = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5]
    if not height or not width:
        raise BadJpeg("unreadable-frame", f"says that it is {height}x{width} pixels")
    if components not in (1, 3):
        raise BadJpeg("not-baseline", f"has {components} components; columns hold grey or three-colour images")
    return height, width, components


def _may_go(marker: int, body: bytes) -> bool:
    """Comments and application data, but not what says how colours are meant: JFIF's and Adobe's header."""
    is_application = 0xE0 <= marker <= 0xEF and not body.startswith((b"JFIF\0", b"Adobe"))
    return is_application or marker == _COMMENT
