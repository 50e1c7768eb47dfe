"""Order: a permutation of every epoch, even over small selections, the same at any position from any start."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from shards.errors import UserError
from shards.order import Order, permute, permute_each, shard_places


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 9537, 95_370])
def test_every_epoch_is_a_permutation(n):
    for epoch in (0, 1, 7):
        image = permute(np.arange(n), n, seed=3, epoch=epoch)
        assert np.array_equal(np.sort(image), np.arange(n))


def test_single_positions_equal_the_whole():
    n = 1003
    whole = permute(np.arange(n), n, seed=5, epoch=2)
    for at in (0, 1, 500, n - 1):
        assert permute(np.array([at]), n, seed=5, epoch=2)[0] == whole[at]
    grid = permute(np.arange(n).reshape(17, 59), n, seed=5, epoch=2)
    assert np.array_equal(grid.reshape(-1), whole)


def test_a_huge_domain_needs_no_memory():
    n = 10**15
    image = permute(np.array([0, 1, n - 1]), n, seed=0, epoch=0)
    assert len(set(image.tolist())) == 3
    assert image.min() >= 0 and image.max() < n


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_small_selections_reach_all_orders_evenly(n):
    """Chi-square over all n! orders: within five standard deviations of its mean."""
    draws = 800
    seen = Counter(tuple(permute(np.arange(n), n, seed=1, epoch=e).tolist()) for e in range(draws))
    expected = draws / math.factorial(n)
    chi = sum((seen[p] - expected) ** 2 / expected for p in permutations(range(n)))
    freedom = math.factorial(n) - 1
    assert abs(chi - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [50, 256, 1000])
def test_statistics_of_larger_selections(n):
    """Places are uniform, neighbours unrelated, fixed points and successors as rare as in a random permutation."""
    images = np.stack([permute(np.arange(n), n, seed=9, epoch=e) for e in range(400)])
    bins = np.stack([np.bincount(column * 10 // n, minlength=10) for column in images.T[:50]])
    chi = ((bins - 40) ** 2 / 40).sum(axis=1)
    assert abs(chi.mean() - 9) < 5 * math.sqrt(18 / len(chi))
    centred = (images - (n - 1) / 2) / np.sqrt((n * n - 1) / 12)
    correlation = (centred[:, :-1] * centred[:, 1:]).mean()
    assert abs(correlation + 1 / (n - 1)) < 5 / math.sqrt(images.size)
    assert abs((images == np.arange(n)).sum(axis=1).mean() - 1) < 5 / math.sqrt(400)
    assert abs((np.diff(images, axis=1) == 1).sum(axis=1).mean() - 1) < 5 / math.sqrt(400)
    between_epochs = (images[:-1] == images[1:]).sum(axis=1).mean()
    assert abs(between_epochs - 1) < 5 / math.sqrt(399)


def test_items_cover_every_repeat_once_an_epoch():
    order = Order(7, seed=4, repeats=3)
    for epoch in range(3):
        items = order.items(epoch * 21, (epoch + 1) * 21)
        assert set(items.epoch.tolist()) == {epoch}
        pairs = set(zip(items.sample.tolist(), items.repeat.tolist(), strict=True))
        assert pairs == {(s, r) for s in range(7) for r in range(3)}


def test_items_are_the_same_from_any_start():
    order = Order(11, seed=4, repeats=2)
    whole = order.items(0, 100)
    for start, stop in ((0, 1), (21, 23), (40, 95), (99, 100), (50, 50)):
        part = order.items(start, stop)
        for name in ("epoch", "sample", "repeat"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[start:stop])


def test_without_shuffle_the_selection_order_is_kept():
    items = Order(4, repeats=2, shuffle="none").items(0, 10)
    assert items.sample.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert items.repeat.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]


SHARDS = np.array([0, 3, 10, 11, 20, 24, 31])  # of 3, 7, 1, 9, 4 and 7 samples


def blocks(k, **options):
    return Order(31, shuffle=f"blocks:{k}", shards=SHARDS, **options)


@pytest.mark.parametrize("k", [1, 2, 4, 6, 100])
@pytest.mark.parametrize(("repeats", "together"), [(1, 1), (4, 1), (4, 2), (6, 6)])
def test_blocks_cover_every_item_once_an_epoch_and_start_anywhere(k, repeats, together):
    order = blocks(k, seed=2, repeats=repeats, together=together)
    length = 31 * repeats
    whole = order.items(0, 4 * length)
    for epoch in range(4):
        part = slice(epoch * length, (epoch + 1) * length)
        assert set(whole.epoch[part].tolist()) == {epoch}
        pairs = set(zip(whole.sample[part].tolist(), whole.repeat[part].tolist(), strict=True))
        assert pairs == {(s, r) for s in range(31) for r in range(repeats)}
    for start, stop in ((length + 1, length + 2), (2 * length - 3, 2 * length + 5), (7, 7)):
        part = blocks(k, seed=2, repeats=repeats, together=together).items(start, stop)
        assert np.array_equal(part.sample, whole.sample[start:stop])
        assert np.array_equal(part.repeat, whole.repeat[start:stop])


WIDE = np.concatenate([[0], np.cumsum(np.random.default_rng(0).integers(40, 60, 12))])  # 12 shards


def shards_of(epoch, **options):
    """The shard of every item of an epoch."""
    order = Order(int(WIDE[-1]), shards=WIDE, **options)
    items = order.items(epoch * order.epoch_length, (epoch + 1) * order.epoch_length)
    return np.searchsorted(WIDE, items.sample, side="right") - 1


@pytest.mark.parametrize("k", [1, 2, 4, 11, 12, 50])
@pytest.mark.parametrize("repeats", [1, 3])
def test_items_come_from_k_shards_of_which_one_is_exchanged_at_a_time(k, repeats):
    for epoch in range(6):
        shard = shards_of(epoch, shuffle=f"blocks:{k}", seed=5, repeats=repeats)
        stretch = 40 * repeats - min(k, 12)  # of less than a stage, which has about the items of a shard
        seen = [len(np.unique(shard[at : at + stretch])) for at in range(len(shard) - stretch)]
        assert max(seen) <= min(k + 1, 12) and np.mean(seen) > 0.8 * min(k, 12)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_a_cache_of_k_and_one_shards_is_enough(k):
    """It fetches a shard once an epoch, and k − 1 of them twice: the window goes round in a circle."""
    kept, epochs = [], 5
    for epoch in range(epochs):
        fetched = []
        for shard in shards_of(epoch, shuffle=f"blocks:{k}", seed=1).tolist():
            if shard in kept:
                kept.remove(shard)
            else:
                fetched.append(shard)
            kept = [*kept, shard][-(k + 1) :]
        assert len(fetched) - len(set(fetched)) <= k - 1


def test_shards_meet_others_in_every_epoch_and_their_samples_too():
    met = []
    for epoch in range(40):
        order = Order(int(WIDE[-1]), shards=WIDE, shuffle="blocks:3", seed=7)
        sample = order.items(epoch * order.n, (epoch + 1) * order.n).sample
        shard = np.searchsorted(WIDE, sample, side="right") - 1
        met.append(frozenset(shard[:30].tolist()))
        assert abs(np.corrcoef(sample[shard == 4], np.arange((shard == 4).sum()))[0, 1]) < 0.6
    assert len(set(met)) > 20
    first = [np.flatnonzero(shards_of(epoch, shuffle="blocks:3", seed=7) == 4)[0] for epoch in range(40)]
    assert np.std(first) > 100  # of about 600 places


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 50, 1000])
def test_permutations_of_many_things_at_once(n):
    which = np.repeat(np.arange(30), n)
    keys = np.arange(8, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    values = np.tile(np.arange(n), 30)
    images = permute_each(values, np.full(30 * n, n), keys, which).reshape(30, n)
    assert all(sorted(image) == list(range(n)) for image in images.tolist())
    assert len({tuple(image) for image in images.tolist()}) > (1 if n > 1 else 0) * min(30, math.factorial(n)) // 2
    mixed = np.array([1, 7, 300, 12, 2])
    alone = [permute_each(np.array([0]), np.array([size]), keys, np.array([i]))[0] for i, size in enumerate(mixed)]
    assert permute_each(np.zeros(5, np.int64), mixed, keys, np.arange(5)).tolist() == alone


def test_items_that_belong_together_are_neighbours_and_their_groups_are_shuffled():
    order = Order(50, seed=3, repeats=6, together=3)
    items = order.items(0, 300)
    groups = items.sample.reshape(-1, 3)
    assert (groups == groups[:, :1]).all()
    assert sorted(map(tuple, np.column_stack([groups[:, 0], items.repeat.reshape(-1, 3)]).tolist())) == [
        (s, *r) for s in range(50) for r in ((0, 1, 2), (3, 4, 5))
    ]
    assert (groups[1:, 0] == groups[:-1, 0]).mean() < 0.1
    assert np.array_equal(
        Order(50, seed=3, repeats=6, together=1).items(0, 600).sample, Order(50, seed=3, repeats=6).items(0, 600).sample
    )


def test_streams_are_other_orders():
    first, second = (Order(1000, seed=3, stream=stream).items(0, 1000).sample for stream in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    plain = Order(2**33, seed=2**40).items(5, 9).sample
    assert np.array_equal(plain, permute(np.arange(5, 9), 2**33, seed=2**40, epoch=0))


def test_places_of_shards_in_a_selection():
    firsts = np.array([0, 10, 20, 30])
    assert shard_places(firsts, np.arange(35)).tolist() == [0, 10, 20, 30, 35]
    assert shard_places(firsts, np.array([2, 3, 11, 31, 34])).tolist() == [0, 2, 3, 5]
    assert shard_places(firsts, np.array([20])).tolist() == [0, 1]


def test_values_are_pinned():
    """Resuming a run needs the same order for ever; a change here needs a new format of run folders."""
    assert permute(np.arange(10), 10, seed=0, epoch=0).tolist() == PINNED_10
    assert Order(9537, seed=1, repeats=10).items(10**6, 10**6 + 5).sample.tolist() == PINNED_LATE
    assert blocks(2, seed=1, repeats=2).items(100, 108).sample.tolist() == PINNED_BLOCKS


PINNED_10 = [4, 3, 6, 0, 2, 7, 8, 9, 5, 1]
PINNED_LATE = [4968, 1180, 7062, 2878, 4436]
PINNED_BLOCKS = [9, 8, 17, 10, 15, 13, 14, 15]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"n": 0}, "--split"),
        ({"n": 3, "repeats": 0}, "repeats"),
        ({"n": 3, "seed": -1}, "seed"),
        ({"n": 3, "shuffle": "blocks"}, "blocks:16"),
        ({"n": 3, "shuffle": "blocks:0"}, "blocks:16"),
        ({"n": 3, "shuffle": "some"}, "full, none"),
        ({"n": 3, "repeats": 3, "together": 2}, "--set data.repeats=4"),
        ({"n": 3, "together": 0}, "clips_per_read is 0"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, word):
    with pytest.raises(UserError, match=word):
        Order(**options)
