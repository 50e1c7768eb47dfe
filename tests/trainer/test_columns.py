"""Flow and clip tables in training batches."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from shards.dataset import open_dataset
from shards.errors import UserError
from shards.spec import ClipSpec, VideoFacts
from shards.table import ClipTable
from tests.tiny import build_dataset
from trainer.data.loader import Loader
from vidprep.derive import add_flow, add_labels
from vidprep.statistics import appearance_labels, motion_labels

SIZE = (32, 40)
RESIZE = (36, 44)
QUICK = {"backend": "numba", "nscales": 2, "warps": 1, "outer_iterations": 2, "inner_iterations": 4, "workers": 1}
TABLED = ClipSpec(frames=4, resize=RESIZE, crop=24, flow="flow", table="statistics")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples of 9, 1 and 6 frames with flow, lossless flow and a table; tests may add columns."""
    dest = build_dataset(tmp_path_factory.mktemp("columns"), samples=6, frames=(9, 1, 6), size=SIZE)
    add_flow(dest, **QUICK)
    add_flow(dest, column="flow-lossless", codec="lossless", **QUICK)
    add_labels(dest, crop=24, window=4, resize=RESIZE, stride=2, views=4, workers=1)
    return dest


def batches(url: Path, spec: ClipSpec, count: int = 4, **options):
    with Loader(url, spec, batch=4, seed=3, **{"workers": 0, **options}) as loader:
        return list(loader.batches(0, count))


def test_a_table_row_fixes_the_clip_and_gives_its_targets(url):
    data = open_dataset(url, columns=("rgb", "flow", "statistics"))
    shown = set()
    for batch in batches(url, TABLED):
        assert batch.targets.shape == (4, 1, 27) and batch.targets.dtype == torch.int64
        for row in range(4):
            i = int(batch.sample[row])
            found = data.clip_table(i).rows
            start, flip = int(batch.frames[row, 0, 0]), int(batch.flip[row, 0])
            assert batch.frames[row, 0].tolist() == list(range(start, start + 4))
            same = [r for r in found.tolist() if r[4:] == batch.targets[row, 0].tolist() and r[0] == start]
            top, left = next((r[1], r[2]) for r in same if r[3] == flip)
            image = cv2.resize(data.frames(i, [start + 1])[0], RESIZE[::-1], interpolation=cv2.INTER_LINEAR)
            assert np.array_equal(batch.clips[row, 0, 1].numpy(), image[top : top + 24, left : left + 24])
            shown.add((i, start, top, left, flip))
    assert len(shown) > 8 and {flip for *_, flip in shown} == {0, 1}


def test_targets_are_the_labels_of_the_batch_itself(url):
    """What the table says equals what is computed from the pixels and the flow that the batch holds."""
    for batch in batches(url, TABLED):
        for row in range(4):
            clip, steps = batch.clips[row, 0].numpy(), batch.flow[row, 0].numpy().astype(np.float32) - batch.flow_zero
            if batch.flip[row, 0]:
                clip, steps = clip[:, :, ::-1], steps[:, :, ::-1] * np.float32([-1, 1])
            numbers = [*motion_labels(steps, frames=4, quantum=1.0), *appearance_labels(clip)]
            assert numbers == batch.targets[row, 0].tolist()


def test_flow_beside_the_clips_belongs_to_their_frames(url):
    data = open_dataset(url, columns=("rgb", "flow"))
    spec = ClipSpec(frames=8, strides=(1, 2), resize=SIZE, crop=20, flow="flow", when_short="clamp")
    for batch in batches(url, spec):
        assert batch.flow.shape == (4, 1, 8, 20, 20, 2) and batch.flow.dtype == torch.uint8
        assert batch.flow_zero == 128 and torch.allclose(batch.flow_step, torch.tensor(2.5 / 127))
        for row in range(4):
            i = int(batch.sample[row])
            frames = np.minimum(batch.frames[row, 0].numpy(), data.frame_counts[i] - 2)
            planes = np.moveaxis(data.flow_planes(i, frames), 1, -1)
            clip = batch.clips[row, 0].numpy()
            images = data.frames(i, batch.frames[row, 0].numpy())
            box = next(
                (slice(y, y + 20), slice(x, x + 20))
                for y in range(13)
                for x in range(21)
                if np.array_equal(images[:, y : y + 20, x : x + 20], clip)
            )
            assert np.array_equal(batch.flow[row, 0].numpy(), planes[(slice(None), *box)])


@pytest.mark.parametrize(("column", "dtype", "zero"), [("flow", torch.uint8, 128.0), ("flow-lossless", torch.int16, 0)])
def test_clips_of_a_flow_column(url, column, dtype, zero):
    data = open_dataset(url, columns=(column,))
    spec = ClipSpec(column=column, frames=4, resize=(16, 40), flip=0.0)
    batch = batches(url, spec, 1)[0]
    assert batch.clips.shape == (4, 1, 4, 16, 40, 2) and batch.clips.dtype == dtype and batch.flow is None
    assert batch.flow_zero == zero
    i, step = int(batch.sample[0]), batch.flow_step[0]
    pixels = (batch.clips[0, 0].float() - batch.flow_zero) * step
    stored = data.flow(i, batch.frames[0, 0].tolist(), column=column)
    resized = np.stack([cv2.resize(field, (40, 16), interpolation=cv2.INTER_LINEAR) for field in stored])
    resized[..., 1] /= 2  # half the height: half the vertical motion
    assert abs(pixels.numpy() - resized).max() <= 0.75 * float(step.max())
    assert sorted({int(s) for b in batches(url, spec, 3) for s in b.sample}) == [0, 2, 3, 5]


def test_a_window_at_the_end_of_a_flow_column(url):
    """A row that ends with the frames shows the last field twice: there is one field less."""
    spec = ClipSpec(column="flow", frames=4, resize=RESIZE, crop=24, table="statistics")
    seen = [b for b in batches(url, spec, 12) for row in range(4) if b.frames[row, 0].tolist()[-2:] == [4, 4]]
    assert seen
    facts = VideoFacts(frames=5, height=32, width=40, times_us=np.zeros(0, np.int64))
    rows = np.array([[3, 0, 0, 0, 1]], np.int32)
    with pytest.raises(UserError, match="ends at frame 6 of 5"):
        spec.plan(facts, np.random.default_rng(0), ClipTable(rows))


def test_workers_and_ranks_make_the_same_batches(url):
    here = batches(url, TABLED, 3)
    there = batches(url, TABLED, 3, workers=2, threads=2)
    ranks = [batches(url, TABLED, 3, rank=rank, world=2) for rank in (0, 1)]
    for k, batch in enumerate(here):
        for name in ("clips", "flow", "flow_step", "targets", "frames", "flip", "sample"):
            whole = getattr(batch, name)
            assert torch.equal(whole, getattr(there[k], name))
            assert torch.equal(whole, torch.cat([getattr(parts[k], name) for parts in ranks]))


def test_samples_that_failed_in_a_column_are_left_out(url):
    with Loader(url, TABLED, batch=2, workers=0) as loader:
        assert loader.samples.tolist() == [0, 2, 3, 5]
    with Loader(url, ClipSpec(frames=1, crop=24), batch=2, workers=0) as loader:
        assert loader.samples.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (
            ClipSpec(frames=4, resize=RESIZE, crop=16, table="statistics"),
            "made with --crop 24 --window 4 --resize 36x44, the recipe's are made with --crop 16 --window 4 --resize "
            "36x44.*vidprep labels .* --crop 16 --window 4 --resize 36x44 --column statistics-16x4 .*--set "
            "task.table=statistics-16x4",
        ),
        (
            ClipSpec(frames=8, crop=24, table="labels"),
            "no column 'labels'.*vidprep labels .* --crop 24 --window 8 --resize stored --column labels",
        ),
        (ClipSpec(frames=4, resize=RESIZE, crop=24, table="other"), "no column 'other'; .*vidprep labels"),
        (ClipSpec(frames=4, flow="flow-raft"), "no column 'flow-raft'.*vidprep flow .* --column flow-raft"),
        (ClipSpec(frames=4, flow="rgb"), r"'rgb' .* is of kind rgb and cannot be read as flow; .*flow \(flow\)"),
        (ClipSpec(frames=4, resize=RESIZE, crop=24, table="flow"), "of kind flow and cannot be read as table"),
        (ClipSpec(frames=4, column="statistics"), "of kind statistics and cannot be read as clips"),
    ],
)
def test_what_the_data_set_does_not_have_is_refused_with_the_command_that_makes_it(url, spec, match):
    with pytest.raises(UserError, match=match):
        Loader(url, spec, batch=2, workers=0)


def test_another_table_that_fits_is_named(url):
    spec = ClipSpec(frames=4, resize=RESIZE, crop=24, table="statistics-b")
    add_labels(url, crop=16, window=4, resize=RESIZE, views=1, column="statistics-b", workers=1)
    with pytest.raises(UserError, match=re.escape("--set task.table=statistics names one that fits")):
        Loader(url, spec, batch=2, workers=0)


def test_tables_go_with_plain_windows_only():
    for options in ({"strides": (2,)}, {"fps": 10.0}, {"sampling": "uniform"}):
        with pytest.raises(UserError, match="strides"):
            ClipSpec(frames=4, crop=24, table="statistics", **options)
    with pytest.raises(UserError, match="square crops"):
        ClipSpec(frames=4, crop=(24, 32), table="statistics")
    facts = VideoFacts(frames=5, height=32, width=40, times_us=np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="names table 'statistics'; table is not given"):
        TABLED.plan(facts, np.random.default_rng(0))
