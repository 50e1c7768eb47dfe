"""The 13 appearance numbers of a clip, from its RGB frames."""

from __future__ import annotations

import threading

import numba
import numpy as np
import numpy.typing as npt

from shards.errors import UserError
from vidprep.statistics.regions import PATTERN_SIZES, Variant, check_side, check_variant, regions

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]


def appearance_labels(rgb: ByteArray, *, variant: Variant = "corrected") -> IntArray:
    """Which regions of a clip change most and least in colour, and their dominant colours.

    A region's consistency is the mean over channels of the intersection over union of its 256-bin histograms in all
    frames; the most diverse region has the lowest, the most consistent the highest, ties to the lowest number. The
    dominant colour of a region is the octant of its most frequent exact 24-bit colour in all frames together.

    Args:
        rgb: (T,S,S,3) uint8 RGB, or (N,T,S,S,3). S is a multiple of 8.
        variant: "reference" reproduces the reference code bit for bit, including the wrong pixels that it takes for
            the colour of ring 2; "corrected" takes the ring's own.

    Returns:
        (13,) or (N,13) int64 in the order of `APPEARANCE_NAMES`.

    Raises:
        UserError: wrong shape or dtype, no frame, or "reference" with fewer than two frames.

    Source: `sts/compute_appearance_statistics.py` of the reference (arXiv 2008.13426, section 3).
    """
    check_variant(variant)
    rgb = np.asarray(rgb)
    if rgb.ndim == 5:
        return np.stack([appearance_labels(clip, variant=variant) for clip in rgb])
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        raise UserError(f"rgb must be (T,S,S,3) or (N,T,S,S,3) uint8; got {rgb.shape} {rgb.dtype}")
    check_side(rgb.shape[1], rgb.shape[2])
    if rgb.shape[0] < (2 if variant == "reference" else 1):
        raise UserError(f"a clip of {rgb.shape[0]} frames is too short for variant {variant!r}")
    rgb = np.ascontiguousarray(rgb)
    table = regions(rgb.shape[1])
    lowest, highest = _histogram_extremes(rgb.reshape(rgb.shape[0], -1, 3), table.cells.ravel(), table.members)
    # The reference averages the channels in the order B, G, R; with float64 sums the order can decide a tie.
    score = (lowest.sum(2) / highest.sum(2))[:, ::-1].sum(axis=1) / 3
    coded = _coded(rgb)
    labels = []
    for pattern, (first, size) in enumerate(zip((0, 16, 20), PATTERN_SIZES, strict=True)):
        part = score[first : first + size]
        for best in (int(np.argmin(part)), int(np.argmax(part))):
            if variant == "reference" and pattern == 1 and best == 1:
                codes = _reference_ring_2(coded)
            else:
                codes = _gather(coded, table.cells, table.members[first + best])
            labels += [best + 1, _octant(_mode(codes))]
    labels.append(_octant(_mode(coded.ravel())))
    return np.array(labels, np.int64)


def _octant(colour: int) -> int:
    """Label 1..8 of a packed colour: 4·[B low] + 2·[R high] + [G high] + 1."""
    blue, green, red = colour >> 16, colour >> 8 & 255, colour & 255
    return 4 * (blue < 128) + 2 * (red >= 128) + (green >= 128) + 1


def _reference_ring_2(coded: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The pixels that the reference takes for ring 2: a comma missing in its last slice adds the first two frames of
    the whole square, centre blacked out, in place of the bottom strip (reference/statistics.md section 12.1)."""
    eighth = coded.shape[1] // 8
    square = coded[:, 2 * eighth : 6 * eighth, 2 * eighth : 6 * eighth].copy()
    square[:, eighth : 3 * eighth, eighth : 3 * eighth] = 0
    middle = square[:, eighth : 3 * eighth]
    strips = (square[:, :eighth], middle[:, :, :eighth], middle[:, :, 3 * eighth :], square[:2])
    return np.concatenate([s.ravel() for s in strips])


@numba.njit(cache=True)
def _histogram_extremes(
    frames: ByteArray, cells: npt.NDArray[np.int32], members: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Least and greatest count over the frames of every (region, channel, value): two (28,3,256) int32 arrays.

    Pixels are counted once, by the finest piece they lie in; regions add up their pieces.
    """
    n_regions, pieces = members.shape
    low = np.full((n_regions, 3, 256), 2**31 - 1, np.int32)
    high = np.zeros((n_regions, 3, 256), np.int32)
    counts = np.empty((pieces, 3, 256), np.int32)
    region = np.empty((3, 256), np.int32)
    for t in range(frames.shape[0]):
        counts[:] = 0
        for pixel in range(frames.shape[1]):
            piece = cells[pixel]
            counts[piece, 0, frames[t, pixel, 0]] += 1
            counts[piece, 1, frames[t, pixel, 1]] += 1
            counts[piece, 2, frames[t, pixel, 2]] += 1
        for r in range(n_regions):
            region[:] = 0
            for piece in range(pieces):
                if members[r, piece]:
                    for channel in range(3):
                        for value in range(256):
                            region[channel, value] += counts[piece, channel, value]
            for channel in range(3):
                for value in range(256):
                    low[r, channel, value] = min(low[r, channel, value], region[channel, value])
                    high[r, channel, value] = max(high[r, channel, value], region[channel, value])
    return low, high


@numba.njit(cache=True)
def _coded(rgb: ByteArray) -> npt.NDArray[np.uint32]:
    """(T,S,S) colours as 24-bit codes: the 5, 6 and 5 upper bits of blue, green and red above the other eight.

    Colours that are near each other get codes, and so counters, that are near each other in memory.
    """
    value = np.arange(256).astype(np.uint32)
    red = (value >> 3) << 8 | value & 7
    green = (value >> 2) << 13 | (value & 3) << 3
    blue = (value >> 3) << 19 | (value & 7) << 5
    coded = np.empty(rgb.shape[:3], np.uint32)
    pixels, flat = rgb.reshape(-1, 3), coded.reshape(-1)
    for i in range(flat.size):
        flat[i] = red[pixels[i, 0]] | green[pixels[i, 1]] | blue[pixels[i, 2]]
    return coded


@numba.njit(cache=True)
def _decoded(code: int) -> int:
    """The colour of a code as B·65536 + G·256 + R, the order in which the reference breaks ties."""
    bucket, rest = code >> 8, code & 255
    b = (bucket >> 11) << 3 | rest >> 5
    g = (bucket >> 5 & 63) << 2 | rest >> 3 & 3
    r = (bucket & 31) << 3 | rest & 7
    return b << 16 | g << 8 | r


@numba.njit(cache=True)
def _gather(
    coded: npt.NDArray[np.uint32], cells: npt.NDArray[np.int32], member: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint32]:
    """Colours of one region in all frames."""
    inside = np.flatnonzero(member[cells.reshape(-1)])
    frames = coded.reshape(coded.shape[0], -1)
    out = np.empty(coded.shape[0] * inside.size, np.uint32)
    n = 0
    for t in range(coded.shape[0]):
        for pixel in inside:
            out[n] = frames[t, pixel]
            n += 1
    return out


def _mode(codes: npt.NDArray[np.uint32]) -> int:
    """Most frequent colour of (P,) codes as B·65536 + G·256 + R, ties to the smallest."""
    if not hasattr(_local, "counts"):
        _local.counts = np.zeros(1 << 24, np.uint32)
    return int(_count_colours(codes, _local.counts))


# One counter a colour for each thread: 64 MiB of addresses, of which only the pages of colours seen are backed, cleared
# by walking the codes again. Making it anew for every region would cost more than all the rest.
_local = threading.local()


@numba.njit(cache=True)
def _count_colours(codes: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint32]) -> int:
    best_count, best_code = np.uint32(0), np.uint32(0)
    for code in codes:
        count = counts[code] + np.uint32(1)
        counts[code] = count
        if count >= best_count and (count > best_count or _decoded(code) < _decoded(best_code)):
            best_count, best_code = count, code
    for code in codes:
        counts[code] = 0
    return _decoded(best_code)
