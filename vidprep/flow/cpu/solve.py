"""The whole TV-L1 solver for one pair of frames as one compiled function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vidprep.flow.cpu.jit import entry, kernel, sources_digest
from vidprep.flow.cpu.median import median
from vidprep.flow.cpu.pyramid import resize
from vidprep.flow.cpu.simd import LANES, load, splat, store, sum_lanes
from vidprep.flow.cpu.sweep import CONSTANTS, LINES, MAX_STEPS, SLOT, sweep
from vidprep.flow.cpu.warp import data_term, interleave


@kernel
def row_pitch(w: int) -> int:
    """Floats from one line of a row to the next: a guard vector, then whole vectors.

    Not a multiple of 1 KiB, which would put all lines of a row into the same few cache sets.
    """
    pitch = (w + LANES - 1) // LANES * LANES + LANES
    return pitch + LANES if pitch % 256 == 0 else pitch


@kernel
def _steps(error: Any, before: Any, limit: Any, left: int, pixels: int) -> int:
    """How many iterations to run before the next look at the errors, from the decay between the last two.

    Going past the end costs the repetition of the sweep, so the guess is cautious (replayed on the errors of six
    pairs of frames: 1.5 % more iterations).
    """
    if pixels <= 2**14 or left < 2:  # in the second-level cache anyway
        return 1
    if error == np.inf:
        return 2
    if before > error:
        steps = int(0.3 * math.log(error / limit) / math.log(before / error)) if before < np.inf else 1
        return max(1, min(steps, MAX_STEPS, left))
    return 1


@kernel
def _iterate(
    A: Any,
    h: int,
    width: int,
    pitch: int,
    slot: int,
    most: int,
    limit: Any,
    tau: Any,
    taut: Any,
    inside: Any,
    errors: Any,
) -> Any:
    """Up to `most` iterations, ending after the first whose squared update is at most `limit`.

    Returns (slot of the result, last squared update, iterations).
    """
    error = before = np.float32(np.inf)
    done = 0
    while done < most and error > limit:
        steps = _steps(error, before, limit, most - done, h * width)
        target = sweep(A, h, width, pitch, slot, steps, tau, taut, inside, errors)
        last = steps
        for k in range(steps):
            before, error = error, sum_lanes(load(errors, LANES * k))
            if error <= limit:
                last = k + 1
                break
        if last < steps:  # went past the end: repeat from the slot that several steps leave alone
            if last == 1:  # a single step works in place, so its result is in the source slot
                target = slot
            sweep(A, h, width, pitch, slot, last, tau, taut, inside, errors)
        slot = target
        done += last
    return slot, error, done


@kernel
def _solve_level(
    A: Any, h: int, w: int, first: Any, first_at: int, pixels: Any, coefficients: Any, scratch: Any, plane: Any,
    ranks: Any, masks: Any, errors: Any, columns: Any, corners: Any, shares: Any, warps: int, inner: int, outer: int,
    size: int, limit: Any, tau: Any, taut: Any, most: Any,
) -> Any:  # fmt: skip
    """Improve the flow in slot 0 of A; returns (slot of the result, iterations)."""
    width = (w + LANES - 1) // LANES * LANES
    pitch = row_pitch(w)
    row = LINES * pitch
    o = LANES + row
    inside, valid = masks[:width], masks[width : 2 * width]
    slot = 0
    iterations = 0
    for _ in range(warps):
        data_term(
            A, o, row, pitch, (CONSTANTS + SLOT * slot) * pitch, first, first_at, h, w,
            pixels, coefficients, most, scratch, columns, corners, shares,
        )  # fmt: skip
        error = np.float32(np.inf)
        for _ in range(outer):
            if error <= limit:
                break
            if size > 1:
                u = o + (CONSTANTS + SLOT * slot) * pitch
                median(A, u, row, h, w, size, plane, ranks, valid)
                median(A, u + pitch, row, h, w, size, plane, ranks, valid)
            slot, error, done = _iterate(
                A, h, width, pitch, slot, inner, limit, splat(tau), splat(taut), inside, errors
            )
            iterations += done
    return slot, iterations


@kernel
def _clear(A: Any, h: int, pitch: int) -> None:
    """Zero what is read before it is written: the row above the image, the guards, P of slot 0."""
    zero = splat(np.float32(0))
    row = LINES * pitch
    for k in range(0, LANES + row, LANES):
        store(A, k, zero)
    for y in range(h):
        o = LANES + (y + 1) * row
        for line in range(LINES):
            store(A, o + line * pitch - LANES, zero)
        for k in range(o + CONSTANTS * pitch, o + (CONSTANTS + SLOT) * pitch, LANES):
            store(A, k, zero)


@kernel
def _build(frame: Any, sizes: Any, step: float, levels: Any, places: Any, shares: Any, lines: Any) -> None:
    """Write the pyramid of `frame`, one level after the other, into `levels`."""
    h, w = sizes[0]
    for y in range(h):
        for x in range(w):
            levels[LANES + y * w + x] = frame[y, x]
    at = LANES
    for i in range(1, len(sizes)):
        h, w = sizes[i - 1]
        rows, columns = sizes[i]
        to = at + h * w
        resize(
            levels,
            at,
            w,
            h,
            w,
            levels,
            to,
            columns,
            rows,
            columns,
            1 / step,
            1 / step,
            np.float32(1),
            places,
            shares,
            lines,
        )
        at = to


def _make_solver(version: str) -> Callable[..., int]:
    def solve(
        first: Any, second: Any, flow: Any, sizes: Any, step: float, warps: int, inner: int, outer: int,
        size: int, epsilon: float, tau: Any, taut: Any, most: Any, coefficients: Any,
        A: Any, levels0: Any, levels1: Any, pixels: Any, plane: Any, ranks: Any, scratch: Any, masks: Any, errors: Any,
        places: Any, shares: Any, lines: Any, coarse: Any, columns: Any, corners: Any, fractions: Any,
    ) -> int:  # fmt: skip
        """Flow from `first` to `second` ((h, w) float32, 0..255) into `flow` (h, w, 2).

        Returns the number of inner iterations. From A on all arguments are scratch of `Workspace`.
        """
        _ = version  # in the closure, so in the cache key
        _build(first, sizes, step, levels0, places, shares, lines)
        _build(second, sizes, step, levels1, places, shares, lines)
        iterations = 0
        at = LANES  # room for reads just before an image
        for i in range(len(sizes)):
            at += sizes[i, 0] * sizes[i, 1]
        for i in range(len(sizes) - 1, -1, -1):
            h, w = sizes[i]
            at -= h * w
            width = (w + LANES - 1) // LANES * LANES
            pitch = row_pitch(w)
            row = LINES * pitch
            o = LANES + row
            _clear(A, h, pitch)
            for k in range(width):
                masks[k] = np.float32(1) if k < w - 1 else np.float32(0)
                masks[width + k] = np.float32(1) if k < w else np.float32(0)
                for j in range(3):
                    scratch[j * width + k] = np.float32(0)
            if i + 1 < len(sizes):
                ch, cw = sizes[i + 1]
                factor = np.float32(1 / step)
                for j in range(2):
                    resize(
                        coarse, j * ch * cw, cw, ch, cw, A, o + (CONSTANTS + j) * pitch, row, h, w,
                        1 / (h / ch), 1 / (w / cw), factor, places, shares, lines,
                    )  # fmt: skip
            interleave(levels1, at, h, w, pixels)
            limit = np.float32(epsilon * epsilon * (h * w))
            slot, done = _solve_level(
                A, h, w, levels0, at, pixels, coefficients, scratch, plane, ranks, masks, errors,
                columns, corners, fractions, warps, inner, outer, size, limit, tau, taut, most,
            )  # fmt: skip
            iterations += done
            for j in range(2):
                line = o + (CONSTANTS + SLOT * slot + j) * pitch
                for y in range(h):
                    for x in range(w):
                        if i > 0:
                            coarse[(j * h + y) * w + x] = A[line + y * row + x]
                        else:
                            flow[y, x, j] = A[line + y * row + x]
        return iterations

    return entry(solve)


solve_pair = _make_solver(sources_digest())
