"""Warping of the second frame and its gradient, and the constants of the data term.

As cv2.remap(INTER_CUBIC) of OpenCV 5 with a constant border of 0: Keys' kernel with a = −0.75 at the exact position.
(OpenCV 4 rounds positions to 1/32 pixel.)

Image and gradient are interleaved (value, dx, dy, 0), four floats a pixel: four neighbours are one vector, which
serves all three.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vidprep.flow.cpu.jit import kernel
from vidprep.flow.cpu.simd import (
    LANES,
    floor,
    fma,
    item,
    lane0,
    lane1,
    lane2,
    load,
    maximum,
    minimum,
    splat,
    sqrt,
    store,
    store_pixels,
    store_whole,
    sum_pixels,
)

MARGIN = 6  # pixels of zeros around the interleaved image: positions are clamped to where all 16 taps lie in it


def cubic_coefficients() -> np.ndarray:
    """(4·16,) float32: coefficients of the powers 3, 2, 1, 0 of the fraction in the four weights of Keys' kernel.

    Each weight stands four times in a row, once for every float of a pixel.
    """
    a = -0.75
    powers = [[a, a + 2, -(a + 2), -a], [-2 * a, -(a + 3), 2 * a + 3, a], [a, 0, -a, 0], [0, 1, 0, 0]]
    return np.repeat(np.array(powers, np.float32), 4, axis=1).ravel()


@kernel
def interleave(image: Any, at: int, h: int, w: int, pixels: Any) -> None:
    """Write (value, dx, dy, 0) of image[at + y·w + x] with MARGIN zeros around; central differences, halved at edges.

    Reads one float before and up to 16 after the image.
    """
    pitch = 4 * (w + 2 * MARGIN)
    half = np.float32(0.5)
    zero = splat(np.float32(0))
    first = MARGIN * pitch + 4 * MARGIN
    for i in range(0, first, LANES):
        store(pixels, i, zero)
    for y in range(h):
        row = at + y * w
        above = at + max(y - 1, 0) * w
        below = at + min(y + 1, h - 1) * w
        to = first + y * pitch
        for x in range(0, w, LANES):
            dx = splat(half) * (load(image, row + x + 1) - load(image, row + x - 1))
            dy = splat(half) * (load(image, below + x) - load(image, above + x))
            store_pixels(pixels, to + 4 * x, load(image, row + x), dx, dy)
        pixels[to + 1] = half * (image[row + 1] - image[row])
        pixels[to + 4 * (w - 1) + 1] = half * (image[row + w - 1] - image[row + w - 2])
        for x in range(0, 8 * MARGIN, LANES):  # what the last vector wrote beyond the row
            store(pixels, to + 4 * w + x, zero)
    for i in range(first + h * pitch, (h + 2 * MARGIN) * pitch, LANES):
        store(pixels, i, zero)


@kernel
def _powers(c: Any, i: int, t: Any) -> Any:
    """Weight i from its coefficients c at fraction t, 16 pixels at a time."""
    high = fma(splat(item(c, i)), t, splat(item(c, LANES + i)))
    return fma(fma(high, t, splat(item(c, 2 * LANES + i))), t, splat(item(c, 3 * LANES + i)))


@kernel
def _positions(
    A: Any, u: int, y: int, h: int, w: int, pitch: int, c: Any, columns: Any, corners: Any, shares: Any
) -> None:
    """Where the pixels of row y go.

    u: offset of the row's u1 in A; c: `cubic_coefficients`. Into `corners`: whole x, then whole y; into `shares`:
    fraction of x, then the four weights of y; each `width` long. Positions beyond the image are clamped to where the
    kernel sees zeros only.
    """
    width = (w + LANES - 1) // LANES * LANES
    low = splat(np.float32(-4))
    for x in range(0, width, LANES):
        px = minimum(maximum(load(columns, x) + load(A, u + x), low), splat(np.float32(w + 3)))
        py = minimum(maximum(splat(np.float32(y)) + load(A, u + pitch + x), low), splat(np.float32(h + 3)))
        left = floor(px)
        top = floor(py)
        store_whole(corners, x, left)
        store_whole(corners, width + x, top)
        t = py - top
        store(shares, x, px - left)
        store(shares, width + x, _powers(c, 0, t))
        store(shares, 2 * width + x, _powers(c, 4, t))
        store(shares, 3 * width + x, _powers(c, 8, t))
        store(shares, 4 * width + x, _powers(c, 12, t))


@kernel
def _sample(pixels: Any, corner: int, line: int, c: Any, shares: Any, x: int, width: int) -> Any:
    """(value, dx, dy, 0): weighted sum of the 4x4 pixels that begin at `corner`, for column x of `_positions`."""
    total = splat(item(shares, width + x)) * load(pixels, corner)
    total = fma(splat(item(shares, 2 * width + x)), load(pixels, corner + line), total)
    total = fma(splat(item(shares, 3 * width + x)), load(pixels, corner + 2 * line), total)
    total = fma(splat(item(shares, 4 * width + x)), load(pixels, corner + 3 * line), total)
    t = splat(item(shares, x))
    weights = fma(fma(fma(load(c, 0), t, load(c, LANES)), t, load(c, 2 * LANES)), t, load(c, 3 * LANES))
    return sum_pixels(total * weights)


@kernel
def data_term(
    A: Any, o: int, row: int, pitch: int, slot: int, image: Any, at: int, h: int, w: int,
    pixels: Any, c: Any, most: Any, scratch: Any, columns: Any, corners: Any, shares: Any,
) -> None:  # fmt: skip
    """Warp by the flow in A and write the row constants ρc/g, n1, n2, λθg of `sweep`.

    o: offset of the first row in A; row: its length; slot: offset in a row of u1, u2; image[at..]: the first frame,
    h x w; most: λθ; columns: 0, 1, 2, …; scratch: 3·width floats whose entries beyond column w are 0. For `_positions`:
    corners, 2·width int32, and shares, 5·width.
    """
    width = (w + LANES - 1) // LANES * LANES
    line = 4 * (w + 2 * MARGIN)
    least = splat(np.float32(1e-20))
    one = splat(np.float32(1))
    for y in range(h):
        base = o + y * row
        u = base + slot
        v = u + pitch
        _positions(A, u, y, h, w, pitch, c, columns, corners, shares)
        for x in range(w):
            corner = (item(corners, width + x) + MARGIN - 1) * line + 4 * (item(corners, x) + MARGIN - 1)
            pixel = _sample(pixels, corner, line, c, shares, x, width)
            scratch[x] = lane0(pixel)
            scratch[width + x] = lane1(pixel)
            scratch[2 * width + x] = lane2(pixel)
        for x in range(0, width, LANES):
            dx = load(scratch, width + x)
            dy = load(scratch, 2 * width + x)
            squared = fma(dx, dx, dy * dy)
            # without gradient n and λθg are 0 and the size of ρc/g does not matter
            inverse = one / sqrt(maximum(squared, least))
            rho = load(scratch, x) - dx * load(A, u + x) - dy * load(A, v + x) - load(image, at + y * w + x)
            store(A, base + x, rho * inverse)
            store(A, base + pitch + x, dx * inverse)
            store(A, base + 2 * pitch + x, dy * inverse)
            store(A, base + 3 * pitch + x, splat(most) * squared * inverse)
