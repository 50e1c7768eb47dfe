"""What duplicates are found by: hashes of a few frames of every video, and thumbnails of all frames of suspects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.errors import DataError

HASH_SECONDS = 0.25
"""Time from one hashed frame to the next."""

THUMB_RATE = 15.0
"""Thumbnails a second, at which suspects are compared."""

THUMB = 16
DETAILED = 32

_MOST_HASHED = 256  # of one video; longer videos are hashed every 0.5, 1, 2 … seconds, so that their times still meet
_SIDE = 9
_MOST_KEPT = 1024  # frames: a megabyte
_TOGETHER = 64  # frames of an encoded video that are decoded at once
_FLAT = 2.0  # standard deviation of a frame (of 255) below which it looks like any other

Hashes = npt.NDArray[np.uint64]
Thumbs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FrameHashes:
    """Of one video: `hashes` (n,2) uint64 of the frames that are not flat, `times` (n,) seconds since its start."""

    hashes: Hashes
    times: npt.NDArray[np.float32]


def hash_video(dataset: Dataset, i: int) -> FrameHashes:
    """Hashes of frames every quarter of a second.

    A hash has 64 bits that say which of two neighbours in a 9 x 9 picture is brighter, to the right, and 64 downwards;
    so size, compression and brightness hardly change it. (dHash: N. Krawetz, "Kind of Like That", hackerfactor.com
    2013.)

    Raises:
        DataError: stored frames are damaged.
    """
    seconds = (dataset.times_us(i, dataset.columns[0]) / 1e6).astype(np.float64)
    step = HASH_SECONDS
    while len(seconds) and seconds[-1] / step >= _MOST_HASHED:
        step *= 2
    wanted = nearest(seconds, np.arange(0.0, seconds[-1] + 1e-6, step)) if len(seconds) else np.empty(0, np.int64)
    wanted = np.unique(wanted)
    small = _small(dataset, i, wanted.tolist(), _SIDE)
    telling = small.reshape(len(small), -1).std(axis=1) >= _FLAT
    small, wanted = small[telling], wanted[telling]
    right = small[:, :8, 1:] > small[:, :8, :-1]
    down = small[:, 1:, :8] > small[:, :-1, :8]
    bits = np.stack([right.reshape(len(small), 64), down.reshape(len(small), 64)], axis=1)
    hashes = np.packbits(bits, axis=2).view("<u8").reshape(len(small), 2)
    return FrameHashes(hashes.astype(np.uint64), seconds[wanted].astype(np.float32))


class Thumbnails:
    """Thumbnails of one video, called with seconds since its start; the small ones of a short video are kept.

    Attributes:
        length: seconds from the first frame to the last.
    """

    def __init__(self, dataset: Dataset, i: int) -> None:
        self._dataset, self._number = dataset, i
        self._seconds = dataset.times_us(i, dataset.columns[0]) / 1e6
        self._kept: Thumbs | None = None
        self.length = float(self._seconds[-1])

    def __call__(self, times: npt.NDArray[np.float64], *, detailed: bool = False) -> Thumbs:
        """(n,256,1) luma of 16 x 16 thumbnails of the frames nearest to `times`, or (n,1024,3) RGB of 32 x 32 ones.

        Raises:
            DataError: stored frames are damaged.
        """
        wanted = nearest(self._seconds, times)
        if detailed or len(self._seconds) > _MOST_KEPT:
            unique, back = np.unique(wanted, return_inverse=True)
            side = DETAILED if detailed else THUMB
            small = _small(self._dataset, self._number, unique.tolist(), side, colour=detailed)
            return small.reshape(len(unique), side * side, -1)[back]
        if self._kept is None:
            every = range(len(self._seconds))
            self._kept = _small(self._dataset, self._number, every, THUMB).reshape(len(every), -1, 1)
        return self._kept[wanted]


def nearest(seconds: npt.NDArray[np.float64], at: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Numbers of the frames whose times are nearest."""
    right = np.clip(np.searchsorted(seconds, at), 1, max(1, len(seconds) - 1))
    left = right - 1
    right = np.minimum(right, len(seconds) - 1)
    return np.where(at - seconds[left] <= seconds[right] - at, left, right).astype(np.int64)


def _small(dataset: Dataset, i: int, wanted: Sequence[int], side: int, *, colour: bool = False) -> Thumbs:
    """(n,side,side) float32 luma, or (n,side,side,3) RGB, averaged over areas; a JPEG is decoded at the least size that
    is enough."""
    out = np.empty((len(wanted), side, side, 3) if colour else (len(wanted), side, side), np.float32)
    if COLUMNS[dataset.meta.columns[dataset.columns[0]].kind].encoded:
        for start in range(0, len(wanted), _TOGETHER):
            frames = dataset.frames(i, wanted[start : start + _TOGETHER])
            for place, image in enumerate(frames, start):
                picture = image if colour else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
                out[place] = cv2.resize(picture.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        return out
    space = "RGB" if colour else "GRAY"
    for place, (number, data) in enumerate(zip(wanted, dataset.jpegs(i, wanted), strict=True)):
        try:
            image = simplejpeg.decode_jpeg(data, space, fastdct=True, min_height=side, min_width=side)
        except ValueError as error:
            raise DataError(
                f"{dataset.url}, sample {dataset.key(i)}: frame {number} is not the JPEG it should be ({error}); "
                f"vidprep check {dataset.url} lists all damage"
            ) from error
        out[place] = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return out
