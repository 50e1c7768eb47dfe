"""The flow codec: exact zero, stated error, both conventions, lengths that follow the size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from shards.errors import DataError, UserError
from vidprep.flow import CODECS, default_bound, make_codec, resize_flow


def flow(bound: float, shape: tuple[int, ...] = (3, 24, 32, 2)) -> np.ndarray:
    return np.random.default_rng(0).uniform(-bound, bound, shape).astype(np.float32)


@pytest.mark.parametrize("name", CODECS)
def test_error_stays_below_the_stated_one(name: str) -> None:
    codec = make_codec(name, 128, 171)
    field = flow(codec.bound)
    planes, clipped = codec.quantise(field)
    assert planes.shape == (3, 2, 24, 32) and clipped == 0
    back = codec.restore(planes)
    assert back.dtype == np.float32 and back.shape == field.shape
    assert np.abs(back - field).max() <= codec.error * (1 + 1e-4)
    again, _ = codec.quantise(back)
    assert np.array_equal(planes, again)


@pytest.mark.parametrize("name", ["byte", "lossless"])
def test_no_motion_is_exactly_no_motion(name: str) -> None:
    codec = make_codec(name, 256, 340)
    planes, _ = codec.quantise(np.zeros((1, 256, 340, 2), np.float32))
    stored = np.stack([codec.decode(codec.encode(plane)) for plane in planes[0]])
    assert not codec.restore(stored).any()


def test_byte_formula_and_bound() -> None:
    assert default_bound(256, 340) == 20 and default_bound(340, 256) == 20 and default_bound(128, 171) == 10
    codec = make_codec("byte", 128, 171)
    values = np.float32([0, 10, -10, 5, -5, 0.04, 9.97])
    planes, _ = codec.quantise(np.stack([values, -values], axis=-1)[None, None])
    assert planes[0, 0, 0].tolist() == [128, 255, 1, 192, 64, 129, 255]
    assert planes[0, 1, 0].tolist() == [128, 1, 255, 64, 192, 127, 1]


def test_clipped_share_counts_components_beyond_the_bound() -> None:
    field = np.zeros((1, 2, 5, 2), np.float32)
    field[0, 0, 0] = (31, -31)
    field[0, 1, 4, 0] = -30.5
    planes, clipped = make_codec("byte", 256, 256, bound=30).quantise(field)
    assert clipped == pytest.approx(3 / 20)
    assert planes.max() == 255 and planes.min() == 1


def test_release_is_the_published_convention() -> None:
    codec = make_codec("release", 256, 340)
    field = flow(20, (2, 8, 8, 2))
    planes, _ = codec.quantise(field)
    expected = np.round((np.moveaxis(field, -1, -3).astype(np.float64) + 20) * 255 / 40)
    assert np.array_equal(planes, expected)
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(2, 1)
    assert np.allclose(codec.restore(every)[0, ..., 0].ravel(), np.arange(256) * 40 / 255 - 20, atol=1e-5)
    assert np.array_equal(codec.quantise(codec.restore(every))[0], every)


def test_lossless_planes_come_back_bit_for_bit() -> None:
    codec = make_codec("lossless", 128, 171)
    planes, _ = codec.quantise(flow(100))
    for plane in planes.reshape(-1, 24, 32):
        data = codec.encode(plane)
        assert np.array_equal(codec.decode(data), plane)
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), plane)
    with pytest.raises(DataError, match="16 bit"):
        codec.decode(b"nothing")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_codec("jpeg", 1, 1), "byte, release, lossless"),
        (lambda: make_codec("byte", 128, 171, bound=0), "bound 0"),
        (lambda: make_codec("release", 128, 171, bound=10), "fixed bound of 20"),
        (lambda: make_codec("lossless", 128, 171, bound=10), "fixed bound of 511"),
        (lambda: make_codec("byte", 8, 8).quantise(np.full((1, 8, 8, 2), np.nan, np.float32)), "NaN"),
        (lambda: make_codec("byte", 8, 8).quantise(np.zeros((8, 8, 3), np.float32)), r"\(…,H,W,2\)"),
        (lambda: resize_flow(np.zeros((8, 8, 2), np.float32), (4, 4)), r"\(T,H,W,2\)"),
        (lambda: resize_flow(np.zeros((1, 8, 8, 2), np.float32), (0, 4)), "at least 1"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_vectors_follow_the_size() -> None:
    field = np.broadcast_to(np.float32([4, 6]), (2, 30, 40, 2)).copy()
    half = resize_flow(field, (15, 10))
    assert half.shape == (2, 15, 10, 2)
    assert np.allclose(half, [1, 3])
    assert np.allclose(resize_flow(field, (15, 10), literal=True), [4, 6])
