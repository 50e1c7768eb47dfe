"""The Middlebury colour code."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from vidprep.drawing.canvas import PAPER
from vidprep.drawing.colours import flow_colours, hues, wheel


def _colour(u: float, v: float, full: float = 1) -> list[int]:
    return flow_colours(np.array([[[u, v]]], np.float32), full=full)[0, 0].tolist()


def test_the_wheel_has_the_published_hues() -> None:
    assert hues().shape == (55, 3)
    corners = np.cumsum([0, 15, 6, 4, 11, 13])
    assert hues()[corners].tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]
    degrees = [360 * colorsys.rgb_to_hsv(*hue)[0] for hue in hues().tolist()]
    assert degrees == sorted(degrees) and len(set(degrees)) == 55


@pytest.mark.parametrize(
    ("u", "v", "low", "high"),
    [
        (1, 0, 0, 1),  # right: red
        (0.7, 0.7, 25, 35),  # right and down: orange
        (0, 1, 50, 60),  # down: yellow
        (-0.7, 0.7, 85, 125),  # left and down: green
        (-1, 0, 180, 200),  # left: between cyan and blue
        (0, -1, 240, 270),  # up: violet
        (0.7, -0.7, 285, 305),  # right and up: magenta
    ],
)
def test_known_directions(u: float, v: float, low: float, high: float) -> None:
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in _colour(u, v)))
    assert low <= 360 * hue <= high
    assert saturation > 0.95 and value > 0.99


def test_saturation_is_the_length_and_too_long_is_darker() -> None:
    assert _colour(0, 0) == [255, 255, 255]
    assert _colour(1.5, 0, full=3) == [255, 128, 128]
    assert _colour(3, 0, full=3) == [255, 0, 0]
    assert _colour(30, 0, full=3) == [191, 0, 0]


def test_equal_to_another_implementation() -> None:
    utils = pytest.importorskip("torchvision.utils")
    torch = pytest.importorskip("torch")
    flow = np.random.default_rng(0).uniform(-9, 9, (40, 50, 2)).astype(np.float32)
    theirs = utils.flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    length = np.hypot(flow[..., 0], flow[..., 1])
    ours = flow_colours(flow, full=float(length.max()))
    shorter = length < length.max()  # rounding may put the longest beyond the end of the scale
    assert np.abs(ours.astype(int) - theirs)[shorter].max() <= 2  # they cut, in the wheel and after it, where we round


def test_the_key_shows_each_direction_where_it_points() -> None:
    key = wheel(65)
    assert key.shape == (65, 65, 3)
    assert key[32, 32].min() > 245
    assert key[0, 0].tolist() == list(PAPER)
    for x, y in ((62, 32), (32, 62), (2, 32), (32, 2)):
        u, v = (2 * x - 64) / 65, (2 * y - 64) / 65
        assert np.abs(key[y, x].astype(int) - _colour(u, v)).max() <= 2
