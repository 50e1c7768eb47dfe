"""Batches as the loader makes them, of generated videos, for tests of tasks."""

import dataclasses

import numpy as np

from shards.rng import rng_for
from shards.spec import ClipSpec, VideoFacts
from shards.table import ClipTable
from trainer.data.batch import Batch


def make_batch(spec: ClipSpec, *, videos: int = 4, labels=None, seed: int = 0, step: int = 0) -> Batch:
    """Clips of noise that the spec planned; video i is sample i with label i mod 2 unless `labels` are given. Flow is
    smooth motion with noise; the rows of tables have numbers 1 to 4, with some 0 among the first 14."""
    rng = np.random.default_rng(seed)
    plans = []
    for sample in range(videos):
        total = int(rng.integers(20, 60))
        facts = VideoFacts(frames=total, height=40, width=48, times_us=np.arange(total) * 40_000)
        plans.append(spec.plan(facts, rng_for(seed, step, sample), None if spec.table is None else make_table(rng)))
    height, width = plans[0].crop[0, 2:]
    arrays = {
        "clips": rng.integers(0, 256, (videos, spec.clips, spec.frames, height, width, 3), dtype=np.uint8),
        "sample": np.arange(videos),
        "stride": np.stack([plan.stride for plan in plans]),
        "frames": np.stack([plan.frames for plan in plans]),
        "flip": np.stack([plan.flip for plan in plans]),
    }
    if spec.jitter is not None:
        for field in dataclasses.fields(plans[0].jitter):
            arrays[field.name] = np.stack([getattr(plan.jitter, field.name) for plan in plans])
    if spec.flow is not None:
        coarse = rng.normal(0, 40, (videos, spec.clips, spec.frames, 8, 8, 2))
        smooth = coarse.repeat(height // 8, axis=3).repeat(width // 8, axis=4)
        planes = 128 + smooth + rng.normal(0, 4, smooth.shape)
        arrays["flow"] = np.clip(planes, 0, 255).astype(np.uint8)
        arrays["flow_step"] = np.full((videos, 2), 0.08, np.float32)
    if spec.table is not None:
        arrays["targets"] = np.stack([plan.targets for plan in plans]).astype(np.int64)
    if spec.draws:
        arrays["draws"] = np.stack([plan.draws for plan in plans])
    labels = np.arange(videos) % 2 if labels is None else np.asarray(labels)
    return Batch.of(step, [arrays], labels, videos, flow_zeros=[128.0])


def make_table(rng: np.random.Generator, *, rows: int = 5) -> ClipTable:
    """Rows of windows at the first frame and the top left corner, half of them mirrored."""
    numbers = rng.integers(1, 5, (rows, 27))
    numbers[:, :14] *= rng.random((rows, 14)) < 0.8
    places = np.zeros((rows, 4))
    places[1::2, 3] = 1
    return ClipTable(np.concatenate([places, numbers], axis=1).astype(np.int32))
