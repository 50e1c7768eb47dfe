"""Sizes, orientation, colours and the quality of scaling, against literal formulas."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from shards.errors import UserError
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.decode import decode
from vidprep.resize import Converter, Resize


@pytest.mark.parametrize(
    ("resize", "size", "stored", "smaller"),
    [
        (Resize(short_side=128), (1080, 1920), (128, 228), False),
        (Resize(short_side=128), (1920, 1080), (228, 128), False),
        (Resize(short_side=128), (240, 320), (128, 171), False),
        (Resize(short_side=128), (128, 999), (128, 999), False),
        (Resize(short_side=128), (100, 152), (100, 152), True),
        (Resize(short_side=1), (3, 1000), (1, 333), False),
        (Resize(size=(128, 171)), (240, 320), (128, 171), False),
        (Resize(size=(128, 171)), (100, 500), (100, 171), True),
        (Resize(size=(128, 171)), (50, 60), (50, 60), True),
    ],
)
def test_stored_sizes(resize: Resize, size: tuple[int, int], stored: tuple[int, int], smaller: bool) -> None:
    assert resize.target(*size) == stored
    assert resize.is_smaller(*size) is smaller
    assert resize.is_smaller(*stored) is smaller


def test_one_way_to_give_a_size() -> None:
    for wrong in ({}, {"short_side": 128, "size": (1, 1)}, {"short_side": 0}, {"size": (0, 5)}):
        with pytest.raises(UserError):
            Resize(**wrong)


def literal_display(image: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Pixel (x, y) goes to (a·x + c·y, b·x + d·y), shifted so that all are positive."""
    height, width = image.shape[:2]
    places = {}
    for y, x in itertools.product(range(height), range(width)):
        places[a * x + c * y, b * x + d * y] = image[y, x]
    left, top = min(x for x, _ in places), min(y for _, y in places)
    right, bottom = max(x for x, _ in places), max(y for _, y in places)
    out = np.zeros((bottom - top + 1, right - left + 1, 3), np.uint8)
    for (x, y), value in places.items():
        out[y - top, x - left] = value
    return out


@pytest.mark.parametrize(
    ("matrix", "rotation", "mirrored"),
    [
        ((1, 0, 0, 1), 0, False),
        ((0, 1, -1, 0), 90, False),
        ((-1, 0, 0, -1), 180, False),
        ((0, -1, 1, 0), 270, False),
        ((-1, 0, 0, 1), 0, True),
        ((1, 0, 0, -1), 180, True),
        ((0, 1, 1, 0), 90, True),
        ((0, -1, -1, 0), 270, True),
    ],
)
def test_pictures_come_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], rotation: int, mirrored: bool
) -> None:
    frames = noise_frames(2, 16, 24)
    video = decode(write_clip(tmp_path / "a.mov", frames, codec="png", pix_fmt="rgb24", matrix=matrix))
    images = [image for image, _ in video]
    for image, frame in zip(images, frames, strict=True):
        np.testing.assert_array_equal(image, literal_display(frame, *matrix))
    facts = video.facts
    assert (facts.rotation, facts.mirrored) == (rotation, mirrored)
    assert (facts.height, facts.width) == images[0].shape[:2]
    assert (facts.info.height, facts.info.width) == (16, 24)
    upright = np.rot90(frames[0], k=-rotation // 90)
    np.testing.assert_array_equal(images[0], upright[:, ::-1] if mirrored else upright)


def test_a_turned_video_is_scaled_along_its_own_sides(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mov", noise_frames(1, 64, 96), codec="png", pix_fmt="rgb24", matrix=(0, 1, -1, 0))
    [(image, _)] = decode(path, resize=Resize(size=(48, 16)))
    assert image.shape == (48, 16, 3)


KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 7, 9, 3])  # AVColorSpace; 2 says nothing, 3 is reserved
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p10le"])
def test_colour_matrix_range_and_depth(matrix: int, full: bool, pix_fmt: str) -> None:
    y, u, v = 150, 110, 140
    depth = 4 if "10" in pix_fmt else 1
    frame = av.VideoFrame(64, 48, pix_fmt)
    for plane, value in zip(frame.planes, (y, u, v), strict=True):
        dtype = np.uint16 if depth == 4 else np.uint8
        plane.update(np.full(plane.buffer_size // np.dtype(dtype).itemsize, value * depth, dtype).tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    converter = Converter(frame, Resize(short_side=24))
    got = converter(frame)
    kr, kb = KR_KB.get(matrix, KR_KB[5])
    luma = y / 255 if full else (y - 16) / 219
    blue, red = ((u - 128) / 255, (v - 128) / 255) if full else ((u - 128) / 224, (v - 128) / 224)
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    assert got.shape == (24, 32, 3)
    assert np.abs(got - 255 * np.array([r, g, b])).max() < 1.6
    assert converter.guessed_matrix == (3 if matrix == 3 else None)


def test_scaling_down_averages_areas() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3)).astype(np.uint8), (5, 5), 1)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv444p")
    exact = frame.reformat(format="rgb24").to_ndarray().astype(np.float64)
    got = Converter(frame, Resize(size=(60, 80)))(frame)
    literal = exact.reshape(60, 4, 80, 4, 3).mean(axis=(1, 3))
    assert np.abs(got - literal).mean() < 0.7
    assert np.abs(got - literal).max() < 3
