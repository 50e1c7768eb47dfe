"""The joint task: the weighted sum of what its tasks minimise alone, on clips that are shared where they may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shards.errors import UserError
from shards.spec import ClipSpec
from tests.tiny import build_dataset
from tests.trainer.batches import make_batch
from trainer.config import DataConfig, load_recipe
from trainer.data.batch import Batch
from trainer.engine import train
from trainer.evaluation.retrieval import evaluate_retrieval
from trainer.models import build_backbone
from trainer.models.base import Backbone
from trainer.tasks import Joint, build_task
from trainer.tasks.joint import least, serves
from trainer.testing import SMALL, check_task
from vidprep.derive import add_flow, add_labels

DATA = DataConfig(frames=8, resize=(36, 44), crop=24, jitter={"brightness": 0.3})
PACE = {"weight": 0.5, "paces": 3}
RSPNET = {"weight": 2.0, "speeds": [2, 3], "pairs": "all", "queue": 24}
CLASSES = ("left", "right")


def joint(tasks: dict[str, dict], *, data: DataConfig = DATA) -> Joint:
    torch.manual_seed(0)
    network = build_backbone("r3d-vcop", base_width=2)
    task = build_task("joint", backbone=network, data=data, options={"tasks": tasks}, classes=CLASSES)
    assert isinstance(task, Joint)
    return task


def batch_for(task: Joint, **options) -> Batch:
    first, *more = (make_batch(spec, seed=place, **options) for place, spec in enumerate(task.specs))
    return replace(first, more=tuple(more))


def test_the_loss_is_the_weighted_sum_of_the_tasks_own():
    """Each of the tasks built alone, with the same weights, on the clips that it would get."""
    task = joint({"rspnet": RSPNET, "pace": PACE, "class": {"name": "classify", "weight": 0.25, "data": {"crop": 20}}})
    assert len(task.specs) == 2 and task.shared == {"rspnet": (0,), "pace": (0,), "class": (1,)}
    batch = batch_for(task)
    task.eval()  # batch statistics are of each task's own forward pass
    scalars = task(batch)
    scalars["loss"].backward()
    gradient = {name: p.grad.clone() for name, p in task.backbone.named_parameters()}
    summed: dict[str, torch.Tensor] = {name: torch.zeros_like(p) for name, p in gradient.items()}
    total = 0.0
    seen = {"rspnet": batch, "pace": batch.first_clips(1), "class": batch.more[0]}
    weights = {"rspnet": 2.0, "pace": 0.5, "class": 0.25}
    for label, member in task.tasks.items():
        alone = build_task(
            {"class": "classify"}.get(label, label),
            backbone=build_backbone("r3d-vcop", base_width=2),
            data=DATA,
            options={k: v for k, v in {"rspnet": RSPNET, "pace": PACE}.get(label, {}).items() if k != "weight"},
            classes=CLASSES,
        ).eval()
        own = {f"backbone.{name}": value for name, value in task.backbone.state_dict().items()}
        alone.load_state_dict({**member.state_dict(), **own})
        found = alone(seen[label])
        assert {f"{label}_{name}" for name in found} == {name for name in scalars if name.startswith(f"{label}_")}
        for name, value in found.items():
            torch.testing.assert_close(scalars[f"{label}_{name}"], value)
        total += weights[label] * found["loss"].item()
        found["loss"].backward()
        for name, p in alone.backbone.named_parameters():
            summed[name] += weights[label] * p.grad
    assert scalars["loss"].item() == pytest.approx(total, rel=1e-6)
    for name, expected in summed.items():
        torch.testing.assert_close(gradient[name], expected, rtol=1e-4, atol=1e-6)


def test_pace_looks_at_the_queries_of_rspnet():
    task = joint({"pace": PACE, "rspnet": RSPNET})
    (spec,) = task.specs
    assert spec.clips == 3 and spec.strides == (1, 2, 3) and len(spec.stride_rows) == 6
    batch = batch_for(task, videos=6)
    seen = []
    task.tasks["pace"].forward = lambda batch: seen.append(batch) or {"loss": torch.zeros((), requires_grad=True)}
    task(batch)
    assert torch.equal(seen[0].clips, batch.clips[:, :1]) and torch.equal(seen[0].stride, batch.stride[:, :1])
    assert seen[0].clips.untyped_storage().data_ptr() == batch.clips.untyped_storage().data_ptr()
    own = make_batch(replace(spec, clips=1, windows=None, stride_rows=None, deal=False))
    assert {f: type(getattr(seen[0], f)) for f in vars(own)} == {f: type(getattr(own, f)) for f in vars(own)}


PLAIN = ClipSpec(frames=8, strides=(1, 2), crop=24)
PAIR = replace(PLAIN, clips=3, windows=(0, 1, 1), stride_rows=((0, 0, 1), (1, 1, 0)), deal=True)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (PLAIN, PLAIN, True),
        (PAIR, PLAIN, True),
        (PLAIN, PAIR, False),
        (replace(PLAIN, clips=3), replace(PLAIN, clips=2), True),
        (PLAIN, replace(PLAIN, clips=2), False),
        (PAIR, replace(PLAIN, clips=2), False),  # its first two clips have one stride
        (replace(PAIR, stride_rows=None, deal=False), PLAIN, True),
        (
            replace(PAIR, strides=(1, 2, 3), stride_rows=((0, 0, 1), (1, 1, 0), (0, 0, 2), (2, 2, 0))),
            replace(PLAIN, strides=(1, 2, 3)),
            False,
        ),  # slow queries come twice as often
        (PAIR, replace(PLAIN, strides=(1,)), False),
        (PAIR, replace(PLAIN, flip=0.0), False),
        (PAIR, replace(PLAIN, when_short="loop"), False),
        (replace(PLAIN, clips=2, draws=4), PLAIN, True),
        (replace(PAIR, draws=4), replace(PLAIN, draws=1), True),
        (replace(PLAIN, clips=2, draws=1), replace(PLAIN, draws=2), False),
        # Of two evenly spread clips the first lies at the beginning, an only one in the middle.
        (replace(PLAIN, clips=2, sampling="uniform"), replace(PLAIN, sampling="uniform"), False),
    ],
)
def test_when_clips_serve_another_task(ours, theirs, expected):
    assert serves(ours, theirs) == expected


def test_the_fewest_clips_that_serve_all():
    assert least([PLAIN, PAIR, replace(PLAIN, crop=20), PLAIN, PAIR]) == (PAIR, replace(PLAIN, crop=20))


def test_the_backbone_has_one_owner():
    task = joint({"pace": PACE, "rspnet": RSPNET})
    names = list(task.state_dict())
    assert sum(name.endswith("conv1.weight") or "stem" in name for name in names) > 0
    assert not any(name.startswith(("tasks.pace.backbone", "tasks.rspnet.backbone")) for name in names)
    assert {"tasks.pace.head.weight", "tasks.rspnet.queue.keys"} <= set(names)
    assert any(name.startswith("tasks.rspnet.key_backbone.") for name in names)
    assert len(task.backbones) == 2  # and RSPNet's key network
    task.eval()
    assert not task.tasks["pace"].backbone.training and task.tasks["pace"].backbone is task.backbone


def test_what_a_task_notes_names_its_options_as_they_are_set_here():
    task = joint({"pace": PACE, "speed": {"name": "rspnet", **RSPNET, "bn_groups": 4}})
    task.check_batch(8)
    task.prepare(None, None)  # neither of them looks at the data
    (note,) = task.notes
    assert note.startswith("speed: a batch of 8 in 4 groups") and "--set task.tasks.speed.bn_groups=1" in note


def test_settings_of_one_task():
    task = joint({"pace": {"paces": 2, "data": {"jitter": None, "frames": 4}}, "class": {"name": "classify"}})
    pace, other = task.specs
    assert (pace.frames, pace.jitter, pace.crop) == (4, None, 24) and (other.frames, other.jitter.brightness) == (
        8,
        0.3,
    )


class Hoarder(Joint):
    """A task that keeps the backbone under a second name."""

    def __init__(self, backbone: Backbone, *rest):
        super().__init__(backbone, *rest)
        self.encoder = backbone


@pytest.mark.parametrize(
    ("tasks", "match"),
    [
        ({}, "at least 1"),
        ({"A.b": {}}, "'A.b' cannot be the label"),
        ({"keys": {"name": "pace"}}, "'keys' cannot be the label"),
        ({"pase": {}}, "unknown task 'pase': did you mean pace"),
        ({"pace": {"pacess": 3}}, "unknown key pacess: did you mean paces"),
        ({"pace": {"wieght": 3}}, "unknown key wieght: did you mean weight"),
        ({"pace": {"weight": -1}}, "greater than or equal to 0"),
        ({"pace": {"data": {"repeats": 2}}}, "one stream of videos.*--set data.repeats=2"),
        ({"pace": {"data": {"frame": 2}}}, "task.tasks.pace.data.*unknown key frame: did you mean frames"),
        ({"own": {"name": f"{__file__}:Hoarder", "tasks": {"pace": {}}}}, "under another name than `backbone`"),
    ],
)
def test_what_it_refuses(tasks, match):
    with pytest.raises(UserError, match=f"(?s){match}"):
        joint(tasks)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples with flow and labels."""
    dest = build_dataset(tmp_path_factory.mktemp("joint"), samples=8, frames=30, size=(32, 40))
    add_flow(dest, backend="numba", nscales=1, warps=1, outer_iterations=1, inner_iterations=2, workers=1)
    add_labels(dest, crop=24, window=8, resize=(32, 40), stride=6, views=2, workers=1)
    return dest


THREE = {
    "rspnet": {**RSPNET, "weight": 0.2, "bn_groups": 2, "negatives": "others"},
    "pace": PACE,
    "statistics": {"standardize": True, "data": {"jitter": None}},
}
RECIPE = {
    **SMALL,
    "name": "three",
    "task": {"name": "joint", "tasks": THREE},
    "data": {**SMALL["data"], "jitter": {"brightness": 0.3}},
}


def test_it_learns_resumes_and_agrees_on_two_ranks(url: Path, tmp_path: Path) -> None:
    check_task(RECIPE, tmp_path, data=url, overfit_steps=80, falls_to=0.6)


def test_a_run_with_validation_and_its_retrieval(url: Path, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, ["train.validation.split=test", "train.validation.metric=pace_accuracy"])
    run = train(recipe, url, out=tmp_path / "run", device="cpu")
    columns = (run.run / "log.csv").read_text().splitlines()[0].split(",")
    assert {"loss", "pace_loss", "pace_accuracy", "rspnet_motion_loss", "statistics_loss"} <= set(columns)
    assert (run.run / "validation.csv").is_file()
    result, _ = evaluate_retrieval(run.run, url, device="cpu", ks=(1,))
    assert 0 <= result["hits"]["1"] <= 1


def test_errors_name_the_options_of_the_task_within_this_one():
    with pytest.raises(UserError, match=r"--set task\.tasks\.mine\.queue=4 or more"):
        joint({"mine": {"name": "rspnet", "queue": 3}}).check_batch(4)
    inner = {"name": "joint", "tasks": {"rspnet": {"queue": 3}}}
    with pytest.raises(UserError, match=r"--set task\.tasks\.inner\.tasks\.rspnet\.queue=4 or more"):
        joint({"inner": inner}).check_batch(4)


def test_a_column_that_one_of_the_tasks_lacks(tmp_path: Path) -> None:
    dest = build_dataset(tmp_path / "data", samples=4, frames=30, size=(32, 40))
    with pytest.raises(UserError, match="no column 'statistics'.*vidprep labels .* --crop 24 --window 8"):
        train(RECIPE, dest, out=tmp_path / "run", device="cpu")
