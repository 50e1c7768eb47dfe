"""The partition patterns of the statistics labels, as tensors (reference/statistics.md section 4.2).

The 28 regions in order: a 4x4 grid, row by row; four square rings, from the centre outwards; eight triangles.
`vidprep.statistics.regions` has the same regions; tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from shards.errors import UserError

PATTERNS = (slice(0, 16), slice(16, 20), slice(20, 28))
"""Places of patterns 1, 2 and 3 among the regions."""

_PIXELS = 1 << 23


@dataclass(frozen=True)
class Regions:
    """The regions of a window of S x S pixels, on a device. A piece is a set of pixels that no region divides.

    Attributes:
        masks: (28,S,S) bool.
        cells: (S,S) int64, each pixel's piece.
        members: (28,P) bool, whether a region holds a piece.
        sizes: (28,) float64, pixels of a region.
        starts: (3,) int64, first region of each pattern.
    """

    masks: Tensor
    cells: Tensor
    members: Tensor
    sizes: Tensor
    starts: Tensor

    @property
    def pieces(self) -> int:
        return self.members.shape[1]


def check_window(height: int, width: int) -> None:
    """The patterns need a square window whose side is a multiple of 8."""
    if height != width or height % 8 or height < 8:
        raise UserError(
            f"statistics labels need a square clip with a side divisible by 8; got {height}x{width} (height x width): "
            "set data.crop=112 (or 64, 128, 224, …)"
        )


@lru_cache(maxsize=8)
def regions(side: int, device: torch.device) -> Regions:
    """The regions of a window of `side` pixels (a multiple of 8). Made once for each device."""
    check_window(side, side)
    masks = torch.cat([_grid(side), _rings(side), _triangles(side)])
    codes = (masks.long() << torch.arange(28)[:, None, None]).sum(0)
    kinds, cells = torch.unique(codes, return_inverse=True)
    members = (kinds[None] >> torch.arange(28)[:, None]) & 1 == 1
    sizes = masks.sum((1, 2)).double()
    starts = torch.tensor([part.start for part in PATTERNS])
    return Regions(*(tensor.to(device) for tensor in (masks, cells, members, sizes, starts)))


def clips_at_once(clips: Tensor) -> int:
    """How many of the clips (N,T,S,S,C) to work on together: one stays in a CPU's caches; on a GPU as many as need
    some hundred MiB of index."""
    return max(1, _PIXELS // clips[0, ..., 0].numel()) if clips.is_cuda else 1


def _grid(side: int) -> Tensor:
    block = torch.arange(side) // (side // 4)
    return 4 * block[:, None] + block == torch.arange(16)[:, None, None]


def _rings(side: int) -> Tensor:
    half = side // 2
    away = torch.cat([torch.arange(half).flip(0), torch.arange(half)])  # whole pixels from the middle, alike both ways
    ring = torch.maximum(away[:, None], away) // (side // 8)
    return ring == torch.arange(4)[:, None, None]


def _triangles(side: int) -> Tensor:
    """Both halves of each quadrant, diagonal included: it runs through the middle of the window in all of them."""
    half = side // 2
    row, column = torch.meshgrid(torch.arange(half), torch.arange(half), indexing="ij")
    below, above = row >= column, row <= column
    masks = torch.zeros(8, side, side, dtype=torch.bool)
    top, bottom, left, right = slice(0, half), slice(half, side), slice(0, half), slice(half, side)
    masks[0, top, left], masks[1, top, left] = below, above
    masks[2, top, right], masks[3, top, right] = above.flip(1), below.flip(1)
    masks[4, bottom, left], masks[5, bottom, left] = above.flip(1), below.flip(1)
    masks[6, bottom, right], masks[7, bottom, right] = below, above
    return masks
