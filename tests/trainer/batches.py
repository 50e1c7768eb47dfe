"""Batches as the loader makes them, of generated videos, for tests of tasks."""

import dataclasses

import numpy as np

from shards.rng import rng_for
from shards.spec import ClipSpec, VideoFacts
from trainer.data.batch import Batch


def make_batch(spec: ClipSpec, *, videos: int = 4, labels=None, seed: int = 0, step: int = 0) -> Batch:
    """Clips of noise that the spec planned; video i is sample i with label i mod 2 unless `labels` are given."""
    rng = np.random.default_rng(seed)
    plans = []
    for sample in range(videos):
        total = int(rng.integers(20, 60))
        facts = VideoFacts(frames=total, height=40, width=48, times_us=np.arange(total) * 40_000)
        plans.append(spec.plan(facts, rng_for(seed, step, sample)))
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
    labels = np.arange(videos) % 2 if labels is None else np.asarray(labels)
    return Batch.of(step, arrays, labels, videos)
