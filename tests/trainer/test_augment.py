"""Augmentation against torchvision, frame by frame."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from shards.errors import UserError
from shards.flow import default_bound
from shards.rng import rng_for
from shards.spec import ClipSpec, Jitter, JitterPlan, VideoFacts
from trainer import augment as augment_module
from trainer.augment import augment, mirrored
from trainer.data.batch import Batch, ColourChanges
from trainer.models.base import InputConvention

UNIT = InputConvention()
STRONG = Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8, per_frame=True)
ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def make_batch(*, jitter=None, rows=3, clips=2, frames=4, size=(13, 17), seed=0):
    """A batch whose pixels are smooth colours, noise, greys and saturated corners; flips and jitter from plans."""
    rng = np.random.default_rng(seed)
    shape = (rows, clips, frames, *size, 3)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    pixels[0] = np.clip(np.linspace(0, 255, size[1])[:, None] + rng.integers(-20, 20, 3), 0, 255)
    pixels[..., :2, :2, :] = pixels[..., :2, :2, :1]  # grey: no hue
    pixels[..., 3, :, :] = np.where(pixels[..., 3, :, :] > 127, 255, 0)
    spec = ClipSpec(frames=frames, clips=clips, jitter=jitter)
    facts = VideoFacts(frames=20, height=size[0], width=size[1], times_us=np.arange(20))
    plans = [spec.plan(facts, rng_for(seed, 0, row)) for row in range(rows)]
    stacked = None
    if jitter is not None:
        stacked = JitterPlan(
            **{name: np.stack([getattr(p.jitter, name) for p in plans]) for name in ("apply", "factors", "order")}
        )
    return Batch(
        step=0,
        clips=torch.from_numpy(pixels),
        sample=torch.arange(rows),
        label=torch.zeros(rows, dtype=torch.int64),
        stride=torch.from_numpy(np.stack([p.stride for p in plans])),
        frames=torch.from_numpy(np.stack([p.frames for p in plans])),
        flip=torch.from_numpy(np.stack([p.flip for p in plans])),
        jitter=stacked,
        changes=None if stacked is None else ColourChanges.of(stacked),
    )


def each_frame(batch):
    """(b, v, t), flipped (H,W,3) uint8."""
    for b, v, t in np.ndindex(*batch.clips.shape[:3]):
        image = batch.clips[b, v, t]
        yield (b, v, t), image.flip(1) if batch.flip[b, v] else image


def torchvision_jitter(batch, at, image):
    if batch.jitter.apply[at]:
        for kind in batch.jitter.order[at]:
            image = ADJUST[kind](image, float(batch.jitter.factors[at][kind]))
    return image


@pytest.mark.parametrize(("per_frame", "cache"), [(True, 2 << 20), (True, 6000), (False, 2 << 20)])
def test_jitter_equals_torchvision_on_float_images(per_frame, cache, monkeypatch):
    monkeypatch.setattr(augment_module, "_CACHE", cache)  # 6000 bytes: pieces of two frames
    jitter = Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8, per_frame=per_frame)
    batch = make_batch(jitter=jitter, rows=6)
    out = augment(batch, UNIT)
    assert out.shape == (6, 2, 3, 4, 13, 17) and out.dtype == torch.float32 and out.is_contiguous()
    for (b, v, t), image in each_frame(batch):
        expected = torchvision_jitter(batch, (b, v, t), image.permute(2, 0, 1).float() / 255)
        assert torch.allclose(out[b, v, :, t], expected, atol=2e-5), (b, v, t)


@pytest.mark.parametrize("kind", range(4))
def test_every_change_alone(kind):
    batch = make_batch(jitter=STRONG, rows=2)
    neutral = np.array([1, 1, 1, 0], np.float32)
    factors = np.where(np.arange(4) == kind, batch.jitter.factors, neutral)
    plan = JitterPlan(apply=np.ones_like(batch.jitter.apply), factors=factors, order=batch.jitter.order)
    changes = ColourChanges.of(plan)
    assert {group[0] for group in changes.groups} == {kind} and len(changes.frame) == factors[..., 0].size
    out = augment(Batch(**{**vars(batch), "changes": changes}), UNIT)
    for (b, v, t), image in each_frame(batch):
        expected = ADJUST[kind](image.permute(2, 0, 1).float() / 255, float(factors[b, v, t, kind]))
        assert torch.allclose(out[b, v, :, t], expected, atol=1e-5)


def test_distance_from_pil_which_rounds_after_every_change():
    """The reference jitters PIL images: a few levels apart after four roundings and 256 hues, most pixels one."""
    batch = make_batch(jitter=STRONG, rows=6)
    smooth = torch.nn.functional.avg_pool2d(batch.clips.flatten(0, 2).permute(0, 3, 1, 2).float(), 5, 1, 2)
    batch.clips.copy_(smooth.round().byte().permute(0, 2, 3, 1).view_as(batch.clips))
    out = augment(batch, InputConvention(scale=255.0))
    gaps = []
    for (b, v, t), image in each_frame(batch):
        picture = torchvision_jitter(batch, (b, v, t), Image.fromarray(image.numpy()))
        gaps.append(np.abs(out[b, v, :, t].numpy() - np.asarray(picture, np.float32).transpose(2, 0, 1)))
    gaps = np.concatenate([gap.reshape(-1) for gap in gaps])
    assert gaps.mean() < 1.5 and np.quantile(gaps, 0.99) < 12, (gaps.mean(), np.quantile(gaps, 0.99), gaps.max())


CONVENTIONS = [
    UNIT,
    InputConvention(channels="bgr", scale=255.0),
    InputConvention(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
    InputConvention(channels="bgr", scale=255.0, mean=(104.0, 117.0, 123.0), std=(1.0, 2.0, 58.0)),
]


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("jitter", [None, STRONG])
def test_conventions(convention, jitter):
    batch = make_batch(jitter=jitter)
    before = batch.clips.clone()
    out = augment(batch, convention)
    assert out.is_contiguous() and torch.equal(batch.clips, before)
    for (b, v, t), flipped in each_frame(batch):
        image = flipped.permute(2, 0, 1).float() / 255
        if jitter is not None:
            image = torchvision_jitter(batch, (b, v, t), image)
        if convention.channels == "bgr":
            image = image.flip(0)
        mean, std = (torch.tensor(x)[:, None, None] for x in (convention.mean, convention.std))
        expected = (image * convention.scale - mean) / std
        assert torch.allclose(out[b, v, :, t], expected, atol=1e-4 * convention.scale, rtol=1e-5)


def test_raw_bgr_levels_are_exact():
    batch = make_batch()
    out = augment(batch, InputConvention(channels="bgr", scale=255.0))
    for (b, v, t), image in each_frame(batch):
        assert torch.equal(out[b, v, :, t], image.flip(2).permute(2, 0, 1).float())


def test_flipping_all_clips_at_once_as_on_a_gpu():
    batch = make_batch(rows=6)
    flipped = mirrored(batch.clips.flatten(0, 1), batch.flip.flatten()).view_as(batch.clips)
    assert 0 < batch.flip.sum() < batch.flip.numel()
    for (b, v, t), image in each_frame(batch):
        assert torch.equal(flipped[b, v, t], image)


def test_a_plan_that_changes_nothing():
    batch = make_batch(jitter=Jitter(probability=0.0, hue=0.1))
    assert batch.changes is not None and batch.changes.groups == ()
    assert torch.equal(augment(batch, UNIT), augment(make_batch(), UNIT))


@pytest.mark.parametrize(("dtype", "zero"), [(np.uint8, 128.0), (np.uint8, 127.5), (np.int16, 0.0)])
def test_flow_is_motion_in_proportion_to_the_picture(dtype, zero):
    rng = np.random.default_rng(0)
    planes = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (3, 2, 4, 13, 17, 2), dtype, endpoint=True)
    step = np.float32([[0.1, 0.2], [0.3, 0.1], [0.05, 0.05]])
    batch = dataclasses.replace(
        make_batch(), clips=torch.from_numpy(planes), flow_step=torch.from_numpy(step), flow_zero=zero
    )
    assert 0 < batch.flip.sum() < batch.flip.numel()
    out = augment(batch, UNIT)
    assert out.shape == (3, 2, 2, 4, 13, 17) and out.dtype == torch.float32 and out.is_contiguous()
    for (b, v, t), image in each_frame(batch):
        for c in (0, 1):
            pixels = (image[..., c].double() - zero) * float(step[b, c])
            if c == 0 and batch.flip[b, v]:
                pixels = -pixels  # what moved to the right moves to the left in a mirror
            assert torch.allclose(out[b, v, c, t].double(), pixels / (20 * 13 / 256), rtol=1e-6, atol=1e-6)


def test_the_default_bound_is_1():
    batch = dataclasses.replace(
        make_batch(size=(128, 128)),
        clips=torch.tensor([255, 1], dtype=torch.uint8).expand(3, 2, 4, 128, 128, 2),
        flow_step=torch.full((3, 2), default_bound(128, 128) / 127),
        flow_zero=128.0,
        flip=torch.zeros(3, 2, dtype=torch.bool),
    )
    out = augment(batch, UNIT)
    assert torch.allclose(out, torch.tensor([1.0, -1.0])[:, None, None, None].expand_as(out))


def test_flow_has_no_colours_to_change():
    jittered = make_batch(jitter=STRONG)
    with pytest.raises(UserError, match=r"data\.jitter=null"):
        augment(dataclasses.replace(jittered, clips=jittered.clips[..., :2], flow_step=torch.ones(3, 2)), UNIT)
