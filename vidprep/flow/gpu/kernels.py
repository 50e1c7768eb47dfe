"""Triton kernels of TV-L1; one program handles a BY x BX tile of one plane or pair.

The arithmetic is that of `vidprep.flow.cpu`. u and P live in two slots; a pair's current slot is a number on the
device, because pairs that have converged stop while others go on.
"""

# Triton compiles annotations as argument types, and its language is untyped
# mypy: allow-untyped-defs
# mypy: allow-untyped-calls
# mypy: allow-untyped-decorators
# mypy: allow-incomplete-defs
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]


@triton.jit
def _tile(BY: tl.constexpr, BX: tl.constexpr):
    """Columns (1,BX) and rows (BY,1) of this program's tile."""
    x = tl.program_id(0) * BX + tl.arange(0, BX)[None, :]
    y = tl.program_id(1) * BY + tl.arange(0, BY)[:, None]
    return x, y


@triton.jit
def resize(source, target, slots, planes, h, w, rows, columns, scale_y, scale_x, factor,
           PER: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):  # fmt: skip
    """target[plane] = factor · source[slot, plane] from h x w to rows x columns, bilinear; PER planes share a slot."""
    plane = tl.program_id(2)
    x, y = _tile(BY, BX)
    at = source + (tl.load(slots + plane // PER) * planes + plane).to(tl.int64) * h * w
    px = (x.to(tl.float32) + 0.5) * scale_x - 0.5
    py = (y.to(tl.float32) + 0.5) * scale_y - 0.5
    left = tl.floor(px)
    top = tl.floor(py)
    bx = px - left
    by = py - top
    x0 = tl.minimum(tl.maximum(left.to(tl.int32), 0), w - 1)
    x1 = tl.minimum(tl.maximum(left.to(tl.int32) + 1, 0), w - 1)
    y0 = tl.minimum(tl.maximum(top.to(tl.int32), 0), h - 1)
    y1 = tl.minimum(tl.maximum(top.to(tl.int32) + 1, 0), h - 1)
    upper = tl.load(at + y0 * w + x0) * (1 - bx) + tl.load(at + y0 * w + x1) * bx
    lower = tl.load(at + y1 * w + x0) * (1 - bx) + tl.load(at + y1 * w + x1) * bx
    value = (upper * (1 - by) + lower * by) * factor
    tl.store(target + plane.to(tl.int64) * rows * columns + y * columns + x, value, mask=(x < columns) & (y < rows))


@triton.jit
def gradients(images, dx, dy, h, w, BY: tl.constexpr, BX: tl.constexpr):
    """Central differences of every plane, halved at the edges."""
    x, y = _tile(BY, BX)
    inside = (x < w) & (y < h)
    plane = tl.program_id(2).to(tl.int64) * h * w
    at = images + plane
    xs = tl.minimum(x, w - 1)
    ys = tl.minimum(y, h - 1)
    right = tl.load(at + ys * w + tl.minimum(xs + 1, w - 1))
    left = tl.load(at + ys * w + tl.maximum(xs - 1, 0))
    below = tl.load(at + tl.minimum(ys + 1, h - 1) * w + xs)
    above = tl.load(at + tl.maximum(ys - 1, 0) * w + xs)
    tl.store(dx + plane + y * w + x, 0.5 * (right - left), mask=inside)
    tl.store(dy + plane + y * w + x, 0.5 * (below - above), mask=inside)


@triton.jit
def _weight(t, i: tl.constexpr):
    """Weight i of Keys' kernel with a = −0.75 at fraction t."""
    if i == 0:
        return ((-0.75 * t + 1.5) * t - 0.75) * t
    elif i == 1:  # noqa: RET505  (compile-time branches)
        return (1.25 * t - 2.25) * t * t + 1.0
    elif i == 2:
        return ((-1.25 * t + 1.5) * t + 0.75) * t
    else:
        return (0.75 * t - 0.75) * t * t


@triton.jit
def data_term(images, dx, dy, u, slots, constants, pairs, h, w, most, BY: tl.constexpr, BX: tl.constexpr):
    """Warp frame b+1 of every pair b by its flow and write ρc/g, n1, n2, λθg."""
    b = tl.program_id(2).to(tl.int64)
    x, y = _tile(BY, BX)
    inside = (x < w) & (y < h)
    size = h * w
    here = y * w + x
    flow = u + (tl.load(slots + b) * pairs + b) * 2 * size
    u1 = tl.load(flow + here, mask=inside, other=0.0)
    u2 = tl.load(flow + size + here, mask=inside, other=0.0)
    # beyond the image: clamped to where the kernel sees zeros only
    px = tl.minimum(tl.maximum(x.to(tl.float32) + u1, -4.0), w + 3.0)
    py = tl.minimum(tl.maximum(y.to(tl.float32) + u2, -4.0), h + 3.0)
    left = tl.floor(px)
    top = tl.floor(py)
    tx = px - left
    ty = py - top
    x0 = left.to(tl.int32) - 1
    y0 = top.to(tl.int32) - 1
    second = (b + 1) * size
    value = tl.zeros((BY, BX), tl.float32)
    gx = tl.zeros((BY, BX), tl.float32)
    gy = tl.zeros((BY, BX), tl.float32)
    for j in tl.static_range(4):
        for i in tl.static_range(4):
            xs = x0 + i
            ys = y0 + j
            weight = _weight(ty, j) * _weight(tx, i)
            seen = inside & (xs >= 0) & (xs < w) & (ys >= 0) & (ys < h)
            at = second + ys * w + xs
            value += weight * tl.load(images + at, mask=seen, other=0.0)
            gx += weight * tl.load(dx + at, mask=seen, other=0.0)
            gy += weight * tl.load(dy + at, mask=seen, other=0.0)
    squared = gx * gx + gy * gy
    inverse = 1.0 / tl.sqrt(tl.maximum(squared, 1e-20))
    rho = value - gx * u1 - gy * u2 - tl.load(images + b * size + here, mask=inside, other=0.0)
    to = constants + b * 4 * size + here
    tl.store(to, rho * inverse, mask=inside)
    tl.store(to + size, gx * inverse, mask=inside)
    tl.store(to + 2 * size, gy * inverse, mask=inside)
    tl.store(to + 3 * size, most * squared * inverse, mask=inside)


@triton.jit
def _updated(x, y, c, u, p, h, w):
    """New u1, u2 at (x, y) and the updates; c, u, p point at the pair's constants and current slots."""
    size = h * w
    inside = (x < w) & (y < h)
    here = y * w + x
    n1 = tl.load(c + size + here, mask=inside, other=0.0)
    n2 = tl.load(c + 2 * size + here, mask=inside, other=0.0)
    most = tl.load(c + 3 * size + here, mask=inside, other=0.0)
    u1 = tl.load(u + here, mask=inside, other=0.0)
    u2 = tl.load(u + size + here, mask=inside, other=0.0)
    rho = tl.load(c + here, mask=inside, other=0.0) + n1 * u1 + n2 * u2
    rho = tl.minimum(tl.maximum(rho, -most), most)
    before = inside & (x > 0)
    above = inside & (y > 0)
    d1 = tl.load(p + here, mask=inside, other=0.0) - tl.load(p + here - 1, mask=before, other=0.0)
    d1 += tl.load(p + size + here, mask=inside, other=0.0) - tl.load(p + size + here - w, mask=above, other=0.0)
    q = p + 2 * size
    d2 = tl.load(q + here, mask=inside, other=0.0) - tl.load(q + here - 1, mask=before, other=0.0)
    d2 += tl.load(q + size + here, mask=inside, other=0.0) - tl.load(q + size + here - w, mask=above, other=0.0)
    d1 -= rho * n1
    d2 -= rho * n2
    return u1 + d1, u2 + d2, d1, d2


@triton.jit
def iterate(constants, u, p, u_slots, p_slots, active, errors, pairs, step, h, w, tau, taut,
            WITH_ERROR: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):  # fmt: skip
    """One iteration of all active pairs, from a slot into the other; `step` counts them since the slots were written.

    The dual update needs the new u of the right and the lower neighbour. It is computed again instead of exchanged: the
    arithmetic is free beside the 64 bytes a pixel that one pass has to move.
    """
    b = tl.program_id(2).to(tl.int64)
    if tl.load(active + b) == 0:
        return
    x, y = _tile(BY, BX)
    size = h * w
    here = y * w + x
    inside = (x < w) & (y < h)
    u_slot = tl.load(u_slots + b) ^ (step & 1)
    p_slot = tl.load(p_slots + b) ^ (step & 1)
    c = constants + b * 4 * size
    u_from = u + (u_slot * pairs + b) * 2 * size
    p_from = p + (p_slot * pairs + b) * 4 * size
    u1, u2, d1, d2 = _updated(x, y, c, u_from, p_from, h, w)
    right1, right2, _, _ = _updated(x + 1, y, c, u_from, p_from, h, w)
    below1, below2, _, _ = _updated(x, y + 1, c, u_from, p_from, h, w)
    u_to = u + ((1 - u_slot) * pairs + b) * 2 * size + here
    tl.store(u_to, u1, mask=inside)
    tl.store(u_to + size, u2, mask=inside)
    ax = tl.where(x < w - 1, right1 - u1, 0.0)
    ay = tl.where(y < h - 1, below1 - u1, 0.0)
    bx = tl.where(x < w - 1, right2 - u2, 0.0)
    by = tl.where(y < h - 1, below2 - u2, 0.0)
    r1 = 1.0 / (1.0 + taut * tl.sqrt(ax * ax + ay * ay))
    r2 = 1.0 / (1.0 + taut * tl.sqrt(bx * bx + by * by))
    p_to = p + ((1 - p_slot) * pairs + b) * 4 * size + here
    p_at = p_from + here
    tl.store(p_to, (tl.load(p_at, mask=inside, other=0.0) + tau * ax) * r1, mask=inside)
    tl.store(p_to + size, (tl.load(p_at + size, mask=inside, other=0.0) + tau * ay) * r1, mask=inside)
    tl.store(p_to + 2 * size, (tl.load(p_at + 2 * size, mask=inside, other=0.0) + tau * bx) * r2, mask=inside)
    tl.store(p_to + 3 * size, (tl.load(p_at + 3 * size, mask=inside, other=0.0) + tau * by) * r2, mask=inside)
    if WITH_ERROR:
        tiles = tl.num_programs(0) * tl.num_programs(1)
        tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        tl.store(errors + b * tiles + tile, tl.sum(tl.where(inside, d1 * d1 + d2 * d2, 0.0)))
