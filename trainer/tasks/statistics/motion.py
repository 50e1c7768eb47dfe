"""The 14 motion numbers of many clips at once, on any device.

They equal `vidprep.statistics.motion_labels` on the same planes with `quantum` one step, on any device and in any order
of summation. Derivatives of stored planes are whole numbers, so that float32 holds their sums exactly; magnitude and
direction are rounded as OpenCV rounds them; and sums over regions are of whole numbers, 2^-k apart.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from shards.errors import UserError
from trainer.tasks.statistics.regions import PATTERNS, Regions, check_window, clips_at_once, regions

Variant = Literal["corrected", "reference"]

MOTION_NUMBERS = 14
# OpenCV's arctan(c) for c in [0, 1], true to about 0.01 degrees: factors of c^7, c^5, c^3 and c, in radians.
_ARCTANGENT = (-0.04432655554792128, 0.1555786518463281, -0.3258083974640975, 0.9997878412794807)
# In degrees: both factors are rounded to float32, then their product.
_COEFFICIENTS = tuple((torch.tensor(_ARCTANGENT) * torch.tensor(180 / math.pi)).tolist())
_VOTE_BITS = 16  # as vidprep.statistics.motion.VOTE_BITS
_SMALLEST = 2.220446049250313e-16  # keeps 0/0 away


def motion_labels(
    planes: Tensor, *, variant: Variant = "corrected", frames: int | None = None, negate_u: Tensor | None = None
) -> Tensor:
    """Where each clip's motion is largest, and which way it points (reference/statistics.md section 4).

    Args:
        planes: (N,T,S,S,2) uint8 or int16, planes u and v of the flow as stored, entry t leading from frame t to t+1.
            What number stands for no motion does not matter: only differences do. S is a multiple of 8.
        variant: "reference" sums all entries and ranks the first T−1. "corrected" uses T−1 entries for both (entry
            T−1 leads out of the clip), and gives 0 to a region in which nothing moves.
        frames: T, when there are only the T−1 entries inside the clip; default: the number of entries.
        negate_u: (N,) bool, clips whose u counts with the other sign: mirrored ones, physically.

    Returns:
        (N,14) int64: (u block, u direction, v block, v direction) of patterns 1, 2 and 3, then the fields of largest
        motion in u and v.

    Raises:
        UserError: wrong shape or type, fewer than two frames.
    """
    if planes.ndim != 5 or planes.shape[-1] != 2 or planes.dtype not in (torch.uint8, torch.int16):
        raise UserError(
            f"flow planes must be (N,T,S,S,2) torch.uint8 or torch.int16; got {tuple(planes.shape)} {planes.dtype}"
        )
    check_window(*planes.shape[2:4])
    length = planes.shape[1] if frames is None else frames
    if length < 2 or planes.shape[1] not in (length - 1, length):
        raise UserError(
            f"{planes.shape[1]} flow fields do not fit a clip of {length} frames; a clip has at least 2 frames, and "
            "as many fields or one less"
        )
    used = planes[:, : length - 1] if variant == "corrected" else planes
    signs = torch.ones((len(planes), 2), device=planes.device)
    if negate_u is not None:
        signs[:, 0] -= 2 * negate_u
    parts = (torch.split(tensor, clips_at_once(planes)) for tensor in (used, signs))
    return torch.cat([_labels(*part, ranked=length - 1, variant=variant) for part in zip(*parts, strict=True)])


def _labels(used: Tensor, signs: Tensor, *, ranked: int, variant: Variant) -> Tensor:
    """Labels of (n,T,S,S,2) planes times `signs` (n,2), of which the first `ranked` are ranked."""
    dx, dy = boundaries(used.permute(0, 4, 1, 2, 3).float())
    by_field = (dx * dx + dy * dy).sqrt().sum((3, 4), dtype=torch.float64)[:, :, :ranked]
    x, y = (part.sum(2) * signs[:, :, None, None] for part in (dx, dy))
    magnitude, angle = polar(x, y)
    table = regions(used.shape[2], used.device)
    most = 3 * math.sqrt(2) * (65535 if used.dtype == torch.int16 else 255) * used.shape[1]
    fits = 62 - math.ceil(math.log2(most * magnitude[0, 0].numel()))
    votes = _votes(magnitude, angle, table, scale=2.0 ** min(_VOTE_BITS, fits))
    blocks, directions, moves = _winners(votes, table)
    fields = by_field.argmax(2) + 1
    if variant == "corrected":
        blocks, directions, fields = blocks * moves, directions * moves, fields * (by_field.amax(2) > 0)
    else:
        # In the reference the search through the grid starts from 0 and may find nothing; the others answer (1, 1).
        moves = torch.cat([moves[:, :, :1], torch.ones_like(moves[:, :, 1:])], dim=2)
        blocks, directions = blocks * moves, directions * moves
    patterns_NPCK = torch.stack([blocks, directions], dim=-1).transpose(1, 2)
    return torch.cat([patterns_NPCK.flatten(1), fields], dim=1)


def boundaries(fields: Tensor) -> tuple[Tensor, Tensor]:
    """Motion boundaries in x and y of (N,C,T,S,S): minus the Prewitt derivatives, edges repeated."""
    padded = functional.pad(fields, (1, 1, 1, 1, 0, 0), mode="replicate")
    down = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    dx = down[..., :-2] - down[..., 2:]
    along = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    return dx, along[..., :-2, :] - along[..., 2:, :]


def polar(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitude and direction in degrees of float32 vectors, bit for bit those of cv2.cartToPolar.

    OpenCV fuses multiplications with additions (on processors that can); here the exact product is added in float64,
    which rounds in the same way but for one case in some 2^29.
    """
    magnitude = (x.double().square() + (y * y).double()).float().sqrt()
    wide, high = x.abs(), y.abs()
    ratio = torch.minimum(wide, high) / (torch.maximum(wide, high) + _SMALLEST)
    square = (ratio * ratio).double()
    first, *rest = _COEFFICIENTS
    angle = torch.full_like(x, first)
    for coefficient in rest:
        angle = (angle.double() * square + coefficient).float()
    angle = angle * ratio
    angle = torch.where(high > wide, 90 - angle, angle)
    angle = torch.where(x < 0, 180 - angle, angle)
    return magnitude, torch.where(y < 0, 360 - angle, angle)


def _votes(magnitude: Tensor, angle: Tensor, table: Regions, *, scale: float) -> Tensor:
    """(N,2,P,8) int64: magnitude in eight directions centred at 0, 45, …, 315 degrees, shared out linearly between
    the two nearest, summed over each piece, in units of 1/scale."""
    position = angle.double() / 45
    lower = position.floor()
    share = ((position - lower) * magnitude * scale).round().long()
    rest = (magnitude.double() * scale).round().long() - share
    bins = 8 * table.cells + lower.long() % 8
    after = 8 * table.cells + (lower.long() + 1) % 8
    votes = torch.zeros(*magnitude.shape[:2], table.pieces * 8, dtype=torch.int64, device=magnitude.device)
    votes.scatter_add_(2, bins.flatten(2), rest.flatten(2)).scatter_add_(2, after.flatten(2), share.flatten(2))
    return votes.view(*magnitude.shape[:2], table.pieces, 8)


class _Winners(NamedTuple):
    """Of each component and pattern, all (N,2,3): number and direction of the region with most motion, and whether
    there is any."""

    blocks: Tensor
    directions: Tensor
    moves: Tensor


def _winners(votes: Tensor, table: Regions) -> _Winners:
    # Whole numbers have no matrix product on GPUs; these are small.
    sums = (votes.sum(3)[:, :, None] * table.members).sum(3)
    scores = sums.double()
    scores[:, :, PATTERNS[1]] /= table.sizes[PATTERNS[1]]
    best = torch.stack([scores[:, :, part].argmax(2) for part in PATTERNS], dim=2)
    region = best + table.starts
    by_direction = (votes[:, :, None] * table.members[region][..., None]).sum(3)
    return _Winners(best + 1, by_direction.argmax(3) + 1, sums.gather(2, region) > 0)
