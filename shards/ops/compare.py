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
    a = _Sums(first(np.clip(times, 0, lengths[0])))
    # The second one's thumbnails at half steps, reaching the slack further on both sides.
    fine = begin - offset + step / 2 * np.arange(-shift, 2 * count + shift)
    thumbs = second(np.clip(fine, 0, lengths[1]))
    b = _Sums(thumbs[::2]), _Sums(thumbs[1::2])
    inside_a = (times >= -step / 2) & (times <= lengths[0] + step / 2)
    inside_b = (fine >= -step / 2) & (fine <= lengths[1] + step / 2)
    best: Likeness | None = None
    least = min(max(_LEAST_SECONDS, least_share * min(lengths)), _MOST * step / 2, *lengths)
    for k in range(2 * shift + 1):
        both = np.flatnonzero(inside_a & inside_b[k : k + 2 * count : 2])  # without gaps: each is a range of times
        overlap = (len(both) - 1) * step
        if len(both) < 2 or overlap < least - step:
            continue
        start, stop, later = int(both[0]), int(both[-1]) + 1, k // 2
        score = a.score(b[k % 2], start, stop, later)
        if best is None or score > best.score:
            best = Likeness(score, round(offset - step / 2 * (k - shift), 3), round(overlap, 3))
    return best


class _Sums:
    """Thumbnails without their mean brightness, and sums up to each of them, from which scores of any range follow."""

    def __init__(self, thumbs: Thumbs) -> None:
        # Doubles: small changes of bright pictures are differences of large sums.
        flat = thumbs.astype(np.float64)
        self._rows = (flat - flat.mean(axis=1, keepdims=True)).reshape(len(flat), -1)
        self._sums = np.concatenate([np.zeros((1, self._rows.shape[1])), np.cumsum(self._rows, axis=0)])
        self._energy = np.concatenate([[0.0], np.cumsum(np.einsum("ij,ij->i", self._rows, self._rows))])

    def score(self, other: _Sums, start: int, stop: int, later: int) -> float:
        """Likeness of rows start…stop−1 and the other's, `later` rows on: see `Likeness.score`."""
        count, width = stop - start, self._rows.shape[1]
        # Not np.vdot, whose threads cost more than they bring.
        dot = float(np.einsum("ij,ij->", self._rows[start:stop], other._rows[start + later : stop + later]))
        mine, its = self._energy[stop] - self._energy[start], other._energy[stop + later] - other._energy[start + later]
        a, b = self._sums[stop] - self._sums[start], other._sums[stop + later] - other._sums[start + later]
        looks = _ratio(dot, mine, its)
        mine, its = mine - float(a @ a) / count, its - float(b @ b) / count
        if max(mine, its) < _STILL**2 * count * width:
            return looks
        return min(looks, _ratio(dot - float(a @ b) / count, mine, its))


def _ratio(dot: float, a: float, b: float) -> float:
    return float(dot / (a * b) ** 0.5) if a > 0 and b > 0 else 0.0


def _detailed(first: GetThumbs, second: GetThumbs, found: Likeness, lengths: tuple[float, float]) -> float:
    begin, end = max(0.0, found.offset), min(lengths[0], lengths[1] + found.offset)
    times = np.linspace(begin, max(begin, end), min(_DETAILED, int((end - begin) * THUMB_RATE) + 2))
    a, b = first(times, detailed=True), second(np.clip(times - found.offset, 0, lengths[1]), detailed=True)
    return _Sums(a).score(_Sums(b), 0, len(times), 0)
