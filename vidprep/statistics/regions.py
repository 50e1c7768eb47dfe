"""The three partition patterns that the statistics labels number their regions by.

For a window of side S (a multiple of 8):

* pattern 1, a 4x4 grid: row-major, 16 regions;
* pattern 2, concentric square rings S/8 wide: 4 regions from the centre outwards;
* pattern 3, eight triangles: each quadrant cut along its diagonal, whose pixels belong to both halves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from shards.errors import UserError

IntArray = npt.NDArray[np.int64]
Variant = Literal["corrected", "reference"]

PATTERN_SIZES = (16, 4, 8)
"""Regions of pattern 1, 2 and 3."""

MOTION_NAMES = (
    *(f"p{p}_{c}_{what}" for p in (1, 2, 3) for c in "uv" for what in ("block", "angle")),
    "global_u_frame",
    "global_v_frame",
)
"""What the 14 motion numbers are, in order."""

APPEARANCE_NAMES = (
    *(f"p{p}_{which}_{what}" for p in (1, 2, 3) for which in ("diverse", "consistent") for what in ("block", "colour")),
    "global_colour",
)
"""What the 13 appearance numbers are, in order."""


def check_variant(variant: str) -> None:
    if variant not in get_args(Variant):
        raise UserError(f"variant is {variant!r}; allowed: {', '.join(get_args(Variant))}")


def check_side(height: int, width: int) -> None:
    """The patterns need a square window whose side is a multiple of 8."""
    if height != width or height % 8 or height < 8:
        raise UserError(
            f"statistics labels need a square window with a side divisible by 8; got {height}x{width} "
            "(height x width): choose --crop 112, 128, 224, …"
        )


@dataclass(frozen=True)
class Regions:
    """The patterns of one window side.

    Attributes:
        masks: three bool arrays, (16,S,S), (4,S,S) and (8,S,S).
        cells: (S,S) int32, number of the finest piece a pixel lies in; every region is a union of pieces.
        members: (28, pieces) bool, which pieces make up each region, patterns in order.
        sizes: (28,) int64, pixels of each region.
    """

    masks: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
    cells: npt.NDArray[np.int32]
    members: npt.NDArray[np.bool_]
    sizes: IntArray

    @property
    def pieces(self) -> int:
        return int(self.members.shape[1])


@lru_cache(maxsize=8)
def regions(side: int) -> Regions:
    """Patterns of a window of `side` pixels (a multiple of 8)."""
    check_side(side, side)
    eighth, half = side // 8, side // 2
    y, x = np.mgrid[:side, :side]
    grid = np.stack([(y // (2 * eighth) == i // 4) & (x // (2 * eighth) == i % 4) for i in range(16)])

    # Distance from the centre square's middle in units of whole pixels, the same on both sides.
    away = np.maximum(np.maximum(half - 1 - y, y - half), np.maximum(half - 1 - x, x - half))
    rings = np.stack([away // eighth == i for i in range(4)])

    inner_y, inner_x = y % half, x % half
    mirrored = half - 1 - inner_x  # the quadrants on the anti-diagonal are cut along the other diagonal
    triangles = np.empty((8, side, side), np.bool_)
    for quadrant in range(4):
        here = (y // half == quadrant // 2) & (x // half == quadrant % 2)
        across = mirrored if quadrant in (1, 2) else inner_x
        below, above = here & (inner_y >= across), here & (inner_y <= across)
        # Labels run 1..8 as in the reference: in the right top and left bottom quadrant the roles follow the mirror.
        first, second = _TRIANGLE_ORDER[quadrant]
        triangles[2 * quadrant] = below if first == "below" else above
        triangles[2 * quadrant + 1] = below if second == "below" else above

    flat = np.concatenate([grid, rings, triangles])
    codes = np.tensordot(1 << np.arange(28, dtype=np.int64), flat, axes=1)
    kinds, cells = np.unique(codes, return_inverse=True)
    members = (kinds[None] >> np.arange(28)[:, None]) & 1 == 1
    return Regions(
        masks=(grid, rings, triangles),
        cells=cells.reshape(side, side).astype(np.int32),
        members=members,
        sizes=flat.sum(axis=(1, 2)),
    )


_TRIANGLE_ORDER = (("below", "above"), ("above", "below"), ("above", "below"), ("below", "above"))
