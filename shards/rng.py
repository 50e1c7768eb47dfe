"""Random numbers as a function of what they are for, so that nothing random is stored or shared."""

from __future__ import annotations

import numpy as np

from shards.errors import UserError

_WORD = 1 << 32


def rng_for(seed: int, epoch: int, sample: int, repeat: int = 0, stream: int = 0) -> np.random.Generator:
    """Generator for one item of an epoch.

    Args:
        seed: the run's seed, 0 to 2**64 − 1.
        epoch: number of the epoch, from 0.
        sample: number of the sample in its data set.
        repeat: which of the recipe's several clips of this video in this epoch.
        stream: separates independent uses by the same item.

    All but the seed are below 2**32. The same five numbers give the same stream on every machine, worker and rank.
    """
    if not 0 <= seed < _WORD * _WORD:
        raise UserError(f"the seed is {seed}; allowed are 0 to 2**64 − 1")
    # An array of 32-bit words costs SeedSequence a tenth of what a tuple of Python integers costs.
    words = np.array((seed % _WORD, seed // _WORD, epoch, sample, repeat, stream), dtype=np.uint32)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
