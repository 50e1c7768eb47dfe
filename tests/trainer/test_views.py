"""Test views: every video exactly once, deterministic, over one process or two, whole or in segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shards.dataset import open_dataset
from shards.errors import UserError
from trainer.config import DataConfig, JitterConfig
from trainer.engine.distributed import Ranks
from trainer.evaluation.views import mean_over_views, merge_segments, view_spec
from trainer.models.base import InputConvention

RGB = InputConvention()
DATA = DataConfig(frames=4, resize=(20, 24), crop=16, jitter=JitterConfig(brightness=0.5), flip=1.0)
ONE = Ranks(0, 1, torch.device("cpu"))


def pixel_statistics(clips, labels):
    """Numbers that depend on every pixel and on the order of frames."""
    by_frame = clips.mean((1, 3, 4))
    return torch.cat([by_frame, clips.flatten(1).std(1, keepdim=True), labels[:, None].float()], dim=1)


def literal(dataset, samples, views):
    """Views by hand: linspace starts, looped where too short, whole-frame resize, centre crop."""
    import cv2

    rows = []
    for number in samples:
        total = dataset[int(number)].frames
        clips = []
        for start in np.round(np.linspace(0, max(0, total - 4), views)).astype(int):
            wanted = [(start + k) % total for k in range(4)]
            frames = [
                cv2.resize(frame, (24, 20), interpolation=cv2.INTER_LINEAR) for frame in dataset.frames(number, wanted)
            ]
            clips.append(np.stack(frames)[:, 2:18, 4:20].astype(np.float32) / 255)
        batch = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
        labels = torch.full((views,), int(dataset.labels[number]))
        rows.append(pixel_statistics(batch, labels).mean(0).numpy())
    return np.stack(rows)


def run(dataset, samples, *, views=3, ranks=ONE, **options):
    spec = view_spec(DATA, views=views)
    return mean_over_views(dataset, samples, spec, pixel_statistics, convention=RGB, ranks=ranks, workers=0, **options)


def test_views_equal_the_literal_ones(tiny_dataset):
    dataset = open_dataset(tiny_dataset(samples=7, frames=(12, 5, 3, 1)))
    samples = dataset.select()
    assert np.allclose(run(dataset, samples), literal(dataset, samples, 3), atol=0.006)


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_every_video_comes_once_in_order_at_any_batch_size(tiny_dataset, batch):
    dataset = open_dataset(tiny_dataset(samples=11))
    samples = dataset.select(split="train")
    told = []
    values = run(dataset, samples, batch=batch, progress=lambda done, total: told.append((done, total)))
    assert values.shape == (len(samples), 6)
    assert values[:, -1].tolist() == dataset.labels[samples].tolist()
    assert np.allclose(values, run(dataset, samples), atol=1e-6)
    assert told[-1] == (len(samples), len(samples))


def test_two_ranks_give_the_same_as_one(tiny_dataset):
    dataset = open_dataset(tiny_dataset(samples=9))
    samples = dataset.select()

    class Recorder(Ranks):
        """A rank that hands out what it would gather."""

        def gather(self, value):
            object.__setattr__(self, "sent", value)
            return [value]

    parts = []
    for rank in range(2):
        ranks = Recorder(rank, 2, torch.device("cpu"))
        with pytest.raises(RuntimeError, match="once each"):
            run(dataset, samples, ranks=ranks, batch=2)
        parts.append(ranks.sent)

    class Joined(Ranks):
        def gather(self, value):
            return parts

    assert sorted(np.concatenate([numbers for numbers, _ in parts]).tolist()) == samples.tolist()
    assert np.allclose(run(dataset, samples, ranks=Joined(0, 1, torch.device("cpu"))), run(dataset, samples), atol=1e-6)


def test_segments_of_a_video_are_merged(tiny_dataset, monkeypatch):
    dataset = open_dataset(tiny_dataset(samples=4))
    rows = [dataset.table.row(i) for i in range(4)]
    video = [None, "long", "long", None]
    import dataclasses

    merged_rows = [dataclasses.replace(row, video=name) for row, name in zip(rows, video, strict=True)]
    monkeypatch.setattr(dataset.table, "row", lambda i: merged_rows[i])
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    videos = merge_segments(dataset, np.arange(4), values)
    assert videos.keys == ("video_000", "long", "video_003")
    assert videos.values.tolist() == [[0, 1], [3, 4], [6, 7]]
    assert videos.samples.tolist() == [0, 1, 3]
    assert videos.labels.tolist() == dataset.labels[[0, 1, 3]].tolist()


def test_there_is_at_least_one_view():
    with pytest.raises(UserError, match="at least 1"):
        view_spec(DATA, views=0)
