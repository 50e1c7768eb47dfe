"""The regression losses of statistics, number by number, and their gradients at the heads."""

import pytest
import torch

from tests.trainer.batches import make_batch
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.models import build_backbone
from trainer.tasks import build_task

DATA = DataConfig(frames=8, resize=(36, 44), crop=32)
RANGES = [*(16, 8) * 2, *(4, 8) * 2, *(8, 8) * 2, 7, 7, *(16, 8) * 2, *(4, 8) * 2, *(8, 8) * 2, 8]
"""Largest value of each of the 27 numbers, with clips of 8 frames."""


def statistics(**options):
    torch.manual_seed(0)
    network = build_backbone("r3d-vcop", base_width=2)
    return build_task("statistics", backbone=network, data=DATA, options=options)


def literal_loss(task, pooled, labels):
    """reference/statistics.md section 8: a mean over all numbers of all clips, or over the known ones."""
    options, parts = task.options, []
    for head, places, corrected in ((task.motion_linear, range(14), True), (task.app_linear, range(14, 27), False)):
        total, count = 0.0, 0
        for row, wanted in zip(pooled, labels.tolist(), strict=True):
            for k, place in enumerate(places):
                if options.variant == "corrected" and corrected and wanted[place] == 0:
                    continue
                predicted = sum(w * x for w, x in zip(head.weight[k], row, strict=True)) + head.bias[k]
                target = wanted[place]
                if options.standardize:
                    top = RANGES[place]
                    target = (target - (top + 1) / 2) / ((top**2 - 1) / 12) ** 0.5
                total, count = total + (predicted - target) ** 2, count + 1
        parts.append(total / count)
    return options.motion_weight * parts[0] + options.appearance_weight * parts[1]


@pytest.mark.parametrize("variant", ["reference", "corrected"])
@pytest.mark.parametrize("standardize", [False, True])
def test_the_loss_and_its_gradients_are_those_of_a_loop(variant, standardize):
    task = statistics(variant=variant, standardize=standardize, motion_weight=1.0, appearance_weight=0.1)
    batch = make_batch(task.spec, videos=3)
    clips = augment(batch, task.backbone.convention).flatten(0, 1)
    pooled = task.backbone(clips).pooled.detach().requires_grad_()
    labels = batch.targets[:, 0]
    assert (labels == 0).any()  # which one variant learns and the other leaves out

    # The task's own forward, from the pooled features on.
    task.backbone.forward = lambda _: type("Features", (), {"pooled": pooled})
    loss = task(batch)["loss"]
    literal = literal_loss(task, pooled, labels)
    assert loss.item() == pytest.approx(literal.item(), rel=1e-5)
    parameters = [pooled, *task.motion_linear.parameters(), *task.app_linear.parameters()]
    gradients = [torch.autograd.grad(value, parameters, retain_graph=True) for value in (loss, literal)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_numbers_without_motion_get_no_gradient():
    task = statistics(appearance=[])
    batch = make_batch(task.spec, videos=3)
    batch.targets[:, :, 5] = 0
    task(batch)["loss"].backward()
    assert (task.motion_linear.weight.grad[5] == 0).all() and task.motion_linear.bias.grad[5] == 0
    assert (task.motion_linear.bias.grad[:5] != 0).all()
