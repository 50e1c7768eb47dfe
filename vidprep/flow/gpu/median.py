"""Median filter of the flow on the device; the network is that of `vidprep.flow.cpu.median`, in registers."""

# mypy: allow-untyped-defs
# mypy: allow-untyped-calls
# mypy: allow-untyped-decorators
# mypy: allow-incomplete-defs
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]


@triton.jit
def _two(a, b):
    return tl.minimum(a, b), tl.maximum(a, b)


@triton.jit
def _sort3(a, b, c):
    a, b = _two(a, b)
    b, c = _two(b, c)
    a, b = _two(a, b)
    return a, b, c


@triton.jit
def _sort5(a, b, c, d, e):
    a, b = _two(a, b)
    d, e = _two(d, e)
    c, e = _two(c, e)
    c, d = _two(c, d)
    b, e = _two(b, e)
    a, d = _two(a, d)
    a, c = _two(a, c)
    b, d = _two(b, d)
    b, c = _two(b, c)
    return a, b, c, d, e


@triton.jit
def _merge22(a, b, c, d):
    """Ascending (a, b) and (c, d) into one ascending list (Batcher)."""
    a, c = _two(a, c)
    b, d = _two(b, d)
    b, c = _two(b, c)
    return a, b, c, d


@triton.jit
def _merge33(a, b, c, d, e, f):
    """Ascending (a, b, c) and (d, e, f) into one ascending list (Batcher)."""
    a, c, d, f = _merge22(a, c, d, f)
    b, e = _two(b, e)
    b, c = _two(b, c)
    d, e = _two(d, e)
    return a, b, c, d, e, f


@triton.jit
def _merge34(a, b, c, d, e, f, g):
    """Ascending (a, b, c) and (d, e, f, g) into one ascending list (Batcher)."""
    a, c, d, f = _merge22(a, c, d, f)  # the odd places
    b, e = _two(b, e)  # the even places: b with e, g
    e, g = _two(e, g)
    b, c = _two(b, c)
    e, d = _two(d, e)
    g, f = _two(f, g)
    return a, b, c, e, d, g, f


@triton.jit
def _pixel(at, x, y, dx: tl.constexpr, dy: tl.constexpr, h, w):
    xs = tl.minimum(tl.maximum(x + dx, 0), w - 1)
    ys = tl.minimum(tl.maximum(y + dy, 0), h - 1)
    return tl.load(at + ys * w + xs)


@triton.jit
def _column5(at, x, y, dx: tl.constexpr, h, w):
    return _sort5(
        _pixel(at, x, y, dx, -2, h, w),
        _pixel(at, x, y, dx, -1, h, w),
        _pixel(at, x, y, dx, 0, h, w),
        _pixel(at, x, y, dx, 1, h, w),
        _pixel(at, x, y, dx, 2, h, w),
    )


@triton.jit
def _median5(at, x, y, h, w):
    a0, b0, c0, d0, e0 = _column5(at, x, y, -2, h, w)
    a1, b1, c1, d1, e1 = _column5(at, x, y, -1, h, w)
    a2, b2, c2, d2, e2 = _column5(at, x, y, 0, h, w)
    a3, b3, c3, d3, e3 = _column5(at, x, y, 1, h, w)
    a4, b4, c4, d4, e4 = _column5(at, x, y, 2, h, w)
    _, _, _, a3, a4 = _sort5(a0, a1, a2, a3, a4)
    _, _, b2, b3, b4 = _sort5(b0, b1, b2, b3, b4)
    _, c1, c2, c3, _ = _sort5(c0, c1, c2, c3, c4)
    d0, d1, d2, _, _ = _sort5(d0, d1, d2, d3, d4)
    e0, e1, _, _, _ = _sort5(e0, e1, e2, e3, e4)
    p0, p1, p2, p3 = _merge22(a3, a4, e0, e1)
    q0, q1, q2, q3, q4, q5 = _merge33(b2, b3, b4, d0, d1, d2)
    r0, r1, r2, r3, r4, r5, r6 = _merge34(c1, c2, c3, p0, p1, p2, p3)
    # the seventh of thirteen: the least maximum over all splits of seven
    best = tl.minimum(r6, tl.maximum(q0, r5))
    best = tl.minimum(best, tl.maximum(q1, r4))
    best = tl.minimum(best, tl.maximum(q2, r3))
    best = tl.minimum(best, tl.maximum(q3, r2))
    best = tl.minimum(best, tl.maximum(q4, r1))
    return tl.minimum(best, tl.maximum(q5, r0))


@triton.jit
def _column3(at, x, y, dx: tl.constexpr, h, w):
    return _sort3(_pixel(at, x, y, dx, -1, h, w), _pixel(at, x, y, dx, 0, h, w), _pixel(at, x, y, dx, 1, h, w))


@triton.jit
def _median3(at, x, y, h, w):
    a0, b0, c0 = _column3(at, x, y, -1, h, w)
    a1, b1, c1 = _column3(at, x, y, 0, h, w)
    a2, b2, c2 = _column3(at, x, y, 1, h, w)
    low = tl.maximum(tl.maximum(a0, a1), a2)
    _, middle, _ = _sort3(b0, b1, b2)
    high = tl.minimum(tl.minimum(c0, c1), c2)
    _, middle, _ = _sort3(low, middle, high)
    return middle


@triton.jit
def median(u, slots, active, pairs, h, w, SIZE: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):
    """Filter u1 and u2 of every active pair from its slot into the other; borders replicated."""
    plane = tl.program_id(2)
    b = (plane // 2).to(tl.int64)
    if tl.load(active + b) == 0:
        return
    x = tl.program_id(0) * BX + tl.arange(0, BX)[None, :]
    y = tl.program_id(1) * BY + tl.arange(0, BY)[:, None]
    slot = tl.load(slots + b)
    size = h * w
    source = u + (slot * pairs * 2 + plane) * size
    target = u + ((1 - slot) * pairs * 2 + plane) * size
    value = _median5(source, x, y, h, w) if SIZE == 5 else _median3(source, x, y, h, w)
    tl.store(target + y * w + x, value, mask=(x < w) & (y < h))
