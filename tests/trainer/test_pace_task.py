"""The pace task: what it asks for, what it minimises, what it refuses."""

import pytest
import torch
from torch.nn import functional

from benchmarks.pace_leak import accuracy, draw
from shards.errors import UserError
from tests.trainer.batches import make_batch
from tests.trainer.test_pace_losses import literal
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.models import build_backbone
from trainer.tasks import build_task, find_task

DATA = DataConfig(frames=8, resize=(36, 44), crop=32)
JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "probability": 0.8, "per_frame": True}


def pace(data=DATA, backbone="r3d-vcop", **options):
    torch.manual_seed(0)
    return build_task("pace", backbone=build_backbone(backbone, base_width=4), data=data, options=options)


def test_it_asks_for_every_pace_by_the_leak_free_rule():
    spec = pace(data=DATA.model_copy(update={"fps": 12.5, "flip": 0.25})).spec
    assert (spec.strides, spec.clips, spec.when_short) == ((1, 2, 3, 4), 1, "window")
    assert (spec.frames, spec.resize, spec.crop, spec.fps, spec.flip) == (8, (36, 44), 32, 12.5, 0.25)
    assert pace(paces=2, rule="restart", contrastive="context").spec == (
        DATA.model_copy(update={"when_short": "restart"}).spec(strides=(1, 2), clips=2)
    )


@pytest.mark.parametrize("backbone", ["c3d-bn", "r21d-vcop", "s3dg-pace"])
def test_loss_and_accuracy_are_of_the_drawn_paces(backbone):
    data = DATA.model_copy(update={"crop": 32, "jitter": DataConfig(jitter=JITTER).jitter})
    task = pace(data, backbone)
    batch = make_batch(task.spec, videos=6)
    scalars = task(batch)
    clips = augment(batch, task.backbone.convention)
    logits = task.head(task.backbone(clips[:, 0]).pooled)
    rows = [(row, int(y)) for row, y in zip(logits, batch.stride[:, 0], strict=True)]
    assert set(scalars) == {"loss", "accuracy"}
    assert scalars["loss"].item() == pytest.approx(sum(-row.log_softmax(0)[y].item() for row, y in rows) / 6, rel=1e-5)
    assert scalars["accuracy"].item() == pytest.approx(sum(row.argmax().item() == y for row, y in rows) / 6)


@pytest.mark.parametrize("contrastive", ["context", "pace"])
def test_contrastive_branch_adds_the_literal_loss(contrastive):
    task = pace(contrastive=contrastive, contrastive_weight=0.3, temperature=0.5, projection=6)
    batch = make_batch(task.spec, videos=5)
    scalars = task(batch)
    pooled = task.backbone(augment(batch, task.backbone.convention).flatten(0, 1)).pooled
    z = functional.normalize(task.projection(pooled), dim=1).detach()
    video = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    group = video if contrastive == "context" else batch.stride.flatten().tolist()
    expected = literal(z, group, 0.5).item()
    assert scalars["contrastive_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert scalars["loss"].item() == pytest.approx(scalars["pace_loss"].item() + 0.3 * expected, rel=1e-4)
    scalars["loss"].backward()
    assert [key for key, p in task.named_parameters() if p.grad is None] == []
    assert all(p.grad.abs().sum() > 0 for p in task.projection.parameters())


def test_it_learns_a_batch_by_heart():
    task = pace(contrastive="context", contrastive_weight=0.1)
    batch = make_batch(task.spec, videos=4)
    optimiser = torch.optim.SGD(task.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(25):
        scalars = task(batch)
        losses.append(scalars["pace_loss"].item())
        optimiser.zero_grad()
        scalars["loss"].backward()
        optimiser.step()
    assert losses[-1] < 0.2 * losses[0]
    assert scalars["accuracy"] == 1


def test_bf16_autocast_is_near_the_exact_losses_and_gradients():
    # 24 frames leave 3 at the last stage. At 2, oneDNN's bf16 weight gradients of a 3x3x3 convolution are wrong on
    # processors with AVX-512 (seen with torch 2.15): an error of the library, and of any training in bf16 on the CPU.
    task = pace(DATA.model_copy(update={"frames": 24}), contrastive="context")
    batch = make_batch(task.spec, videos=4)
    gradients = []
    for enabled in (False, True):
        task.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            scalars = task(batch)
        assert {value.dtype for value in scalars.values()} == {torch.float32}
        scalars["loss"].backward()
        gradients.append((scalars["loss"].detach(), torch.cat([p.grad.flatten() for p in task.parameters()])))
    (exact, exact_gradient), (half, half_gradient) = gradients
    assert half.item() == pytest.approx(exact.item(), rel=0.05)
    assert functional.cosine_similarity(half_gradient, exact_gradient, dim=0) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pace": 4}, "did you mean paces"),
        ({"paces": 1}, "greater than or equal to 2"),
        ({"rule": "wrap"}, "'window' or 'restart'"),
        ({"temperature": 0}, "greater than 0"),
        ({"contrastive": "both"}, "'context' or 'pace'"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        pace(**options)


def test_the_rule_is_the_tasks_own():
    with pytest.raises(UserError, match=r"task\.rule"):
        pace(DATA.model_copy(update={"when_short": "loop"}))
    both = pace(DATA.model_copy(update={"when_short": "restart"}), rule="restart")
    assert both.spec.when_short == "restart"


def test_tasks_are_found_by_name_or_file(tmp_path):
    with pytest.raises(UserError, match="did you mean pace"):
        find_task("paces")
    file = tmp_path / "own.py"
    file.write_text("from trainer.tasks.pace import Pace\nclass Mine(Pace):\n    pass\nOther = 3\n")
    assert find_task(f"{file}:Mine").__name__ == "Mine"
    with pytest.raises(UserError, match="must be a class derived from"):
        find_task(f"{file}:Other")


def test_static_videos_tell_the_pace_by_the_literal_rule_only():
    """benchmarks/pace_leak.py at a small size: 64 frames of UCF-like lengths."""
    seen = {rule: draw(rule, frames=64, clips=4000) for rule in ("window", "restart")}
    named = {rule: accuracy(clips.visible(ends=False), clips.pace, steps=150) for rule, clips in seen.items()}
    assert named["window"] < 0.29  # chance 0.25, standard error 0.014
    assert named["restart"] > 0.35


def test_cuts_fall_at_the_same_places_at_every_pace():
    clips = draw("window", frames=64, clips=2000)
    cuts, seen = clips.cuts(), {}
    for total, places in zip(clips.total.tolist(), map(bytes, cuts), strict=True):
        assert seen.setdefault(total, places) == places
    assert cuts.any() and len(set(clips.pace.tolist())) == 4
