"""Whether two videos show the same thing, and with what offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shards.ops.pictures import THUMB_RATE, Thumbs

_SLACK = 0.6  # seconds: how far the offset of the most similar frames may be off
_MOST = 450  # thumbnails compared of a pair: half a minute
_STILL = 1.5  # root mean square of a thumbnail's changes (of 255) below which nothing moves
_LEAST_SECONDS = 1.0
_DOUBT = 0.1  # by how much larger thumbnails in colour may be more alike than small grey ones

_DETAILED = 90  # thumbnails of the second look


class GetThumbs(Protocol):
    """Thumbnails of a video at given seconds, as `shards.ops.pictures.thumbnails`."""

    def __call__(self, times: npt.NDArray[np.float64], *, detailed: bool = False) -> Thumbs: ...


@dataclass(frozen=True)
class Likeness:
    """Of two videos.

    Attributes:
        score: 1 for the same pictures, about 0 for others: the least of the correlation of the thumbnails and, where
            something moves, of their changes in time. So videos before the same background are told apart.
        offset: seconds; the second shows at t − offset what the first shows at t.
        overlap: seconds that both show.
    """

    score: float
    offset: float
    overlap: float


def compare(
    first: GetThumbs,
    second: GetThumbs,
    *,
    lengths: tuple[float, float],
    offsets: Sequence[float],
    least_score: float,
    least_share: float,
) -> Likeness | None:
    """How alike two videos are, with the best offset around some; None where less than `least_score`.

    The offset is found with small grey thumbnails; the score is that of larger ones in colour.

    Args:
        lengths: of the videos, in seconds.
        offsets: where to look.
        least_share: of the shorter video that both must show.
    """
    found = [_align(first, second, lengths=lengths, offset=o, least_share=least_share) for o in offsets]
    best = max((it for it in found if it is not None), key=lambda it: it.score, default=None)
    if best is None or best.score < least_score - _DOUBT:
        return None
    score = _detailed(first, second, best, lengths)
    return Likeness(score, best.offset, best.overlap) if score >= least_score else None


def _align(
    first: GetThumbs, second: GetThumbs, *, lengths: tuple[float, float], offset: float, least_share: float
) -> Likeness | None:
    """The best score of small thumbnails around an offset; None where the videos overlap too little."""
    step = 1 / THUMB_RATE
    shift = round(_SLACK / step * 2)  # in half steps, for the frames of the two may lie between each other
    begin = max(0.0, offset) - _SLACK
    end = min(lengths[0], lengths[1] + offset) + _SLACK
    count = min(_MOST, int((end - begin) / step) + 1)
    if count < 2:
        return None
    times = begin + step * np.arange(count)
    a = _normal(first(np.clip(times, 0, lengths[0])))
    inside_a = (times >= -step / 2) & (times <= lengths[0] + step / 2)
    # The second one's thumbnails at half steps, reaching the slack further on both sides.
    fine = begin - offset + step / 2 * np.arange(-shift, 2 * count + shift)
    b = _normal(second(np.clip(fine, 0, lengths[1])))
    inside_b = (fine >= -step / 2) & (fine <= lengths[1] + step / 2)
    best: Likeness | None = None
    least = min(max(_LEAST_SECONDS, least_share * min(lengths)), _MOST * step / 2, *lengths)
    for k in range(2 * shift + 1):
        places = slice(k, k + 2 * count, 2)
        both = inside_a & inside_b[places]
        overlap = float(both.sum() - 1) * step
        if overlap < least - step:
            continue
        score = _score(a[both], b[places][both])
        if best is None or score > best.score:
            best = Likeness(score, round(offset - step / 2 * (k - shift), 3), round(overlap, 3))
    return best


def _detailed(first: GetThumbs, second: GetThumbs, found: Likeness, lengths: tuple[float, float]) -> float:
    begin, end = max(0.0, found.offset), min(lengths[0], lengths[1] + found.offset)
    times = np.linspace(begin, max(begin, end), min(_DETAILED, int((end - begin) * THUMB_RATE) + 2))
    a = _normal(first(times, detailed=True))
    return _score(a, _normal(second(np.clip(times - found.offset, 0, lengths[1]), detailed=True)))


def _normal(thumbs: Thumbs) -> Thumbs:
    """(n,P·C): without the mean brightness of each thumbnail and channel."""
    return np.asarray((thumbs - thumbs.mean(axis=1, keepdims=True)).reshape(len(thumbs), -1))


def _score(a: Thumbs, b: Thumbs) -> float:
    looks = _correlation(a, b)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    moves = max(float(np.square(x).mean()) ** 0.5 for x in (a, b))
    return looks if moves < _STILL else min(looks, _correlation(a, b))


def _correlation(a: Thumbs, b: Thumbs) -> float:
    norm = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.vdot(a, b)) / norm if norm else 0.0
