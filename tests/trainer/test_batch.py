"""Batches and the sorting of colour changes."""

from dataclasses import replace

import numpy as np
import torch

from shards.rng import rng_for
from shards.spec import ClipSpec, Jitter, VideoFacts
from tests.trainer import batches
from tests.trainer.test_augment import STRONG, make_batch
from trainer.augment import augment
from trainer.data.batch import Batch, ColourChanges, upload
from trainer.data.ring import Layout
from trainer.models.base import InputConvention


def test_changes_are_the_plan_in_order_of_application():
    """Replaying the groups gives every frame the kinds of its own order, with their factors; no frame twice at once."""
    batch = make_batch(jitter=STRONG, rows=5, frames=8)
    changes = batch.changes
    replay: dict[int, list[tuple[int, float]]] = {}
    for kind, start, stop in changes.groups:
        frames = changes.frame[start:stop].tolist()
        assert len(set(frames)) == len(frames) > 0
        for frame, factor in zip(frames, changes.factor[start:stop].tolist(), strict=True):
            replay.setdefault(frame, []).append((kind, factor))
    assert changes.groups[0][1] == 0 and changes.groups[-1][2] == len(changes.frame)
    for place, at in enumerate(np.ndindex(*batch.jitter.apply.shape)):
        expected = [(int(k), float(batch.jitter.factors[at][k])) for k in batch.jitter.order[at]]
        assert replay.get(place, []) == (expected if batch.jitter.apply[at] else [])


def test_a_batch_shares_the_memory_of_its_slot_and_keeps_the_first_rows():
    layout = Layout(rows=3, clips=1, frames=2, height=4, width=5, jitter=True)
    arrays = layout.arrays(np.zeros(layout.nbytes, np.uint8))
    spec = ClipSpec(frames=2, jitter=Jitter(hue=0.2))
    facts = VideoFacts(frames=9, height=4, width=5, times_us=np.arange(9))
    for row in range(3):
        plan = spec.plan(facts, rng_for(0, 0, row))
        arrays["sample"][row] = row + 4
        for name in ("apply", "factors", "order"):
            arrays[name][row] = getattr(plan.jitter, name)
    batch = Batch.of(7, [arrays], np.array([9, 9, 9, 9, 0, -1, 2], np.int32), rows=2, flow_zeros=[0])
    assert batch.draws is None and batch.epoch == 0
    assert (batch.step, len(batch)) == (7, 2)
    assert batch.sample.tolist() == [4, 5] and batch.label.tolist() == [0, -1] and batch.label.dtype == torch.int64
    assert batch.clips.shape == (2, 1, 2, 4, 5, 3) and batch.jitter.factors.shape == (2, 1, 2, 4)
    arrays["clips"][0] = 3
    assert (batch.clips[0] == 3).all()
    arrays["factors"][...] = 0
    assert batch.jitter.factors.any()


def test_to_moves_everything():
    batch = replace(make_batch(jitter=STRONG), flow=torch.ones(3))
    moved = batch.to("meta")
    assert all(tensor.is_meta for tensor in moved.tensors())
    assert len(list(moved.tensors())) == 9
    assert moved.jitter is batch.jitter and moved.changes.groups == batch.changes.groups
    same = next(upload([batch], "cpu"))
    assert same.clips is batch.clips and same.flow is batch.flow
    assert isinstance(same.changes, ColourChanges)


def test_the_first_clips_are_those_of_a_batch_that_has_no_others():
    batch = batches.make_batch(ClipSpec(frames=3, clips=3, crop=24, jitter=Jitter(brightness=0.4, hue=0.1), draws=5))
    first = batch.first_clips(2, draws=1)
    assert first.clips.shape[:2] == (4, 2) and first.draws.tolist() == batch.draws[:, :2, :1].tolist()
    assert batch.first_clips(3).draws is None and batch.first_clips(1).draws is None
    shown = augment(first, InputConvention())
    assert torch.equal(shown, augment(batch, InputConvention())[:, :2])
