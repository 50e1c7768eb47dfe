"""Random numbers as a function of what they are for, so that nothing random is stored or shared."""

from __future__ import annotations

import numpy as np


def rng_for(seed: int, epoch: int, sample: int, repeat: int = 0, stream: int = 0) -> np.random.Generator:
    """Generator for one item of an epoch.

    Args:
        seed: the run's seed, >= 0.
        epoch: number of the epoch, from 0.
        sample: number of the sample in its data set.
        repeat: which of the recipe's several clips of this video in this epoch.
        stream: separates independent uses by the same item.

    The same five numbers give the same stream on every machine, worker and rank.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, sample, repeat, stream))))
