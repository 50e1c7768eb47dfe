"""Clips at a real-valued rate, and numbers for a task's own choices."""

from dataclasses import replace

import numpy as np
import pytest

from shards.colours import Jitter
from shards.errors import UserError
from shards.rng import rng_for
from shards.spec import ClipSpec, VideoFacts
from shards.table import ClipTable


def video(frames, height=40, width=50):
    return VideoFacts(frames=frames, height=height, width=width, times_us=np.arange(frames) * 40_000)


def shown(spec, frames, n):
    return [spec.plan(video(frames), rng_for(0, 0, sample)).frames[0].tolist() for sample in range(n)]


@pytest.mark.parametrize("total", [32, 33, 50, 96, 97, 300])
def test_frames_are_those_of_the_reference(total):
    """reference/concepts.md section 3, with the two numbers that are drawn first."""
    spec = ClipSpec(frames=32, rates=(1.0, 3.0))
    for sample, frames in enumerate(shown(spec, total, 300)):
        u = rng_for(0, 0, sample).random(5)
        rate = 1 + (min(3.0, total / 32) - 1) * u[0]
        starts = int(np.floor(total - 32 * rate)) + 1
        start = int(u[1] * max(1, starts))
        assert frames == [min(round(start + rate * k), total - 1) for k in range(32)]


def test_rates_and_starts_reach_their_ends():
    clips = np.array(shown(ClipSpec(frames=32, rates=(1.0, 3.0)), 200, 3000))
    rate = (clips[:, -1] - clips[:, 0]) / 31
    assert rate.min() < 1.02 and rate.max() > 2.98
    assert abs(rate.mean() - 2) < 0.05
    assert clips.min() == 0 and clips.max() >= 197  # a faster clip leaves up to rate − 1 frames at the end


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("window", [0, 1, 2, 3, 4, 0, 1, 2]),
        ("restart", [0, 1, 2, 3, 4, 0, 1, 2]),
        ("loop", [0, 1, 2, 3, 4, 0, 1, 2]),
        ("clamp", [0, 1, 2, 3, 4, 4, 4, 4]),
    ],
)
def test_a_short_video_is_shown_at_the_lowest_rate(rule, expected):
    assert shown(ClipSpec(frames=8, rates=(1.0, 3.0), when_short=rule), 5, 20) == [expected] * 20
    assert shown(ClipSpec(frames=3, rates=(1.0, 3.0), when_short=rule), 1, 5) == [[0, 0, 0]] * 5


def test_slower_than_stored():
    assert shown(ClipSpec(frames=7, rates=(0.5, 0.5)), 4, 5) == [[0, 0, 1, 2, 2, 2, 3]] * 5


def test_own_draws_come_last_and_change_nothing_else():
    plain = ClipSpec(frames=4, clips=2, strides=(1, 2), crop=20, jitter=Jitter(hue=0.1))
    asking = replace(plain, draws=7)
    one, other = (spec.plan(video(60), rng_for(3, 1, 4)) for spec in (plain, asking))
    assert one.draws is None
    assert other.draws.shape == (2, 7) and other.draws.min() >= 0 and other.draws.max() < 1
    assert np.array_equal(one.frames, other.frames) and np.array_equal(one.jitter.factors, other.jitter.factors)
    again = asking.plan(video(60), rng_for(3, 1, 4))
    assert np.array_equal(again.draws, other.draws)


def test_own_draws_of_tabled_clips():
    spec = ClipSpec(frames=4, crop=20, table="statistics", draws=3)
    table = ClipTable(np.zeros((2, 31), np.int32))
    assert spec.plan(video(60), rng_for(0, 0, 0), table).draws.shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rates": (0.0, 2.0)}, "lowest"),
        ({"rates": (3.0, 2.0)}, "lowest"),
        ({"rates": (1.0, 2.0), "strides": (1, 2)}, "strides"),
        ({"rates": (1.0, 2.0), "sampling": "uniform"}, "random"),
        ({"rates": (1.0, 2.0), "cover": True}, "cover"),
        ({"draws": -1}, "draws"),
        ({"draws": 2, "sampling": "uniform"}, "uniform"),
    ],
)
def test_wrong_specs(options, word):
    with pytest.raises(UserError, match=word):
        ClipSpec(**{"frames": 4, **options})
