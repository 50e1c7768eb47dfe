"""The contrastive losses against slow literal loops, and over ranks against one process."""

import pytest
import torch

from shards.procs import run_tasks
from trainer.tasks.losses import contrastive_loss, gather_ranks, same_context_pairs, same_pace_pairs


def literal(z, group, temperature):
    """reference/pace.md section 6: positives share the group, negatives do not."""
    terms = []
    for i in range(len(z)):
        for j in range(len(z)):
            if i == j or group[i] != group[j]:
                continue
            positive = torch.exp(z[i] @ z[j] / temperature)
            negatives = 0.0
            for k in range(len(z)):
                if group[k] != group[i]:
                    negatives = negatives + torch.exp(z[i] @ z[k] / temperature)
            terms.append(-torch.log(positive / (positive + negatives)))
    return sum(terms) / len(terms) if terms else 0 * z.sum()


@pytest.mark.parametrize("pairs", [same_context_pairs, same_pace_pairs])
@pytest.mark.parametrize("temperature", [1.0, 0.07])
@pytest.mark.parametrize(
    "group",
    [
        [0, 0, 1, 1, 2, 2, 3, 3],  # two clips of each video
        [3, 1, 0, 0, 2, 3, 3, 1],
        [5, 5, 5, 5],  # no negatives
        [1, 2, 3, 4],  # no positives
        [7],
    ],
)
def test_contrastive_loss_equals_the_loop(pairs, temperature, group):
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(len(group), 16, dtype=torch.float64), dim=1).requires_grad_()
    loss = contrastive_loss(z, *pairs(torch.tensor(group)), temperature=temperature)
    expected = literal(z, group, temperature)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    # Both clips of a pair are learnt from: nothing is detached.
    (gradient,) = torch.autograd.grad(expected, z)
    loss.backward()
    torch.testing.assert_close(z.grad, gradient, rtol=1e-7, atol=1e-12)
    assert bool(z.grad.any()) == (0 < len(set(group)) < len(group) and len(set(group)) > 1)


def test_large_embeddings_do_not_overflow():
    z = torch.tensor([[100.0], [-100.0], [100.0], [-100.0]], requires_grad=True)
    loss = contrastive_loss(z, *same_context_pairs(torch.tensor([0, 0, 1, 1])))
    loss.backward()
    assert loss.item() == pytest.approx(20_000)
    assert z.grad.isfinite().all()


def test_autocast_does_not_round_the_logits():
    z = torch.nn.functional.normalize(torch.randn(8, 32), dim=1)
    pairs = same_context_pairs(torch.arange(8) // 2)
    exact = contrastive_loss(z, *pairs, temperature=0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive_loss(z, *pairs, temperature=0.07), exact)


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 5, generator=generator), torch.tensor([0, 0, 1, 1, 0, 0, 2, 2])


def loss_and_gradient(x, group):
    """Loss of an embedding by one matrix, and the gradient at that matrix."""
    matrix = torch.linspace(-1, 1, 15).reshape(5, 3).requires_grad_()
    z = gather_ranks(torch.nn.functional.normalize(x @ matrix, dim=1))
    loss = contrastive_loss(z, *same_context_pairs(gather_ranks(group)))
    loss.backward()
    return loss.detach(), matrix.grad


def one_rank(task):
    """Runs in a process of its own."""
    rank, file = task
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    x, group = inputs()
    loss, gradient = loss_and_gradient(x.chunk(2)[rank], group.chunk(2)[rank])
    torch.distributed.all_reduce(gradient)
    torch.distributed.destroy_process_group()
    return loss.tolist(), (gradient / 2).tolist()


def test_two_ranks_see_the_loss_and_gradient_of_one_process(tmp_path):
    loss, gradient = loss_and_gradient(*inputs())
    tasks = [(rank, str(tmp_path / "meet")) for rank in (0, 1)]
    for rank_loss, rank_gradient in run_tasks("tests.trainer.test_pace_losses:one_rank", tasks, workers=2):
        assert torch.allclose(torch.tensor(rank_loss), loss, atol=1e-6)
        assert torch.allclose(torch.tensor(rank_gradient), gradient, atol=1e-6)
