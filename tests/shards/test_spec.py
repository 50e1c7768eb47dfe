"""Clip plans against slow literal versions of each rule, and the statistics of what is drawn."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from shards.errors import UserError
from shards.rng import rng_for
from shards.spec import ClipSpec, Jitter, VideoFacts


def video(frames=187, height=128, width=171, gap_us=40_000):
    return VideoFacts(frames=frames, height=height, width=width, times_us=np.arange(frames) * gap_us)


def plans(spec, facts, n=200):
    return [spec.plan(facts, rng_for(0, 0, sample)) for sample in range(n)]


def reference_pace(total, stride, start, length):
    """reference/pace.md section 3, with 1-based frames as there."""
    frames, s, k = [], start, 0
    for _ in range(length):
        frames.append(s + k * stride)
        if s + (k + 1) * stride > total:
            s, k = 1, 0
        else:
            k += 1
    return frames


@pytest.mark.parametrize("total", [1, 2, 3, 7, 16, 61, 187])
def test_restart_is_the_literal_rule_of_the_reference(total):
    spec = ClipSpec(frames=64, strides=(1, 2, 3, 4), when_short="restart")
    starts = set()
    for plan in plans(spec, video(total)):
        start = int(plan.frames[0, 0]) + 1
        starts.add(start)
        stride = spec.strides[int(plan.stride[0])]
        assert (plan.frames[0] + 1).tolist() == reference_pace(total, stride, start, 64)
    assert total > 16 or starts == set(range(1, total + 1))


@pytest.mark.parametrize("total", [1, 2, 4, 5, 13, 60, 61, 187, 500])
def test_window_has_the_same_cuts_at_every_stride(total):
    spec = ClipSpec(frames=16, strides=(1, 2, 3, 4), when_short="window")
    window = min(16, (total - 1) // 4 + 1)
    for plan in plans(spec, video(total)):
        frames, stride = plan.frames[0], spec.strides[int(plan.stride[0])]
        expected = frames[0] + stride * (np.arange(16) % window)
        assert np.array_equal(frames, expected)
        assert frames.min() >= 0 and frames.max() < total


def test_window_reaches_every_start_that_fits():
    spec = ClipSpec(frames=4, strides=(1, 3))
    starts = {0: set(), 1: set()}
    for plan in plans(spec, video(20), 2000):
        starts[int(plan.stride[0])].add(int(plan.frames[0, 0]))
    assert starts == {0: set(range(17)), 1: set(range(11))}


@pytest.mark.parametrize("total", [1, 5, 30, 31, 100])
def test_loop_and_clamp(total):
    for rule in ("loop", "clamp"):
        for plan in plans(ClipSpec(frames=16, strides=(2,), when_short=rule), video(total), 50):
            start = int(plan.frames[0, 0])
            assert start == 0 or start + 30 < total
            for k, frame in enumerate(plan.frames[0].tolist()):
                wanted = start + 2 * k
                assert frame == (wanted % total if rule == "loop" else min(wanted, total - 1))


def test_uniform_clips_are_spread_over_the_video_without_randomness():
    spec = ClipSpec(frames=16, clips=10, sampling="uniform", crop=112, jitter=Jitter(hue=0.1))
    plan = spec.plan(video(187), rng_for(0, 0, 0))
    assert plan.frames[:, 0].tolist() == [round(i * 171 / 9) for i in range(10)]
    assert np.array_equal(plan.frames - plan.frames[:, :1], np.tile(np.arange(16), (10, 1)))
    assert plan.crop.tolist() == [[8, 29, 112, 112]] * 10
    assert not plan.flip.any() and plan.jitter is None
    one = ClipSpec(frames=16, clips=1, sampling="uniform").plan(video(187), rng_for(0, 0, 0))
    assert one.frames[0, 0] == 171 // 2


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("window", [0, 2, 4, 0, 2, 4]),
        ("restart", [0, 2, 4, 0, 2, 4]),
        ("loop", [0, 2, 4, 1, 3, 0]),
        ("clamp", [0, 2, 4, 4, 4, 4]),
    ],
)
def test_uniform_clips_of_a_short_video(rule, expected):
    spec = ClipSpec(frames=6, strides=(2,), clips=2, sampling="uniform", when_short=rule)
    assert spec.plan(video(5), rng_for(0, 0, 0)).frames.tolist() == [expected] * 2


@pytest.mark.parametrize(("stored", "wanted"), [(25, 30), (30, 25), (30, 30), (15, 30), (29.97, 8)])
def test_resampling_is_floor_of_the_frame_clock(stored, wanted):
    """Tick i shows the last frame whose time has come: floor(i · stored / wanted) at a constant rate."""
    total = 90
    times = np.round(np.arange(total) * 1e6 / stored).astype(np.int64)
    facts = VideoFacts(frames=total, height=8, width=8, times_us=times)
    count = int(total * wanted / stored + 1e-6)
    spec = ClipSpec(frames=count, sampling="uniform", fps=wanted, when_short="clamp")
    shown = spec.plan(facts, rng_for(0, 0, 0)).frames[0]
    assert shown.tolist() == [min(total - 1, int(i * stored / wanted + 1e-6)) for i in range(count)]


def test_resampling_follows_uneven_times():
    facts = VideoFacts(frames=4, height=8, width=8, times_us=np.array([0, 100_000, 400_000, 500_000]))
    spec = ClipSpec(frames=6, sampling="uniform", fps=10, when_short="clamp")
    assert spec.plan(facts, rng_for(0, 0, 0)).frames[0].tolist() == [0, 1, 1, 1, 2, 3]


def test_draws_are_uniform_and_independent():
    spec = ClipSpec(frames=8, strides=(1, 2, 3, 4), resize=(12, 15), crop=(8, 10), flip=0.25)
    drawn = plans(spec, video(100), 4000)
    for counts, classes in (
        (Counter(int(p.stride[0]) for p in drawn), 4),
        (Counter(int(p.crop[0, 0]) for p in drawn), 5),
        (Counter(int(p.crop[0, 1]) for p in drawn), 6),
    ):
        expected = len(drawn) / classes
        chi = sum((counts[c] - expected) ** 2 / expected for c in range(classes))
        assert len(counts) == classes and chi < classes - 1 + 5 * np.sqrt(2 * (classes - 1))
    assert abs(np.mean([p.flip[0] for p in drawn]) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / len(drawn))
    columns = [[p.stride[0], p.crop[0, 0], p.crop[0, 1], p.flip[0], p.frames[0, 0]] for p in drawn]
    off = np.corrcoef(np.array(columns, dtype=float).T)[:4, :4] - np.eye(4)
    assert np.abs(off).max() < 5 / np.sqrt(len(drawn))
    assert all(p.size == (12, 15) and p.crop[0, 2:].tolist() == [8, 10] for p in drawn)


def test_several_clips_are_drawn_independently():
    drawn = plans(ClipSpec(frames=4, strides=(1, 2), clips=2, crop=10), video(100, 40, 40), 1000)
    same = np.mean([p.stride[0] == p.stride[1] for p in drawn])
    assert abs(same - 0.5) < 5 * 0.5 / np.sqrt(1000)
    assert np.mean([np.array_equal(p.crop[0], p.crop[1]) for p in drawn]) < 0.02
    assert drawn[0].frames.shape == (2, 4)


def test_jitter_has_torchvisions_ranges_and_orders():
    jitter = Jitter(brightness=0.8, contrast=0.4, saturation=1.5, hue=0.2, probability=0.8, per_frame=True)
    drawn = [p.jitter for p in plans(ClipSpec(frames=16, jitter=jitter), video(100), 400)]
    factors = np.concatenate([j.factors.reshape(-1, 4) for j in drawn])
    for column, (low, high) in enumerate([(0.2, 1.8), (0.6, 1.4), (0.0, 2.5), (-0.2, 0.2)]):
        values = factors[:, column]
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high + 1e-6
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * len(values))
    orders = Counter(tuple(o) for j in drawn for o in j.order.reshape(-1, 4).tolist())
    assert len(orders) == 24 and all(sorted(o) == [0, 1, 2, 3] for o in orders)
    assert max(orders.values()) < 1.5 * min(orders.values())
    assert abs(np.mean([j.apply for j in drawn]) - 0.8) < 5 * 0.4 / np.sqrt(factors.shape[0])
    assert drawn[0].apply.shape == (1, 16) and drawn[0].factors.dtype == np.float32


def test_jitter_of_a_clip_is_shared_by_its_frames():
    spec = ClipSpec(frames=5, clips=2, jitter=Jitter(brightness=0.5, hue=0.1))
    jitter = spec.plan(video(), rng_for(0, 0, 0)).jitter
    assert jitter.factors.shape == (2, 5, 4)
    assert (jitter.factors == jitter.factors[:, :1]).all() and (jitter.order == jitter.order[:, :1]).all()
    assert not np.array_equal(jitter.factors[0], jitter.factors[1])


def test_same_state_same_plan():
    spec = ClipSpec(frames=16, strides=(1, 2), crop=64, jitter=Jitter(hue=0.2, per_frame=True))
    first, second = (spec.plan(video(), rng_for(1, 2, 3)) for _ in range(2))
    assert np.array_equal(first.frames, second.frames) and np.array_equal(first.crop, second.crop)
    assert np.array_equal(first.jitter.factors, second.jitter.factors)


def test_plan_is_pinned():
    """Plans belong to what a resumed run must draw again."""
    spec = ClipSpec(frames=4, strides=(1, 2, 3, 4), crop=112, jitter=Jitter(hue=0.2, per_frame=True))
    plan = spec.plan(video(), rng_for(0, 1, 2))
    assert (plan.frames.tolist(), plan.stride.tolist(), plan.crop.tolist(), plan.flip.tolist()) == PINNED
    assert plan.jitter.order[0, 0].tolist() == PINNED_ORDER


PINNED = ([[25, 29, 33, 37]], [3], [[15, 37, 112, 112]], [True])
PINNED_ORDER = [3, 2, 0, 1]


@pytest.mark.parametrize(
    ("resize", "expected"),
    [(None, (240, 320)), ((128, 171), (128, 171)), (120, (120, 160)), (480, (480, 640))],
)
def test_resize(resize, expected):
    plan = ClipSpec(frames=1, resize=resize).plan(video(9, 240, 320), rng_for(0, 0, 0))
    assert plan.size == expected and plan.crop[0].tolist() == [0, 0, *expected]


def test_crop_that_does_not_fit_names_the_pack_command():
    with pytest.raises(UserError, match=r"112x112.*100x140.*--short-side 112"):
        ClipSpec(frames=4, crop=112).plan(video(9, 100, 140), rng_for(0, 0, 0))


def test_short_sides_are_drawn_for_each_item():
    spec = ClipSpec(frames=2, resize_range=(24, 26), crop=20)
    sizes = [spec.plan(video(9), rng_for(0, 0, i)).size for i in range(200)]
    assert {min(size) for size in sizes} == {24, 25, 26}
    assert all(abs([min(size) for size in sizes].count(side) - 67) < 30 for side in (24, 25, 26))
    assert min(replace(spec, sampling="uniform").plan(video(9), rng_for(0, 0, 0)).size) == 24
    assert min(replace(spec, crop_at="center").plan(video(9), rng_for(0, 0, 7)).size) == 24


def test_video_without_frames():
    with pytest.raises(UserError, match="without frames"):
        ClipSpec(frames=4).plan(video(0), rng_for(0, 0, 0))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"frames": 0}, "frames"),
        ({"clips": 0}, "clips"),
        ({"strides": ()}, "stride"),
        ({"strides": (0, 1)}, "stride"),
        ({"when_short": "drop"}, "window, restart, loop, clamp"),
        ({"sampling": "even"}, "random, uniform"),
        ({"crop_at": "corner"}, "random, center"),
        ({"fps": 0.0}, "fps"),
        ({"flip": 1.5}, "flip"),
        ({"crop": 0}, "crop"),
        ({"resize": (0, 5)}, "resize"),
        ({"resize_range": (9, 8), "crop": 8}, "the least and the most"),
        ({"resize_range": (8, 9)}, "needs a crop"),
        ({"resize_range": (8, 9), "resize": 8, "crop": 8}, "takes the place of resize"),
    ],
)
def test_wrong_specs(options, word):
    with pytest.raises(UserError, match=word):
        ClipSpec(**{"frames": 4, **options})


@pytest.mark.parametrize("options", [{"brightness": -1}, {"hue": 0.6}, {"probability": 2}])
def test_wrong_jitter(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Jitter(**options)
