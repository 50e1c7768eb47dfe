"""The six views: cuts against torch's own resizing, what is drawn, and what each view shows."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.transforms.v2 import functional as colours

from shards.colours import Jitter
from shards.errors import UserError
from trainer.models.base import BGR_255, InputConvention
from trainer.tasks.concepts.views import DRAWS, ViewOptions, cut, differences, make_views, plan_views

PLAIN = InputConvention()
IMAGENET = InputConvention(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIZE = (30, 40)


def options(**changed):
    jitter = Jitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25)
    return ViewOptions(**{"crop": (16, 20), "area": (0.5, 1.0), "flip": 0.5, "grey": 0.5, "jitter": jitter, **changed})


def draws(videos, seed=0):
    return np.random.default_rng(seed).random((videos, DRAWS))


def clips(videos=3, frames=5, size=SIZE, seed=0):
    shape = (videos, 2 * frames, *size, 3)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def views(batch, plan, chosen, convention=PLAIN, wrap=False):
    return make_views(batch, plan, convention=convention, crop=chosen.crop, wrap=wrap)


def resized(frame_HWC, box, flip, size):
    """One frame, by torch's anti-aliased interpolation."""
    top, left, height, width = box
    part = frame_HWC[top : top + height, left : left + width].permute(2, 0, 1)[None].float() / 255
    image = functional.interpolate(part, size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return image.flip(2) if flip else image


@pytest.mark.parametrize("size", [(16, 20), (40, 50), (30, 40), (7, 64)])
def test_cuts_are_those_of_anti_aliased_interpolation(size):
    batch, box = clips(), np.array([[0, 0, 30, 40], [3, 7, 21, 19], [29, 1, 1, 39]])
    flip = np.array([False, True, True])
    images = cut(batch, box, flip, size)
    assert images.shape == (3, 10, 3, *size)
    for b in range(3):
        for t in (0, 9):
            torch.testing.assert_close(images[b, t], resized(batch[b, t], box[b], flip[b], size), atol=1e-5, rtol=0)


def test_a_cut_of_the_size_of_the_view_keeps_its_pixels():
    batch, chosen = clips(), options(area=None, jitter=None, grey=0.0)
    plan = plan_views(draws(3), frames=5, size=SIZE, options=chosen)
    made = views(batch, plan, chosen)
    for b in range(3):
        top, left, height, width = plan.box[b, 0]
        assert (height, width) == chosen.crop
        part = batch[b, :5, top : top + height, left : left + width].permute(3, 0, 1, 2).float() / 255
        torch.testing.assert_close(made[b, 0], part.flip(3) if plan.flip[b, 0] else part, atol=1e-7, rtol=0)


def test_what_is_drawn():
    chosen = options()
    plan = plan_views(draws(4000), frames=5, size=SIZE, options=chosen)
    top, left, height, width = np.moveaxis(plan.box, 2, 0)
    share, aspect = height * width / 1200, width / height
    # Uniform in 0.5..1 before tries that do not fit, mostly large ones, are drawn again.
    assert share.min() > 0.47 and share.max() <= 1 and 0.6 < share.mean() < 0.75
    assert aspect.min() > 0.7 and aspect.max() < 1.43  # a pixel of rounding beyond 3/4..4/3
    assert (top >= 0).all() and (top + height <= 30).all() and (top + height == 30).any() and (top == 0).any()
    assert (left >= 0).all() and (left + width <= 40).all()
    assert abs(plan.flip.mean() - 0.5) < 0.02 and abs((plan.channel >= 0).mean() - 0.5) < 0.02
    assert all(abs((plan.channel == c).mean() - 1 / 6) < 0.02 for c in range(3))
    assert np.bincount(plan.frame).tolist() == pytest.approx([800] * 5, rel=0.12)
    # Each of the four sequences has draws of its own.
    for part in (plan.flip, top, plan.jitter.factors[:, :, 0, 0], plan.channel):
        apart = np.corrcoef(part.T.astype(float)) - np.eye(4)
        assert np.abs(apart).max() < 0.06


def test_where_no_try_fits_the_largest_cut_at_the_centre_is_taken():
    plan = plan_views(draws(3), frames=5, size=(20, 200), options=options(area=(0.9, 1.0)))
    assert plan.box.reshape(-1, 4).tolist() == [[0, 87, 20, 25]] * 12


def test_a_crop_that_does_not_fit():
    with pytest.raises(UserError, match=r"31x20 does not fit into frames of 30x40.*data.resize"):
        plan_views(draws(1), frames=5, size=SIZE, options=options(crop=(31, 20), area=None))


def literal(batch, plan, chosen, b, s):
    """Sequence s of video b, frame by frame with torchvision's colour functions: (3,T,h,w)."""
    frames = len(batch[b]) // 2
    first = frames * (s % 2)
    shown = range(first, first + frames) if s < 2 else [first + int(plan.frame[b])] * frames
    change = (
        colours.adjust_brightness,
        colours.adjust_contrast,
        colours.adjust_saturation,
        colours.adjust_hue,
    )
    images = []
    for number in shown:
        image = resized(batch[b, number], plan.box[b, s], plan.flip[b, s], chosen.crop)
        if plan.channel[b, s] >= 0:
            image = image[plan.channel[b, s]].expand(3, -1, -1)
        if plan.jitter.apply[b, s, 0]:
            for kind in plan.jitter.order[b, s, 0]:
                image = change[kind](image, float(plan.jitter.factors[b, s, 0, kind]))
        images.append(image)
    return torch.stack(images, dim=1)


@pytest.mark.parametrize("convention", [IMAGENET, BGR_255])
def test_views_against_a_literal_version(convention):
    batch, chosen = clips(), options()
    plan = plan_views(draws(3, seed=4), frames=5, size=SIZE, options=chosen)
    assert plan.flip.any() and (plan.channel >= 0).any()
    made = views(batch, plan, chosen, convention)
    assert made.shape == (3, 6, 3, 5, 16, 20) and made.is_contiguous()
    order = [0, 1, 2] if convention.channels == "rgb" else [2, 1, 0]
    mean, std = (torch.tensor(part)[:, None, None, None] for part in (convention.mean, convention.std))
    for b in range(3):
        for s in range(4):
            expected = (literal(batch, plan, chosen, b, s)[order] * convention.scale - mean) / std
            torch.testing.assert_close(made[b, s], expected, atol=2e-4 * convention.scale, rtol=0)
        for s in (0, 1):
            assert torch.equal(made[b, 4 + s, :, 1:], made[b, s, :, 1:] - made[b, s, :, :-1])
            assert torch.equal(made[b, 4 + s, :, 0], made[b, 4 + s, :, 1])


def test_a_repeated_frame_is_one_frame():
    chosen = options()
    plan = plan_views(draws(3), frames=5, size=SIZE, options=chosen)
    made = views(clips(), plan, chosen)
    assert torch.equal(made[:, 2:4], made[:, 2:4, :, :1].expand(-1, -1, -1, 5, -1, -1))
    assert not torch.equal(made[:, 2], made[:, 3])


def test_the_first_difference():
    clip = torch.arange(24.0).square().view(1, 2, 4, 3, 1)
    wrapped, plain = (differences(clip, wrap=wrap) for wrap in (True, False))
    assert torch.equal(wrapped[:, :, 0], clip[:, :, 0] - clip[:, :, 3])
    assert torch.equal(plain[:, :, 0], clip[:, :, 1] - clip[:, :, 0])
    assert torch.equal(wrapped[:, :, 1:], plain[:, :, 1:])
    for wrap in (True, False):
        assert (differences(clip[:, :, :1], wrap=wrap) == 0).all()


def test_views_of_a_video_depend_on_nothing_but_its_frames_and_draws():
    chosen, u, batch = options(), draws(4), clips(4)
    whole = views(batch, plan_views(u, frames=5, size=SIZE, options=chosen), chosen)
    one = views(batch[2:3], plan_views(u[2:3], frames=5, size=SIZE, options=chosen), chosen)
    torch.testing.assert_close(whole[2:3], one, atol=1e-6, rtol=0)
