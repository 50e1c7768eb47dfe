"""The 13 appearance numbers of many clips at once, on any device; equal to `vidprep.statistics.appearance_labels`."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from shards.errors import UserError
from trainer.tasks.statistics.motion import Variant
from trainer.tasks.statistics.regions import PATTERNS, Regions, check_window, clips_at_once, regions

APPEARANCE_NUMBERS = 13
_RING_2 = PATTERNS[1].start + 1
_ALL, _FAULTY = 28, 29  # after the 28 regions: all pixels, and what the reference takes for ring 2
_MOST = 64  # clips at once, for a clip's number and a colour fit into 32 bits


def appearance_labels(rgb: Tensor, *, variant: Variant = "corrected") -> Tensor:
    """Which regions change most and least in colour, and their dominant colours (reference/statistics.md section 5).

    Args:
        rgb: (N,T,S,S,3) uint8 RGB. S is a multiple of 8.
        variant: "reference" takes the wrong pixels for the colour of ring 2 that the reference code takes (section
            12.1); "corrected" takes the ring's own.

    Returns:
        (N,13) int64: (most diverse region, its colour, most consistent region, its colour) of patterns 1, 2 and 3,
        then the colour of the whole clip.

    Raises:
        UserError: wrong shape or type, or "reference" with fewer than two frames.
    """
    if rgb.ndim != 5 or rgb.shape[-1] != 3 or rgb.dtype != torch.uint8:
        raise UserError(f"appearance labels need RGB clips (N,T,S,S,3) torch.uint8; got {tuple(rgb.shape)} {rgb.dtype}")
    check_window(*rgb.shape[2:4])
    if rgb.shape[1] < (2 if variant == "reference" else 1):
        raise UserError(f"a clip of {rgb.shape[1]} frames is too short for statistics labels, variant {variant}")
    table = regions(rgb.shape[2], rgb.device)
    return torch.cat([_labels(part, table, variant) for part in torch.split(rgb, min(_MOST, clips_at_once(rgb)))])


def _labels(rgb: Tensor, table: Regions, variant: Variant) -> Tensor:
    score = consistency(rgb, table)
    best = torch.stack(
        [part.start + pick(score[:, part], dim=1) for part in PATTERNS for pick in (torch.argmin, torch.argmax)], dim=1
    )
    chosen = torch.cat([best, torch.full_like(best[:, :1], _ALL)], dim=1)
    if variant == "reference":
        chosen = torch.where(chosen == _RING_2, _FAULTY, chosen)
    colours = octant(dominant_colours(rgb, chosen))
    pairs = torch.stack([best - table.starts.repeat_interleave(2, output_size=6) + 1, colours[:, :6]], dim=2)
    return torch.cat([pairs.flatten(1), colours[:, 6:]], dim=1)


def consistency(rgb: Tensor, table: Regions) -> Tensor:
    """(n,28) float64: mean over channels of the intersection over union of a region's histograms in all frames."""
    n, t = rgb.shape[:2]
    frame = torch.arange(n * t, device=rgb.device).view(n, t, 1, 1, 1) * table.pieces
    channel = torch.arange(3, device=rgb.device) * 256
    index = ((frame + table.cells[:, :, None]) * 768 + channel + rgb).flatten()
    counts = torch.zeros(n * t * table.pieces * 768, dtype=torch.int32, device=rgb.device)
    counts.scatter_add_(0, index, torch.ones((), dtype=torch.int32, device=rgb.device).expand(len(index)))
    del index
    by_piece = counts.view(n, t, table.pieces, 3, 256)
    scores = []
    for pieces in _pieces(rgb.shape[2], rgb.device):
        region = by_piece.index_select(2, pieces).sum(2, dtype=torch.int32)
        overlap = region.amin(1).sum(2).double() / region.amax(1).sum(2)
        # The order in which the reference adds up B, G and R; it can decide a tie.
        scores.append((overlap[:, 2] + overlap[:, 1] + overlap[:, 0]) / 3)
    return torch.stack(scores, dim=1)


@lru_cache(maxsize=8)
def _pieces(side: int, device: torch.device) -> list[Tensor]:
    """The pieces of each region."""
    return [member.nonzero()[:, 0].to(device) for member in regions(side, torch.device("cpu")).members]


def dominant_colours(rgb: Tensor, chosen: Tensor) -> Tensor:
    """Most frequent colours, as B·65536 + G·256 + R and (n,k) int32, ties to the smallest.

    The colours of each clip are sorted once; the pixels of a region are then counted along the runs of equal colours.

    Args:
        rgb: (n,T,S,S,3) uint8, n up to `_MOST`.
        chosen: (n,k) int64, places in the table of weights: which pixels count.
    """
    n, t, side = rgb.shape[:3]
    area = side * side
    red, green, blue = rgb.flatten(1, 3).int().unbind(2)
    # One black pixel more, of which the reference counts many; elsewhere it has weight 0.
    colour = torch.cat([blue << 16 | green << 8 | red, red.new_zeros(n, 1)], dim=1)
    clip = torch.arange(n, dtype=torch.int32, device=rgb.device)[:, None] << 24
    ordered, place = (colour + clip).flatten().sort()
    ordered, place = ordered.view(n, -1), place.view(n, -1) % colour.shape[1]
    pixel = torch.where(place < 2 * area, place % area + area, place % area)
    pixel = torch.where(place == t * area, 2 * area, pixel)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    start = torch.where(new, torch.arange(colour.shape[1], device=rgb.device), 0).cummax(1).values
    table = _weights(side, rgb.device)
    modes = []
    for which in chosen.unbind(1):
        weight = table[which].gather(1, pixel)
        count = torch.zeros_like(ordered).scatter_add_(1, start, weight)
        modes.append(ordered.gather(1, count.argmax(1, keepdim=True)))
    return torch.cat(modes, dim=1) & 0xFFFFFF


@lru_cache(maxsize=8)
def _weights(side: int, device: torch.device) -> Tensor:
    """(30,2·S²+1) int32: how often each pixel counts for a region; for pixels from frame 2 on, for those of frames 0
    and 1, and for one black pixel.

    The last row is what the reference takes for ring 2: its top, left and right strips and, in place of the bottom
    one, the first two frames of the whole square with the centre blacked out.
    """
    masks = regions(side, device).masks.int()
    eighth = side // 8
    ring = masks[_RING_2].clone()
    ring[5 * eighth :] = 0
    rows = [*masks, torch.ones_like(ring), ring]
    early = [*masks, torch.ones_like(ring), ring + masks[_RING_2]]
    black = torch.zeros(len(rows), 1, dtype=torch.int32, device=device)
    black[_FAULTY] = 2 * (2 * eighth) ** 2
    return torch.cat([torch.stack(rows).flatten(1), torch.stack(early).flatten(1), black], dim=1)


def octant(colour: Tensor) -> Tensor:
    """Labels 1..8 of packed colours, int64: 4·[B low] + 2·[R high] + [G high] + 1."""
    blue, green, red = colour >> 16, colour >> 8 & 255, colour & 255
    return 4 * (blue < 128).long() + 2 * (red >= 128).long() + (green >= 128).long() + 1
