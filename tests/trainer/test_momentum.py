"""Key network, queue and shuffled batch statistics against slow literal versions."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from shards.errors import UserError
from trainer.tasks.momentum import (
    Queue,
    copy_over,
    encode_in_groups,
    encode_shuffled,
    follow,
    groups_here,
    queue_contrast,
    shuffle_order,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_the_key_network_follows_parameter_by_parameter_and_keeps_its_statistics():
    queries, keys = network(), network().requires_grad_(False)
    for p in queries.parameters():
        p.data += torch.randn_like(p)
    queries(torch.randn(5, 3))
    before, statistics = deepcopy(list(keys.parameters())), keys[1].running_mean.clone()
    follow(keys, queries, 0.9)
    for old, new, query in zip(before, keys.parameters(), queries.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * query)
        assert not new.requires_grad
    assert torch.equal(keys[1].running_mean, statistics)
    copy_over(keys, queries)
    assert all(
        torch.equal(a, b) for a, b in zip(keys.state_dict().values(), queries.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [10], [7, 1, 9, 2, 10]])
def test_the_queue_keeps_the_newest_keys_whatever_the_batch(sizes):
    torch.manual_seed(0)
    queue = Queue(10, 4)
    assert queue.keys.norm(dim=1).tolist() == pytest.approx([1] * 10) and (queue.owner == -1).all()
    ring, place, number = [(key.clone(), -1) for key in queue.keys], 0, 0
    for size in sizes:
        keys = torch.randn(size, 4)
        queue.push(keys, torch.arange(number, number + size))
        for key in keys:
            ring[place] = key, number
            place, number = (place + 1) % 10, number + 1
    assert torch.equal(queue.keys, torch.stack([key for key, _ in ring]))
    assert queue.owner.tolist() == [owner for _, owner in ring]
    assert int(queue.place) == place


def test_a_batch_larger_than_the_queue_is_refused():
    with pytest.raises(UserError, match=r"a batch brings 11 keys and the queue holds 10: --set task.queue=11"):
        Queue(10, 4).push(torch.randn(11, 4), torch.zeros(11, dtype=torch.int64))


def test_the_queue_is_part_of_the_state():
    one, other = Queue(6, 3), Queue(6, 3)
    one.push(torch.randn(4, 3), torch.arange(4))
    other.load_state_dict(one.state_dict())
    for queue in (one, other):
        queue.push(torch.ones(3, 3), torch.arange(3))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_shuffled_keys_come_back_in_order_and_saw_other_company():
    torch.manual_seed(0)
    clips, norm = torch.randn(8, 3), nn.BatchNorm1d(3)
    order = shuffle_order(8, seed=1, step=2, stream=0, device=clips.device)
    assert sorted(order.tolist()) == list(range(8)) != order.tolist()
    encoded = encode_shuffled(norm, clips, 2, order)
    for half in (order[:4], order[4:]):
        mean, var = clips[half].mean(0), clips[half].var(0, unbiased=False)
        torch.testing.assert_close(encoded[half], (clips[half] - mean) / (var + 1e-5).sqrt())
    plain = encode_in_groups(norm, clips, 2)
    mean, var = clips[:4].mean(0), clips[:4].var(0, unbiased=False)
    torch.testing.assert_close(plain[:4], (clips[:4] - mean) / (var + 1e-5).sqrt())


def test_orders_differ_by_seed_step_and_stream_alone():
    def order(*where):
        seed, step, stream = where
        return tuple(shuffle_order(16, seed=seed, step=step, stream=stream, device=torch.device("cpu")).tolist())

    orders = {where: order(*where) for where in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(set(orders.values())) == 4
    assert {where: order(*where) for where in reversed(orders)} == orders


@pytest.mark.parametrize(("groups", "clips", "expected"), [(4, 64, 4), (4, 7, 3), (4, 2, 1), (1, 64, 1)])
def test_groups_have_at_least_two_clips(groups, clips, expected):
    assert groups_here(groups, clips) == expected


def test_queue_contrast_is_the_cross_entropy_of_its_formula():
    torch.manual_seed(0)
    query, key, queue = (functional.normalize(torch.randn(n, 8), dim=1) for n in (5, 5, 12))
    query.requires_grad_()
    loss = queue_contrast((query * key).sum(1), query @ queue.T, 0.07)
    terms = []
    for q, k in zip(query, key, strict=True):
        top = torch.exp(q @ k / 0.07)
        terms.append(-torch.log(top / (top + sum(torch.exp(q @ n / 0.07) for n in queue))))
    literal = sum(terms) / 5
    assert loss.item() == pytest.approx(literal.item(), rel=1e-5)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, query, retain_graph=True)[0] for value in (loss, literal)), rtol=1e-4, atol=1e-6
    )


def test_keys_that_are_left_out_have_no_part():
    positive, negatives = torch.tensor([0.5]), torch.tensor([[0.1, 0.9, -0.2]])
    left_out = queue_contrast(positive, negatives.masked_fill(torch.tensor([[False, True, False]]), -torch.inf), 0.5)
    assert left_out.item() == pytest.approx(queue_contrast(positive, negatives[:, [0, 2]], 0.5).item())
