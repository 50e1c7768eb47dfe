"""What may go into a column as it is, and what is taken out of it."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from shards import jpeg
from tests.vidprep.folders.trees import frame
from vidprep.folders.jpegs import BadJpeg, fit

PLAIN = jpeg.encode(frame(0, 1))
GREY = jpeg.encode(frame(0, 1)[..., 0])
THUMBNAIL = jpeg.encode(frame(1, 1)[:8, :8])


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + segment(marker, body) + data[2:]


def cv2_jpeg(*options: int) -> bytes:
    return cv2.imencode(".jpg", frame(0, 1), list(options))[1].tobytes()


@pytest.mark.parametrize(("data", "grey"), [(PLAIN, False), (GREY, True), (cv2_jpeg(), False)])
def test_a_plain_jpeg_stays_as_it_is(data: bytes, grey: bool) -> None:
    found = fit(data)
    assert (found.data, found.height, found.width, found.grey, found.changed) == (data, 24, 32, grey, False)


def test_restart_markers_and_small_segments_stay() -> None:
    data = with_segment(cv2_jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 1), 0xFE, b"a comment")
    assert b"\xff\xd0" in data
    assert fit(data).data == data


@pytest.mark.parametrize(
    ("marker", "body"),
    [(0xE1, b"Exif\0\0" + THUMBNAIL), (0xFE, b"before \xff\xd9\xff\xd8 after"), (0xE0, b"JFXX\0\x10" + THUMBNAIL)],
)
def test_segments_with_markers_inside_go_and_no_pixel_changes(marker: int, body: bytes) -> None:
    found = fit(with_segment(PLAIN, marker, body))
    assert found.changed
    assert found.data == PLAIN
    np.testing.assert_array_equal(jpeg.decode(found.data), jpeg.decode(PLAIN))


def test_bytes_behind_the_end_go() -> None:
    found = fit(PLAIN + bytes(5))
    assert found.changed and found.data == PLAIN


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"", "unreadable-frame", "is empty"),
        (b"\x89PNG\r\n", "unreadable-frame", "is no JPEG: it starts with 89 50 4e 47"),
        (PLAIN[:-20], "unreadable-frame", "cut off in its pixels"),
        (PLAIN[:40], "unreadable-frame", "cut off"),
        (PLAIN[:2] + b"\xff\xd9", "unreadable-frame", "no image in it"),
        (PLAIN[:2] + bytes(8) + PLAIN[2:], "unreadable-frame", "a marker is missing"),
        (cv2_jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "not-baseline", "is a JPEG progressive"),
        (with_segment(PLAIN, 0xE0, b"JFIF\0\xff\xd9\xff\xd8"), "unreadable-frame", "stand inside it"),
    ],
)
def test_what_cannot_go_in_is_said(data: bytes, code: str, message: str) -> None:
    with pytest.raises(BadJpeg, match=message) as caught:
        fit(data)
    assert caught.value.code == code


def test_damaged_pixels_are_found_by_decoding() -> None:
    scan = PLAIN.index(b"\xff\xda")
    cut = PLAIN[: scan + 40] + PLAIN[-2:]
    assert fit(cut, decode=False).data == cut
    with pytest.raises(BadJpeg, match="does not decode"):
        fit(cut)


def test_four_components_are_refused() -> None:
    at = PLAIN.index(b"\xff\xc0")
    four = PLAIN[: at + 9] + b"\x04" + PLAIN[at + 10 :]
    with pytest.raises(BadJpeg, match="4 components") as caught:
        fit(four)
    assert caught.value.code == "not-baseline"
