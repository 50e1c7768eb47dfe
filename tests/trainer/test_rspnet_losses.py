"""The two losses of RSPNet against loops; the reference's values are in test_rspnet_task.py."""

import numpy as np
import pytest
import torch

from trainer.tasks.momentum import queue_contrast
from trainer.tasks.rspnet import ranking


def numbers(seed, *shape):
    """Cosines."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape)).requires_grad_()


def agree(loss, literal, *parameters):
    """Both losses and their gradients are equal."""
    torch.testing.assert_close(loss, literal, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(*(torch.autograd.grad(value, parameters) for value in (loss, literal)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_appearance_is_a_cross_entropy_over_the_queue(temperature):
    positive, negatives = numbers(0, 4), numbers(1, 4, 9)
    total = 0.0
    for n in range(4):
        own = torch.exp(positive[n] / temperature)
        others = sum(torch.exp(negatives[n, k] / temperature) for k in range(9))
        total = total - torch.log(own / (own + others)) / 4
    agree(queue_contrast(positive, negatives, temperature), total, positive, negatives)


def test_keys_that_are_left_out_get_no_gradient_and_have_no_say():
    positive, negatives = numbers(0, 3), numbers(1, 3, 5)
    own = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    loss = queue_contrast(positive, negatives.masked_fill(own, -torch.inf), 0.1)
    total = 0.0
    for n in range(3):
        others = sum((torch.exp(negatives[n, k] / 0.1) for k in range(5) if not own[n, k]), start=torch.zeros(()))
        total = total - torch.log(torch.exp(positive[n] / 0.1) / (torch.exp(positive[n] / 0.1) + others)) / 3
    torch.testing.assert_close(loss, total)
    near, far = torch.autograd.grad(loss, (positive, negatives))
    expected = torch.autograd.grad(total, (positive, negatives))
    assert near.isfinite().all() and far.isfinite().all() and (far[own] == 0).all() and near[2] == 0
    torch.testing.assert_close(near, expected[0])
    torch.testing.assert_close(far, expected[1])


@pytest.mark.parametrize("margin", [2.0, 0.0])
def test_motion_is_a_hinge_on_the_difference(margin):
    near, far = numbers(0, 6), numbers(1, 6)
    total, beyond = 0.0, []
    for n in range(6):
        gap = margin - (near[n] - far[n]) / 0.07
        beyond.append(bool(gap <= 0))
        total = total + (gap if gap > 0 else 0 * gap) / 6
    assert any(beyond) and not all(beyond)
    loss = ranking(near, far, temperature=0.07, margin=margin)
    agree(loss, total, near, far)
    (gradient,) = torch.autograd.grad(ranking(near, far, temperature=0.07, margin=margin), near)
    assert (gradient[torch.tensor(beyond)] == 0).all() and (gradient[~torch.tensor(beyond)] < 0).all()


def test_equal_cosines_cost_the_margin():
    """The reference's loss before anything is learnt: 2."""
    same = torch.full((3,), 0.4)
    assert ranking(same, same, temperature=0.07, margin=2.0).item() == 2.0
