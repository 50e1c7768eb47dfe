"""Order: a permutation of every epoch, even over small selections, the same at any position from any start."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from shards.errors import UserError
from shards.order import Order, permute


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
    items = Order(4, repeats=2, shuffle=False).items(0, 10)
    assert items.sample.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert items.repeat.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]


def test_values_are_pinned():
    """Resuming a run needs the same order for ever; a change here needs a new format of run folders."""
    assert permute(np.arange(10), 10, seed=0, epoch=0).tolist() == PINNED_10
    assert Order(9537, seed=1, repeats=10).items(10**6, 10**6 + 5).sample.tolist() == PINNED_LATE


PINNED_10 = [4, 3, 6, 0, 2, 7, 8, 9, 5, 1]
PINNED_LATE = [4968, 1180, 7062, 2878, 4436]


@pytest.mark.parametrize(
    ("options", "word"), [({"n": 0}, "--split"), ({"n": 3, "repeats": 0}, "repeats"), ({"n": 3, "seed": -1}, "seed")]
)
def test_wrong_options_say_what_is_allowed(options, word):
    with pytest.raises(UserError, match=word):
        Order(**options)
