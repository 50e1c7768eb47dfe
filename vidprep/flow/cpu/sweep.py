"""Inner iterations of TV-L1: the primal and the dual update of several iterations in one sweep over the image.

Source: Zach, Pock, Bischof (2007); Sánchez Pérez, Meinhardt-Llopis, Facciolo, IPOL 2013, equations as in OpenCV's
DualTVL1OpticalFlow. With ρ(u) = ρc + ∇I·u, g = |∇I|, n = ∇I/g one iteration is

    u ← u − n·clamp(ρ(u)/g, ±λθg) + div P        (P is θ times the paper's dual variable p)
    P ← (P + τ∇u) / (1 + τ/θ |∇u|)

An image lives in one flat float32 array, row after row; a row is 16 lines of `pitch` floats (a guard vector of zeros,
then the columns, then zeros up to whole vectors): ρc/g, n1, n2, λθg and two slots of u1, u2, P11, P12, P21, P22. One
row of zeros lies above the image.

One iteration reads and writes 64 bytes a pixel, and frames exceed the caches, so memory would set the time, above all
on a machine with a process on every core. `sweep` can therefore run several iterations at once, each one row behind
the one before it, over rows that stay in the second-level cache. It gives the same numbers as one iteration after the
other: when iteration k updates u of row y and then P of row y−1, iteration k−1 is through with P of row y and above.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vidprep.flow.cpu.jit import kernel
from vidprep.flow.cpu.simd import fma, fnma, load, maximum, minimum, splat, sqrt, store

LINES = 16  # lines of a row
SLOT = 6  # lines of a slot
CONSTANTS = 4
MAX_STEPS = 3  # most iterations in one sweep


@kernel
def _primal(A: Any, x: int, c: int, s: int, up: int, pitch: int) -> Any:
    """Updates of u1 and u2 at columns x..x+15; c, s, up as in `_row`."""
    n1 = load(A, c + pitch + x)
    n2 = load(A, c + 2 * pitch + x)
    most = load(A, c + 3 * pitch + x)
    rho = fma(n2, load(A, s + pitch + x), fma(n1, load(A, s + x), load(A, c + x)))
    rho = minimum(maximum(rho, splat(np.float32(0)) - most), most)
    p = s + 2 * pitch + x
    q = up + 2 * pitch + x
    d1 = (load(A, p) - load(A, p - 1)) + (load(A, p + pitch) - load(A, q + pitch))
    p += 2 * pitch
    q += 2 * pitch
    d2 = (load(A, p) - load(A, p - 1)) + (load(A, p + pitch) - load(A, q + pitch))
    return fnma(rho, n1, d1), fnma(rho, n2, d2)


@kernel
def _dual(
    A: Any, x: int, u: int, s: int, below1: Any, below2: Any, pitch: int, tau: Any, taut: Any, inside: Any
) -> None:
    """Update P at columns x..x+15 of the row whose destination slot is u and source slot is s.

    below1, below2: the new u one row below. `inside` is 1 up to the last but one column, then 0: there the forward
    difference ends.
    """
    one = splat(np.float32(1))
    tiny = splat(np.float32(1e-30))  # keeps squares out of the subnormal numbers, which are slow
    mask = load(inside, x)
    u1 = load(A, u + x)
    u2 = load(A, u + pitch + x)
    ax = (load(A, u + x + 1) - u1) * mask
    ay = below1 - u1
    bx = (load(A, u + pitch + x + 1) - u2) * mask
    by = below2 - u2
    g1 = fma(taut, sqrt(fma(ax, ax, fma(ay, ay, tiny))), one)
    g2 = fma(taut, sqrt(fma(bx, bx, fma(by, by, tiny))), one)
    both = one / (g1 * g2)  # one division for two
    r1 = both * g2
    r2 = both * g1
    p = s + 2 * pitch + x
    q = u + 2 * pitch + x
    store(A, q, fma(tau, ax, load(A, p)) * r1)
    store(A, q + pitch, fma(tau, ay, load(A, p + pitch)) * r1)
    store(A, q + 2 * pitch, fma(tau, bx, load(A, p + 2 * pitch)) * r2)
    store(A, q + 3 * pitch, fma(tau, by, load(A, p + 3 * pitch)) * r2)


@kernel
def _row(
    A: Any,
    o: int,
    s: int,
    d: int,
    y: int,
    rows: int,
    width: int,
    pitch: int,
    tau: Any,
    taut: Any,
    inside: Any,
    total: Any,
) -> Any:
    """Update u of row y and then P of row y−1; returns `total` plus the squared updates.

    o: offset of row y in A; s, d: offsets of source and destination slot in a row. Rows 0 and `rows` have one half
    only.
    """
    above = o - LINES * pitch
    if y == rows:
        for x in range(0, width, 16):
            below1 = load(A, above + d + x)
            below2 = load(A, above + d + pitch + x)
            _dual(A, x, above + d, above + s, below1, below2, pitch, tau, taut, inside)
        return total
    for x in range(0, width, 16):
        d1, d2 = _primal(A, x, o, o + s, above + s, pitch)
        total = fma(d2, d2, fma(d1, d1, total))
        d1 = load(A, o + s + x) + d1
        d2 = load(A, o + s + pitch + x) + d2
        store(A, o + d + x, d1)
        store(A, o + d + pitch + x, d2)
        if y > 0:
            _dual(A, x, above + d, above + s, d1, d2, pitch, tau, taut, inside)
    return total


@kernel
def sweep(
    A: Any, rows: int, width: int, pitch: int, source: int, steps: int, tau: Any, taut: Any, inside: Any, errors: Any
) -> int:
    """Run `steps` iterations from slot `source`; returns the slot that holds the result.

    A single step works in place; several leave the source slot as it was, so that the caller can go back. `width` is a
    multiple of 16. Entry 16·i.. of `errors` receives the squared update of iteration i, lane by lane.
    """
    target = source if steps == 1 else 1 - source
    first = (CONSTANTS + SLOT * source) * pitch
    later = (CONSTANTS + SLOT * target) * pitch
    for k in range(steps):
        store(errors, 16 * k, splat(np.float32(0)))
    for t in range(rows + steps):
        for k in range(max(t - rows, 0), min(t + 1, steps)):
            y = t - k
            s = first if k == 0 else later
            o = 16 + (y + 1) * LINES * pitch
            total = load(errors, 16 * k)
            total = _row(A, o, s, later, y, rows, width, pitch, tau, taut, inside, total)
            store(errors, 16 * k, total)
    return target
