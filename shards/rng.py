"""Random numbers as a function of what they are for, so that nothing random is stored or shared."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import UserError


class _Words(np.random.bit_generator.ISeedSequence):
    """Hands a generator its first state. NumPy's SeedSequence costs as much as a tenth of a decoded frame."""

    def __init__(self, words: npt.NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[np.uint64]:
        assert (n_words, dtype) == (len(self._words), np.uint64)
        return self._words


def rng_for(seed: int, epoch: int, sample: int, repeat: int = 0, stream: int = 0) -> np.random.Generator:
    """Generator for one item of an epoch: PCG64 begun at the BLAKE2b hash of the five numbers.

    Args:
        seed: the run's seed.
        epoch: number of the epoch, from 0.
        sample: number of the sample in its data set.
        repeat: which of the recipe's several clips of this video in this epoch.
        stream: separates independent uses by the same item.

    All are 0 to 2**64 − 1. The same five numbers give the same stream on every machine, worker and rank.
    """
    try:
        numbers = struct.pack("<5Q", seed, epoch, sample, repeat, stream)
    except struct.error as error:
        raise UserError(
            f"seed {seed}, epoch {epoch}, sample {sample}, repeat {repeat}, stream {stream}: allowed are 0 to 2**64 − 1"
        ) from error
    words = np.frombuffer(hashlib.blake2b(numbers, digest_size=32).digest(), "<u8").astype(np.uint64)
    state: Any = _Words(words)  # NumPy's stubs know SeedSequence only
    return np.random.Generator(np.random.PCG64(state))
