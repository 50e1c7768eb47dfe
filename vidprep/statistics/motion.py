"""The 14 motion numbers of a clip, from its optical flow."""

from __future__ import annotations

import math

import cv2
import numba
import numpy as np
import numpy.typing as npt

from shards.errors import UserError
from vidprep.statistics.regions import PATTERN_SIZES, Variant, check_side, check_variant, regions

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

QUANTUM = 20 / 127
"""One step of the default flow codec at short side 256, in pixels."""

VOTE_BITS = 16
"""Votes are whole numbers of 2^-16 of a step, here and in `trainer.tasks.statistics`: what ties here ties there."""


def motion_labels(
    flow: FloatArray, *, variant: Variant = "corrected", frames: int | None = None, quantum: float = QUANTUM
) -> IntArray:
    """Where a clip's motion is largest, and which way it points.

    For u and v apart: motion boundaries are the (negated) Prewitt derivatives of each field, summed over the clip;
    a region's score is the sum (grid, triangles) or mean (rings) of the magnitude; its direction is the fullest of
    eight bins of 45 degrees under linear voting. The last two numbers are the fields with the largest boundaries.

    Args:
        flow: (T,S,S,2) float32, u and v in pixels, entry t leading from frame t to t+1; or (N,T,S,S,2).
            S is a multiple of 8.
        variant: "reference" sums all T entries and ranks the first T−1, as the reference code does, bit for bit.
            "corrected" uses the clip's own T−1 fields for both (entry T−1 leads out of the clip), and gives 0 to
            a region in which nothing moves.
        frames: T, when `flow` holds only the T−1 fields inside the clip; default: the length of `flow`.
        quantum: largest magnitude that still counts as motionless under "corrected": one step of the flow codec.

    Returns:
        (14,) or (N,14) int64 in the order of `MOTION_NAMES`.

    Raises:
        UserError: wrong shape or dtype, fewer than two frames, values that are not finite.

    Source: `sts/compute_motion_statistics.py` of the reference (arXiv 2008.13426, section 3).
    """
    check_variant(variant)
    flow = np.asarray(flow)
    if flow.ndim == 5:
        return np.stack([motion_labels(f, variant=variant, frames=frames, quantum=quantum) for f in flow])
    if flow.ndim != 4 or flow.shape[-1] != 2 or flow.dtype != np.float32:
        raise UserError(f"flow must be (T,S,S,2) or (N,T,S,S,2) float32; got {flow.shape} {flow.dtype}")
    check_side(flow.shape[1], flow.shape[2])
    length = flow.shape[0] if frames is None else frames
    if length < 2 or flow.shape[0] not in (length - 1, length):
        raise UserError(
            f"{flow.shape[0]} flow fields do not fit a clip of {length} frames; "
            f"give frames >= 2 and {length - 1} (or {length}) fields"
        )
    if variant == "corrected":
        flow = flow[: length - 1]
    dx, dy, frame_sums, frame_peaks = _boundaries(np.ascontiguousarray(flow))
    if not np.isfinite(frame_sums).all():
        raise UserError("flow has values that are not finite; compute it again with vidprep flow")
    still = quantum if variant == "corrected" else None
    labels = np.empty(14, np.int64)
    for component in (0, 1):
        labels[2 * component : 12 : 4], labels[2 * component + 1 : 12 : 4] = _pattern_labels(
            dx[component], dy[component], still=still, quantum=quantum, reference=variant == "reference"
        )
        best = int(np.argmax(frame_sums[component, : length - 1]))
        moved = still is None or frame_peaks[component, best] >= still
        labels[12 + component] = best + 1 if moved else 0
    return labels


def _pattern_labels(
    dx: FloatArray, dy: FloatArray, *, still: float | None, quantum: float, reference: bool
) -> tuple[list[int], list[int]]:
    """Block and direction in each of the three patterns, from the summed boundaries (S,S)."""
    # The reference's directions come from this very function, whose arctangent is approximate (0.3 degrees).
    magnitude, angle = (np.asarray(a, np.float32) for a in cv2.cartToPolar(dx, dy, angleInDegrees=True))
    table = regions(dx.shape[0])
    # Whole numbers, so that equal sums are equal in whatever order they are added, here and on a device.
    most = float(magnitude.max()) * magnitude.size
    fits = 62 - math.ceil(math.log2(most)) if most > 0 else 62
    scale = 2.0 ** min(fits, VOTE_BITS - math.floor(math.log2(quantum or QUANTUM)))
    votes, peaks = _votes(magnitude, angle, table.cells, table.pieces, scale)
    by_region = table.members.astype(np.int64) @ votes
    sums = by_region.sum(axis=1)
    scores = sums.astype(np.float64)
    scores[16:20] /= table.sizes[16:20]
    blocks, angles = [], []
    for first, size in zip((0, 16, 20), PATTERN_SIZES, strict=True):
        best = int(np.argmax(scores[first : first + size]))
        block, direction = best + 1, int(np.argmax(by_region[first + best])) + 1
        peak = peaks[table.members[first + best]].max()
        if (still is not None and peak < still) or (reference and first == 0 and sums[best] == 0):
            # In the reference only the grid search starts from 0 and finds nothing; the others answer (1, 1).
            block, direction = 0, 0
        blocks.append(block)
        angles.append(direction)
    return blocks, angles


@numba.njit(cache=True)
def _votes(
    magnitude: FloatArray, angle: FloatArray, cells: npt.NDArray[np.int32], pieces: int, scale: float
) -> tuple[IntArray, FloatArray]:
    """Magnitude of every piece in eight direction bins centred at 0, 45, …, 315 degrees with linear voting, (pieces,8)
    in units of 1/scale, and its maximum, (pieces,)."""
    votes = np.zeros((pieces, 8), np.int64)
    peaks = np.zeros(pieces, np.float32)
    for y in range(cells.shape[0]):
        for x in range(cells.shape[1]):
            piece, size = cells[y, x], magnitude[y, x]
            if size == 0:
                continue
            position = np.float64(angle[y, x]) / 45
            lower = int(position)
            share = np.int64(np.rint((position - lower) * size * scale))
            votes[piece, lower % 8] += np.int64(np.rint(size * scale)) - share
            votes[piece, (lower + 1) % 8] += share
            peaks[piece] = max(peaks[piece], size)
    return votes, peaks


@numba.njit(cache=True)
def _boundaries(
    flow: FloatArray,
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.float64], FloatArray]:
    """Motion boundaries of (T,S,S,2): their sums over time in x and y, each (2,S,S), and per component and field the
    sum and the maximum of the magnitude, each (2,T).

    A true convolution with the 3x3 Prewitt kernels, edges repeated, rounded to float32 per field: a ramp f = x
    gives −6, and −3 on the edge. Rows are worked on as they lie in memory, u and v alternating, in loops without
    reductions, which is what the compiler turns into vector code.
    """
    total, side = flow.shape[0], flow.shape[1]
    width = 2 * side
    fields = flow.reshape(total, side, width)
    sum_x = np.zeros((side, width), np.float32)
    sum_y = np.zeros((side, width), np.float32)
    sums = np.zeros((2, total), np.float64)
    peaks = np.zeros((2, total), np.float32)
    added = np.empty(width + 4, np.float64)  # sum and difference over three rows, edges repeated
    differed = np.empty(width + 4, np.float64)
    row_sums = np.empty(width, np.float64)
    row_peaks = np.empty(width, np.float32)
    for t in range(total):
        row_sums[:] = 0
        row_peaks[:] = 0
        for y in range(side):
            _three_rows(fields[t, max(y - 1, 0)], fields[t, y], fields[t, min(y + 1, side - 1)], added, differed)
            _one_row(added, differed, sum_x[y], sum_y[y], row_sums, row_peaks)
        for c in range(2):
            sums[c, t] = row_sums[c::2].sum()
            # Not ndarray.max: NaN must show, and does through the sums.
            for x in range(c, width, 2):
                peaks[c, t] = max(peaks[c, t], row_peaks[x])
    split_x, split_y = np.empty((2, side, side), np.float32), np.empty((2, side, side), np.float32)
    for c in range(2):
        split_x[c], split_y[c] = sum_x[:, c::2], sum_y[:, c::2]
    return split_x, split_y, sums, peaks


@numba.njit(cache=True)
def _three_rows(
    above: FloatArray,
    here: FloatArray,
    below: FloatArray,
    added: npt.NDArray[np.float64],
    differed: npt.NDArray[np.float64],
) -> None:
    """Vertical half of the Prewitt kernels; the two values at either end repeat the edge's u and v."""
    width = here.shape[0]
    for k in range(width):
        up, down = np.float64(above[k]), np.float64(below[k])
        added[k + 2] = up + np.float64(here[k]) + down
        differed[k + 2] = up - down
    for k in range(2):
        added[k], differed[k] = added[k + 2], differed[k + 2]
        added[width + 2 + k], differed[width + 2 + k] = added[width + k], differed[width + k]


@numba.njit(cache=True)
def _one_row(
    added: npt.NDArray[np.float64],
    differed: npt.NDArray[np.float64],
    sum_x: FloatArray,
    sum_y: FloatArray,
    row_sums: npt.NDArray[np.float64],
    row_peaks: FloatArray,
) -> None:
    """Horizontal half; adds one row of one field to the sums over time and to the field's magnitude."""
    for k in range(sum_x.shape[0]):
        dx = np.float32(added[k] - added[k + 4])
        dy = np.float32(differed[k] + differed[k + 2] + differed[k + 4])
        sum_x[k] += dx
        sum_y[k] += dy
        size = np.sqrt(dx * dx + dy * dy)
        row_sums[k] += size
        row_peaks[k] = max(row_peaks[k], size)
