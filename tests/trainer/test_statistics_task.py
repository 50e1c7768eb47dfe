"""The statistics task: what it asks for, what it minimises, which labels it learns, what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vidprep.statistics as prepared
from shards.dataset import open_dataset
from shards.errors import UserError
from tests.trainer.batches import make_batch
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.data.loader import Loader
from trainer.models import build_backbone
from trainer.tasks import build_task
from trainer.testing import SMALL, check_task, generate
from vidprep.derive import add_flow, add_labels

DATA = DataConfig(frames=8, resize=(36, 44), crop=32)


def statistics(data=DATA, backbone="r3d-vcop", **options):
    torch.manual_seed(0)
    return build_task("statistics", backbone=build_backbone(backbone, base_width=4), data=data, options=options)


def outputs(task, batch):
    pooled = task.backbone(augment(batch, task.backbone.convention)[:, 0]).pooled
    return task.motion_linear(pooled).detach().numpy(), task.app_linear(pooled).detach().numpy()


def test_it_asks_for_a_table_or_for_flow():
    assert statistics().spec == replace(DATA.spec(), table="statistics")
    assert statistics(table="statistics-224").spec.table == "statistics-224"
    assert statistics(labels="online", flow="flow-raft").spec == replace(DATA.spec(), flow="flow-raft")
    assert statistics(labels="online", flip="none").spec.flip == 0
    assert statistics(labels="online", motion=[]).spec.flow is None


@pytest.mark.parametrize("backbone", ["c3d-bn", "r21d-vcop", "s3dg-pace"])
def test_the_loss_is_the_references_where_everything_moves(backbone):
    task = statistics(backbone=backbone, variant="reference")
    batch = make_batch(task.spec, videos=5)
    scalars = task(batch)
    motion, appearance = outputs(task, batch)
    assert motion.shape == (5, 14) and appearance.shape == (5, 13)
    wanted = batch.targets[:, 0].numpy()
    assert (wanted == 0).any()  # which the reference learns as a number like any other
    expected = {
        "motion_loss": np.mean((motion - wanted[:, :14]) ** 2),
        "appearance_loss": np.mean((appearance - wanted[:, 14:]) ** 2),
        "motion_error": np.mean(abs(motion - wanted[:, :14])),
        "appearance_error": np.mean(abs(appearance - wanted[:, 14:])),
    }
    expected["loss"] = expected["motion_loss"] + 0.1 * expected["appearance_loss"]
    assert {name: value.item() for name, value in scalars.items()} == pytest.approx(expected, rel=1e-4)


def test_regions_without_motion_are_left_out():
    task = statistics(motion_weight=0.5, appearance_weight=2)
    batch = make_batch(task.spec, videos=6)
    scalars = task(batch)
    motion, _ = outputs(task, batch)
    known = [(i, k) for i, k in np.ndindex(motion.shape) if batch.targets[i, 0, k] > 0]
    assert 0 < len(known) < motion.size
    terms = [(motion[i, k] - batch.targets[i, 0, k].item()) ** 2 for i, k in known]
    assert scalars["motion_loss"].item() == pytest.approx(np.mean(terms), rel=1e-4)
    assert scalars["motionless"].item() == pytest.approx(1 - len(known) / motion.size)
    total = 0.5 * scalars["motion_loss"] + 2 * scalars["appearance_loss"]
    assert scalars["loss"].item() == pytest.approx(total.item(), rel=1e-5)


def test_ranks_with_unequal_shares_of_motion_make_the_loss_of_the_whole_batch(monkeypatch):
    task = statistics().eval()
    batch = make_batch(task.spec, videos=6)
    batch.targets[:3, :, :10] = 0
    whole = task(batch)["motion_loss"].item()
    counts = [(batch.targets[rows, :, :14] > 0).sum() for rows in (slice(0, 3), slice(3, 6))]
    assert counts[0] < counts[1]
    monkeypatch.setattr("trainer.tasks.statistics.task.gather_ranks", lambda local: torch.stack(counts))
    shared = ("clips", "stride", "flip", "targets")
    halves = [
        task(replace(batch, **{name: getattr(batch, name)[rows] for name in shared}))["motion_loss"].item()
        for rows in (slice(0, 3), slice(3, 6))
    ]
    assert np.mean(halves) == pytest.approx(whole, rel=1e-4)


def test_a_batch_in_which_nothing_moves():
    task = statistics()
    batch = make_batch(task.spec)
    still = batch.targets.clone()
    still[..., :14] = 0
    scalars = task(replace(batch, targets=still))
    assert scalars["motion_loss"] == 0 and scalars["motionless"] == 1
    scalars["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())
    assert (task.motion_linear.weight.grad == 0).all() and (task.app_linear.weight.grad != 0).any()


@pytest.mark.parametrize("flip", ["physical", "literal", "none"])
@pytest.mark.parametrize("variant", ["corrected", "reference"])
def test_online_labels_are_those_of_the_clips_as_shown(flip, variant):
    task = statistics(labels="online", flip=flip, variant=variant)
    batch = make_batch(task.spec, videos=6)
    assert bool(batch.flip.any()) == (flip != "none")
    for b, labels in enumerate(task.labels(batch).numpy()):
        rgb, steps = batch.clips[b, 0].numpy(), batch.flow[b, 0].numpy().astype(np.float32) - 128
        if batch.flip[b, 0]:
            rgb, steps = rgb[:, :, ::-1], steps[:, :, ::-1] * (np.float32([-1, 1]) if flip == "physical" else 1)
        np.testing.assert_array_equal(labels[:14], prepared.motion_labels(steps, variant=variant, quantum=1.0))
        np.testing.assert_array_equal(labels[14:], prepared.appearance_labels(rgb, variant=variant))
    assert task(batch)["loss"].isfinite()


@pytest.mark.parametrize(
    ("motion", "appearance", "places"),
    [
        ([2], [1, "global"], [4, 5, 6, 7, 14, 15, 16, 17, 26]),
        (["global", 1], [], [0, 1, 2, 3, 12, 13]),
        ([], [3], [22, 23, 24, 25]),
    ],
)
def test_groups_of_numbers_can_be_chosen(motion, appearance, places):
    task = statistics(motion=motion, appearance=appearance, variant="reference")
    batch = make_batch(task.spec)
    parts = {"motion": (task.motion_linear, motion), "appearance": (task.app_linear, appearance)}
    scalars = task(batch)
    pooled = task.backbone(augment(batch, task.backbone.convention)[:, 0]).pooled
    for name, (head, groups) in parts.items():
        mine = [p for p in places if (p < 14) == (name == "motion")]
        assert (head is None) == (not groups) == (f"{name}_loss" not in scalars)
        if head is not None:
            difference = head(pooled) - batch.targets[:, 0, mine]
            assert scalars[f"{name}_loss"].item() == pytest.approx(difference.square().mean().item(), rel=1e-4)


def test_standardised_targets_have_mean_0_and_variance_1_over_their_range():
    task = statistics(standardize=True, appearance_weight=1)
    batch = make_batch(task.spec)
    scalars = task(batch)
    motion, appearance = outputs(task, batch)
    ranges = [*(16, 8) * 2, *(4, 8) * 2, *(8, 8) * 2, 7, 7], [*(16, 8) * 2, *(4, 8) * 2, *(8, 8) * 2, 8]
    labels = batch.targets[:, 0].numpy()
    losses = []
    for output, wanted, tops in ((motion, labels[:, :14], ranges[0]), (appearance, labels[:, 14:], ranges[1])):
        uniform = [np.arange(1, top + 1) for top in tops]
        mean, deviation = (np.array([getattr(u, name)() for u in uniform]) for name in ("mean", "std"))
        known = wanted > 0
        losses.append(np.mean((output - (wanted - mean) / deviation)[known] ** 2))
        error = np.mean(abs(output * deviation + mean - wanted)[known])
        name = "motion_error" if output is motion else "appearance_error"
        assert scalars[name].item() == pytest.approx(error, rel=1e-4)  # in label numbers all the same
    assert scalars["loss"].item() == pytest.approx(sum(losses), rel=1e-4)


def test_under_autocast_the_heads_stay_exact():
    """In bf16, numbers near 16 are 1/8 apart: a loss of labels 16 at predictions of 15.97 would be 0."""
    task = statistics(variant="reference", motion_weight=1, appearance=[]).eval()
    batch = make_batch(task.spec)
    torch.nn.init.zeros_(task.motion_linear.weight)
    torch.nn.init.constant_(task.motion_linear.bias, 15.97)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scalars = task(replace(batch, targets=torch.full_like(batch.targets, 16)))
    assert scalars["loss"].item() == pytest.approx(0.03**2, rel=1e-3)
    assert scalars["motion_error"].item() == pytest.approx(0.03, rel=1e-3)


def test_its_tables_follow_the_device_and_stay_out_of_checkpoints():
    task = statistics().to("meta")
    assert task.motion.mean.is_meta and task.motion.places.is_meta
    assert not [key for key in task.state_dict() if key.startswith(("motion.", "appearance."))]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({}, {"labels": "online", "flip": "left"}, "flip"),
        ({}, {"flip": "none"}, r"vidprep labels --flip none.*task\.labels=online"),
        ({}, {"motion": [], "appearance": []}, "both empty"),
        ({}, {"motion": [1, 1]}, "given once"),
        ({}, {"motion": [4]}, "motion"),
        ({}, {"tabel": "x"}, "did you mean table"),
        ({"crop": 36}, {"labels": "online"}, r"36x36.*data\.crop=112"),
        ({"crop": None}, {"labels": "online"}, "divisible by 8"),
        ({"crop": (32, 40)}, {}, "square"),
        ({"fps": 12.5}, {}, "fps"),
        ({"frames": 1}, {"labels": "online"}, r"data\.frames is 1"),
    ],
)
def test_what_cannot_work_is_refused(data, options, message):
    with pytest.raises(UserError, match=message):
        statistics(DATA.model_copy(update=data), **options)


def test_a_table_of_other_numbers_is_refused():
    task = statistics()
    batch = make_batch(task.spec)
    with pytest.raises(UserError, match="has 5 numbers a clip; statistics are 27"):
        task(replace(batch, targets=batch.targets[..., :5]))


@pytest.fixture(scope="module")
def gratings(tmp_path_factory):
    """Moving gratings of 32x40, 24 frames, with TV-L1 flow and a statistics table of 24x24x8 clips."""
    dest = generate(tmp_path_factory.mktemp("gratings") / "data")
    add_flow(dest, workers=1, warps=1, nscales=2)
    add_labels(dest, crop=24, window=8, resize=(32, 40), stride=5, views=4, workers=1)
    return Path(dest)


def test_online_labels_equal_the_tables(gratings):
    """From stored bytes through two ways: prepared numbers of a drawn row, and those of what the row shows."""
    data = DataConfig(frames=8, resize=(32, 40), crop=24)
    task = statistics(data, labels="online")
    spec = replace(task.spec, table="statistics")
    with Loader(open_dataset(gratings), spec, batch=8, repeats=4, workers=0) as loader:
        batches = list(loader.batches(0, 4))
    assert sum(batch.flip.sum().item() for batch in batches) > 4
    for batch in batches:
        np.testing.assert_array_equal(task.labels(replace(batch, targets=None)), batch.targets.flatten(0, 1))


@pytest.mark.parametrize("labels", ["table", "online"])
def test_it_learns_resumes_and_runs_on_two_processes(labels, gratings, tmp_path):
    recipe = {**SMALL, "name": "check", "task": {"name": "statistics", "labels": labels, "standardize": True}}
    check_task(recipe, tmp_path, data=gratings)


def test_flow_as_network_input(gratings, tmp_path):
    backbone = {"backbone": {"name": "r3d-vcop", "base_width": 2, "in_channels": 2}}
    data = {"data": {**SMALL["data"], "column": "flow"}}
    recipe = {**SMALL, **backbone, **data, "name": "check", "task": {"name": "statistics", "standardize": True}}
    check_task(recipe, tmp_path, data=gratings)
