"""Flow as strips: motion boundaries, scale, sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import open_dataset
from tests.vidprep import literal_statistics
from tests.vidprep.drawing.columns import add_flow
from vidprep.drawing.canvas import GAP, GUTTER, LEAST, SMALL, paper
from vidprep.drawing.fields import flow_strips, full_length, motion_boundaries


def test_motion_boundaries_of_ramps() -> None:
    y, x = np.mgrid[:10, :14].astype(np.float32)
    u, v = motion_boundaries(np.stack([np.stack([x, 2 * y], axis=-1)] * 3))
    assert u.shape == (10, 14)
    assert (u[:, 1:-1] == 3 * 6).all() and (u[:, [0, -1]] == 3 * 3).all()
    assert (v[1:-1] == 3 * 12).all() and (v[[0, -1]] == 3 * 6).all()


def test_motion_boundaries_are_those_of_the_labels() -> None:
    flow = np.random.default_rng(1).normal(size=(5, 16, 16, 2)).astype(np.float32)
    for c, ours in enumerate(motion_boundaries(flow)):
        pairs = [literal_statistics.boundaries(field[..., c]) for field in flow]
        assert np.allclose(ours, np.hypot(sum(p[0] for p in pairs), sum(p[1] for p in pairs)), atol=1e-4)


def test_opposite_motion_cancels_only_where_it_is_summed() -> None:
    field = np.random.default_rng(2).normal(size=(1, 16, 16, 2)).astype(np.float32)
    assert motion_boundaries(np.concatenate([field, -field])).max() < 1e-4
    assert motion_boundaries(field).max() > 1


def test_a_few_wrong_vectors_do_not_change_the_scale() -> None:
    flow = np.zeros((2, 20, 30, 2), np.float32)
    flow[:, 5:15, 5:15] = (3, 4)
    assert full_length(flow, least=0.1) == 5
    flow[0, 0, :5] = 100
    assert full_length(flow, least=0.1) == 5
    assert full_length(0 * flow, least=0.1) == 0.1


@pytest.mark.parametrize("codec", ["byte", "release", "lossless"])
def test_fields_are_drawn_where_they_are(tiny_dataset: Callable[..., Path], codec: str) -> None:
    dest, size = tiny_dataset(samples=2, frames=12), (24, 32)
    fields = np.zeros((11, *size, 2), np.float32)
    fields[:, 8:16, 8:24] = (1.5, 0)
    fields[5:, 8:16, 8:24] *= -1
    add_flow(dest, lambda i: fields * (i == 0), codec=codec)
    dataset = open_dataset(dest, columns=("flow",))
    frames = paper(48, 3 * 64 + 2 * GAP)
    drawn = flow_strips(dataset, 0, [0, 4, 10], column="flow", tile=(48, 64), frames=frames)
    strips = drawn[-4 * 48 - 3 * GAP :]
    assert drawn.shape == (SMALL + 9 + strips.shape[0], max(LEAST, GUTTER + frames.shape[1]), 3)

    def tile(line: int, place: int) -> np.ndarray:
        return strips[line * (48 + GAP) :, GUTTER + place * (64 + GAP) :][:48, :64].astype(int)

    for place in (0, 1):  # to the right: red; then to the left: between cyan and blue
        assert tile(1, place)[24, 32, 0] > tile(1, place)[24, 32, 2] + 150
    assert tile(1, 2)[24, 32, 2] > tile(1, 2)[24, 32, 0] + 150
    assert tile(1, 0)[4, 4].min() > 230  # nearly white; the release's zero lies between two bytes
    edge, inside = tile(2, 2)[24, 15:18].sum(axis=1).max(), tile(2, 2)[24, 32].sum()
    assert edge > inside + 200
    without = flow_strips(dataset, 0, [0, 4, 10], column="flow", tile=(48, 64), frames=None)
    assert without.shape[0] == drawn.shape[0] - 48 - GAP
    still = flow_strips(dataset, 1, [0, 4, 10], column="flow", tile=(48, 64), frames=None)
    field = still[-3 * 48 - 2 * GAP :][:48, GUTTER + 1 :][1:-1, :62]
    assert field.min() > 220  # JPEG's traces do not become colours
