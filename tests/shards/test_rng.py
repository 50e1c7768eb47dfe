"""Random numbers depend on all five numbers and on nothing else."""

import numpy as np
import pytest

from shards.errors import UserError
from shards.rng import rng_for


def test_same_numbers_same_stream():
    assert np.array_equal(rng_for(1, 2, 3, 4, 5).random(8), rng_for(1, 2, 3, 4, 5).random(8))


def test_every_argument_matters():
    base = (1, 2, 3, 4, 5)
    streams = {rng_for(*base).random()}
    for place in range(5):
        changed = list(base)
        changed[place] += 1
        streams.add(rng_for(*changed).random())
    streams.add(rng_for(1 + 2**32, 2, 3, 4, 5).random())
    assert len(streams) == 7


def test_neighbouring_items_are_unrelated():
    first = np.array([rng_for(0, 0, sample).random(4) for sample in range(2000)])
    assert np.allclose(first.mean(axis=0), 0.5, atol=5 * np.sqrt(1 / 12 / 2000))
    correlation = np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(2000)


def test_values_are_pinned():
    """A resumed run draws what the killed one would have drawn, also with a later version of NumPy."""
    assert rng_for(0, 1, 2, 3, 4).random(3).tolist() == PINNED


PINNED = [0.6388135425105009, 0.8995136491742205, 0.2265946598196401]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed):
    with pytest.raises(UserError, match="seed"):
        rng_for(seed, 0, 0)
