"""Clips of an item that depend on each other, clips that cover a video, cuts of random area, grey clips."""

from collections import Counter

import numpy as np
import pytest

from shards.colours import Jitter
from shards.cuts import largest_cut
from shards.errors import UserError
from shards.rng import rng_for
from shards.spec import ClipSpec, VideoFacts, dealt_rows

ROWS = ((0, 0, 1), (1, 1, 0))
SPEC = ClipSpec(
    frames=8,
    strides=(1, 2),
    clips=3,
    stride_rows=ROWS,
    windows=(0, 1, 1),
    crop=20,
    area=(0.4, 1.0),
    jitter=Jitter(hue=0.4, grey=0.2),
)


def video(frames=187, height=128, width=171):
    return VideoFacts(frames=frames, height=height, width=width, times_us=np.arange(frames) * 40_000)


def plans(spec, facts, n=200, **options):
    return [spec.plan(facts, rng_for(0, 0, sample), **options) for sample in range(n)]


def test_one_row_of_strides_is_drawn_for_all_clips():
    counts = Counter(tuple(plan.stride.tolist()) for plan in plans(SPEC, video(), 1000))
    assert set(counts) == set(ROWS) and abs(counts[ROWS[0]] - 500) < 5 * 0.5 * np.sqrt(1000)
    assert {tuple(plan.stride.tolist()) for plan in plans(SPEC, video(), 20, row=1)} == {ROWS[1]}


def test_clips_of_a_window_differ_by_their_stride_alone():
    drawn = plans(SPEC, video(), 300)
    for plan in drawn:
        assert plan.frames[1, 0] == plan.frames[2, 0]
        assert np.array_equal(plan.frames[1, 0] + SPEC.strides[plan.stride[1]] * np.arange(8), plan.frames[1])
        for values in (plan.crop, plan.flip, plan.jitter.factors, plan.jitter.order, plan.jitter.apply):
            assert np.array_equal(values[1], values[2])
    for name in ("crop", "flip", "frames"):
        assert any(not np.array_equal(getattr(plan, name)[0], getattr(plan, name)[1]) for plan in drawn)
    flips = [tuple(plan.flip[:2].tolist()) for plan in drawn]
    assert len(set(flips)) == 4


@pytest.mark.parametrize("rule", ["window", "loop", "clamp", "restart"])
@pytest.mark.parametrize("total", [1, 5, 15, 16, 24])
def test_starts_tell_nothing_about_the_stride(rule, total):
    spec = ClipSpec(frames=8, strides=(1, 2), clips=3, stride_rows=ROWS, windows=(0, 1, 1), when_short=rule)
    starts = [{int(p.frames[0, 0]) for p in plans(spec, video(total), 400, row=row)} for row in (0, 1)]
    assert starts[0] == starts[1]
    assert len(starts[0]) == (total if rule == "restart" else max(1, total - 14) if total >= 15 else len(starts[0]))
    for plan in plans(spec, video(total), 100):
        assert plan.frames.min() >= 0 and plan.frames.max() < total


def test_in_a_short_video_cuts_fall_at_the_same_places_at_both_strides():
    spec = ClipSpec(frames=8, strides=(1, 2), clips=3, stride_rows=ROWS, windows=(0, 1, 1))
    for plan in plans(spec, video(9), 50):
        assert len({tuple((np.diff(clip) < 0).tolist()) for clip in plan.frames}) == 1


@pytest.mark.parametrize(("batch", "counts"), [(8, {0: 4, 1: 4}), (7, {0: 4, 1: 3}), (1, {0: 1})])
def test_rows_are_dealt_out_evenly_and_any_share_of_a_batch_gets_its_own(batch, counts):
    whole = dealt_rows(SPEC, seed=3, step=5, batch=batch, start=0, stop=batch).tolist()
    assert Counter(whole) == counts
    parts = [dealt_rows(SPEC, seed=3, step=5, batch=batch, start=i, stop=i + 1)[0] for i in range(batch)]
    assert parts == whole
    others = {
        tuple(dealt_rows(SPEC, seed=seed, step=step, batch=batch, start=0, stop=batch))
        for seed in range(5)
        for step in range(5)
    }
    assert len(others) > 5 or batch == 1


def test_clips_that_cover_a_video():
    spec = ClipSpec(frames=16, cover=True)
    for total in (1, 5, 16, 33, 100):
        seen = [plan.frames[0] for plan in plans(spec, video(total), 200)]
        step = total / 16
        for frames in seen:
            offset = np.array(frames) - step * np.arange(16)
            assert ((offset > -1) & (offset < step + 1e-9)).all() and max(frames) < total
        assert total < 16 or {int(f[0]) for f in seen} == set(range(int(np.ceil(step))))
    even = ClipSpec(frames=16, cover=True, sampling="uniform").plan(video(100), rng_for(0, 0, 0)).frames
    assert even.tolist() == [[int(i * 6.25 + 3.125) for i in range(16)]]
    two = ClipSpec(frames=16, clips=2, cover=True, sampling="uniform").plan(video(100), rng_for(0, 0, 0)).frames
    assert two.tolist() == [[int(i * 6.25) for i in range(16)], [int(i * 6.25 + 3.125) for i in range(16)]]


def test_cuts_have_the_asked_areas_and_proportions_and_lie_within():
    spec = ClipSpec(frames=1, crop=(16, 18), area=(0.4, 1.0))
    boxes = np.array([plan.crop[0] for plan in plans(spec, video(1, 128, 171), 2000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 128).all() and (left + w <= 171).all()
    share, ratio = h * w / (128 * 171), w / h
    assert share.min() < 0.42 and share.min() > 0.39 and share.max() <= 1
    assert 0.74 < ratio.min() < 0.78 and 1.29 < ratio.max() < 1.36
    middle = (np.log(ratio) > 0).mean()  # cuts that are too tall do not fit into a wide frame
    assert 0.5 < middle < 0.7
    inner = (top > 0) & (left > 0)
    assert abs((top[inner] / (128 - h[inner]).clip(1)).mean() - 0.5) < 0.05


def test_cuts_that_cannot_fit_are_the_largest_at_the_centre():
    spec = ClipSpec(frames=1, crop=16, area=(1.0, 1.0))
    assert {tuple(plan.crop[0]) for plan in plans(spec, video(1, 100, 400))} == {(0, 133, 100, 133)}
    assert largest_cut((400, 100), 3 / 4, 4 / 3) == (133, 100)
    assert largest_cut((100, 120), 3 / 4, 4 / 3) == (100, 120)


@pytest.mark.parametrize("options", [{"crop_at": "center"}, {"sampling": "uniform"}])
def test_centre_cuts_have_the_proportions_of_the_crop(options):
    spec = ClipSpec(frames=1, crop=16, area=(0.4, 1.0), **options)
    assert spec.plan(video(1, 128, 171), rng_for(0, 0, 0)).crop.tolist() == [[0, 21, 128, 128]]


def test_grey_clips_lose_their_colours_before_the_other_changes():
    spec = ClipSpec(frames=3, jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, grey=0.2))
    drawn = [plan.jitter for plan in plans(spec, video(), 2000)]
    grey = [j for j in drawn if j.factors[0, 0, 2] == 0]
    assert abs(len(grey) / 2000 - 0.2) < 5 * 0.4 / np.sqrt(2000)
    assert all((j.order[..., 0] == 2).all() and sorted(j.order[0, 0].tolist()) == [0, 1, 2, 3] for j in grey)
    assert len({tuple(j.order[0, 0].tolist()) for j in grey}) == 6
    assert all(j.apply.all() and len(np.unique(j.factors[0], axis=0)) == 1 for j in drawn)


def test_clips_that_are_only_grey_keep_their_other_colours():
    spec = ClipSpec(frames=3, jitter=Jitter(brightness=0.4, hue=0.4, probability=0, grey=0.5))
    drawn = [plan.jitter for plan in plans(spec, video(), 200)]
    grey = [j for j in drawn if j.apply.any()]
    assert 60 < len(grey) < 140
    assert all((j.factors == np.float32([1, 1, 0, 0])).all() for j in grey)


def test_without_the_new_options_nothing_else_is_drawn():
    old = ClipSpec(frames=4, clips=2, crop=20, jitter=Jitter(hue=0.2))
    rng = np.random.default_rng(0)
    old.plan(video(), rng)
    other = np.random.default_rng(0)
    other.random(10 + 12)
    assert rng.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"area": (0.0, 1.0), "crop": 4}, "area is 0.0"),
        ({"area": (0.5, 1.2), "crop": 4}, "up to 1"),
        ({"area": (0.6, 0.5), "crop": 4}, "least and most"),
        ({"area": (0.5, 1.0)}, "data.crop"),
        ({"area": (0.5, 1.0), "crop": 4, "flow": "flow"}, "RGB clips alone"),
        ({"cover": True, "strides": (2,)}, "no stride"),
        ({"windows": (0, 1)}, "one number is needed for each of 1 clips"),
        ({"stride_rows": ((0, 0),)}, "rows of 1 places"),
        ({"stride_rows": ((2,),), "strides": (1, 2)}, "rows of 1 places"),
        ({"deal": True}, "rows of 1 places"),
        ({"windows": (0,), "sampling": "uniform"}, "random clips"),
    ],
)
def test_wrong_specs(options, word):
    with pytest.raises(UserError, match=word):
        ClipSpec(**{"frames": 4, **options})


def test_grey_is_a_probability():
    with pytest.raises(UserError, match="jitter grey is 1.5"):
        Jitter(grey=1.5)
