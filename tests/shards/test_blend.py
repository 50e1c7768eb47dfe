"""Several orders at once: exact shares, each order whole and in its own sequence, the same from any start."""

from fractions import Fraction

import numpy as np
import pytest

from shards.blend import UNITS, Blend, shares_of
from shards.errors import UserError
from shards.order import Order


@pytest.mark.parametrize(
    ("weights", "sizes", "expected"),
    [
        ((None, None), (300, 100), (0.75, 0.25)),
        ((None, 0.3), (10, 1000), (0.7, 0.3)),
        ((None, 0.2, None), (30, 5, 10), (0.6, 0.2, 0.2)),
        ((2.0, 1.0), (7, 9), (2 / 3, 1 / 3)),
        ((0.3, 0.3), (7, 9), (0.5, 0.5)),
        ((1.0,), (7,), (1.0,)),
    ],
)
def test_shares(weights, sizes, expected):
    shares = shares_of(weights, sizes)
    assert sum(shares) == UNITS
    assert all(abs(share / UNITS - wanted) < 1e-9 for share, wanted in zip(shares, expected, strict=True))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ((None, 1.0), "leaves nothing"),
        ((0.6, 0.5, None), r"add up to 1\.1"),
        ((0.0, 1.0), "above 0"),
        ((-1.0, None), "above 0"),
        ((float("nan"), None), "above 0"),
    ],
)
def test_weights_that_make_no_shares(weights, told):
    with pytest.raises(UserError, match=told):
        shares_of(weights, [5] * len(weights))


def make(weights, sizes, *, repeats=1, together=1, **options):
    orders = tuple(
        Order(n, seed=4, repeats=repeats, together=together, stream=stream) for stream, n in enumerate(sizes)
    )
    return Blend(orders, shares_of(weights, sizes), seed=4, **options)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("together", [1, 3])
def test_every_order_is_gone_through_as_if_it_were_alone(together, shuffle):
    """The items of each, in turn, are its own positions 0, 1, 2, …, whatever the others are."""
    sizes = (50, 7, 400)
    blend = make((None, 0.3, 0.05), sizes, repeats=3, together=together, shuffle=shuffle)
    items = blend.items(0, 6000)
    starts = np.cumsum([0, *sizes])
    for order, first, last in zip(blend.orders, starts, starts[1:], strict=False):
        mine = np.flatnonzero((items.sample >= first) & (items.sample < last))
        alone = order.items(0, len(mine))
        for name, offset in (("epoch", 0), ("sample", first), ("repeat", 0)):
            assert np.array_equal(getattr(items, name)[mine] - offset, getattr(alone, name))
    if together == 3:
        assert (items.sample.reshape(-1, 3) == items.sample.reshape(-1, 3)[:, :1]).all()


@pytest.mark.parametrize("shuffle", [True, False])
def test_shares_are_kept_to_an_item_everywhere(shuffle):
    sizes = (1000, 17)
    blend = make((None, 0.3), sizes, shuffle=shuffle)
    second = blend.items(0, 3200 * 64).sample >= 1000
    for at in range(64, len(second), 64):
        assert abs(int(second[:at].sum()) - at * Fraction(3, 10)) <= 1
    per_batch = second[: 3000 * 32].reshape(-1, 32).sum(axis=1)
    assert (per_batch.std() > 1) == shuffle  # drawn, or spread evenly


def test_items_are_the_same_from_any_start():
    blend = make((None, 0.4), (90, 30), repeats=2, together=2)
    whole = blend.items(0, 9000)
    for start, stop in ((0, 1), (2047, 2050), (5000, 8999), (4096, 4096)):
        part = blend.items(start, stop)
        for name in ("epoch", "sample", "repeat"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[start:stop])


def test_by_size_an_epoch_has_every_item_about_once():
    blend = make((None, None), (3000, 1096))
    assert blend.epoch_length == 4096
    counts = np.bincount(blend.items(0, 4096).sample, minlength=4096)
    assert counts.max() <= 2 and (counts == 1).mean() > 0.999


def test_values_are_pinned():
    """Resuming needs the same blend for ever."""
    assert make((None, 0.3), (1000, 50)).items(10**6, 10**6 + 6).sample.tolist() == PINNED


PINNED = [153, 77, 1030, 556, 414, 1023]
