"""Going through mapped files without keeping them in memory."""

from __future__ import annotations

import mmap
import zlib

import numpy as np
import numpy.typing as npt

_CHUNK = 16 << 20


def checksum(data: npt.NDArray[np.uint8], start: int = 0) -> int:
    """CRC-32 (as in zlib) of `data` from byte `start` on; pages of a mapped file are given back as they are done.

    A process that has looked at all of a table of a million samples would otherwise seem to hold it.
    """
    crc = 0
    for at in range(start, data.size, _CHUNK):
        crc = zlib.crc32(data[at : at + _CHUNK].data, crc)
        _forget(data)
    return crc


def _forget(data: npt.NDArray[np.uint8]) -> None:
    """Drop the pages of the file that `data` is all of, if it is; what is looked at again is mapped again."""
    base: object = data.base
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
