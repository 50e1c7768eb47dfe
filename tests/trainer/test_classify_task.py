"""The classification task, which fine-tuning uses."""

import numpy as np
import pytest
import torch

from shards.errors import UserError
from tests.trainer.batches import make_batch
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.models import build_backbone
from trainer.tasks import build_task

DATA = DataConfig(frames=8, crop=32)


def classify(classes=("run", "walk", "skip"), **options):
    torch.manual_seed(0)
    backbone = build_backbone("r3d-vcop", base_width=4)
    return build_task("classify", backbone=backbone, data=DATA, options=options, classes=classes)


def test_loss_and_accuracy_are_of_the_labels():
    task = classify()
    batch = make_batch(task.spec, videos=5, labels=[2, 0, 1, 1, 2])
    scalars = task(batch)
    logits = task.head(task.backbone(augment(batch, task.backbone.convention)[:, 0]).pooled)
    loss = sum(-row.log_softmax(0)[y].item() for row, y in zip(logits, [2, 0, 1, 1, 2], strict=True)) / 5
    assert scalars["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert scalars["accuracy"].item() == pytest.approx((logits.argmax(1).numpy() == [2, 0, 1, 1, 2]).mean())
    assert (task.spec.strides, task.spec.clips) == ((1,), 1)
    scalars["loss"].backward()
    assert [key for key, p in task.named_parameters() if p.grad is None] == []


def test_dropout_is_in_front_of_the_head_and_off_in_evaluation():
    task = classify(dropout=0.9)
    clip = torch.randn(2, 3, 8, 32, 32)
    assert not torch.equal(task.logits(clip), task.logits(clip))
    task.eval()
    assert torch.equal(task.logits(clip), task.head(task.backbone(clip).pooled))


def test_videos_without_a_label_are_refused():
    task = classify()
    with pytest.raises(UserError, match=r"step 3 has no label.*vidprep annotate"):
        task(make_batch(task.spec, videos=2, labels=[0, -1], step=3))
    with pytest.raises(UserError, match=r"2 of the 3 selected videos have no label.*vidprep annotate"):
        task.check_labels(np.array([-1, 0, -1]))
    with pytest.raises(UserError, match="label 3 is not in the class table of 3"):
        task.check_labels(np.array([0, 3]))
    task.check_labels(np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ((), {}, "this one has 0. Label it with vidprep annotate"),
        (("run",), {}, "this one has 1: run"),
        (("run", "walk"), {"dropout": 1.0}, "less than 1"),
        (("run", "walk"), {"drop": 0.5}, "did you mean dropout"),
    ],
)
def test_wrong_options_are_explained(classes, options, message):
    with pytest.raises(UserError, match=message):
        classify(classes, **options)
