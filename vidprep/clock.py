"""Frame times: read, repaired where the file lies, and what frame rate they amount to."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

_DEFAULT_RATE = Fraction(25)
_LONGEST_GAP = 3600  # seconds; a longer jump is a damaged or restarted clock, not a slide show


class Clock:
    """Times of a stream's frames in microseconds, strictly increasing.

    Where presentation times go wrong more often than decoding times the latter are used, as FFmpeg does
    (`guess_correct_pts` of libavcodec/decode.c). A time that is missing, not after the one before, or more than an
    hour after it, is replaced: the one before plus a frame's length.

    Args:
        time_base: seconds a tick of the stamps.
        rate: frames a second, where the header tells.
        by_decoding: use decoding times only: AVI stores no presentation times, and FFmpeg's reconstruction is
            wrong for B-frames.

    Attributes:
        repaired, missing: how many times were replaced, and how many of these because there was none.
    """

    def __init__(self, time_base: Fraction, rate: Fraction | None, *, by_decoding: bool = False) -> None:
        self._time_base = time_base
        self._gap = 1 / (rate or _DEFAULT_RATE)
        self._by_decoding = by_decoding
        self._faulty = [0, 0]  # presentation, decoding
        self._last: list[int | None] = [None, None]
        self._time: Fraction | None = None
        self.repaired = self.missing = 0

    def time_us(self, pts: int | None, dts: int | None) -> int:
        """Time of the next frame on the stream's own clock."""
        if self._by_decoding and dts is None and self._time is not None:
            # Held back for reordering and handed out at the end: one after the other.
            self._time += self._gap
            return round(self._time * 1_000_000)
        stamp = dts if self._by_decoding and dts is not None else self._choose(pts, dts)
        if stamp is None:
            self.missing += 1
        time = None if stamp is None else stamp * self._time_base
        if self._time is None:
            self._time = time if time is not None else Fraction(0)
        else:
            earliest, latest = self._time + Fraction(1, 1_000_000), self._time + _LONGEST_GAP
            if time is None or not earliest <= time <= latest:
                self.repaired += 1
                time = self._time + self._gap
            self._time = time
        return round(self._time * 1_000_000)

    def _choose(self, pts: int | None, dts: int | None) -> int | None:
        for which, (stamp, other) in enumerate(((pts, dts), (dts, pts))):
            last = self._last[which]
            if stamp is not None:
                self._faulty[which] += last is not None and stamp <= last
                self._last[which] = stamp
            elif other is not None:
                self._last[which] = other
        return pts if pts is not None and (dts is None or self._faulty[0] <= self._faulty[1]) else dts


def frame_rate(
    times_us: npt.NDArray[np.int64], *, time_base: Fraction, rates: Iterable[Fraction | None]
) -> tuple[float, bool]:
    """Frames a second of frames at these times, and whether it is constant.

    Args:
        times_us: (T,) from the first frame.
        time_base: what the file counts time in; rounding to it (mp4 1/600 s, Matroska 1 ms) is not a variation.
        rates: exact rates the header offers, tried before the mean of the times themselves.
    """
    known = [float(rate) for rate in rates if rate]
    if len(times_us) < 2:
        return (known[0] if known else float(_DEFAULT_RATE)), True
    mean = (len(times_us) - 1) * 1e6 / float(times_us[-1])
    number = np.arange(len(times_us))
    for rate in (*known, mean):
        gap = 1e6 / rate
        # Where ticks are as coarse as frames a larger tolerance would hide a frame that is missing.
        tolerance = min(float(time_base) * 1e6, gap / 8) + 1
        if float(np.abs(times_us - number * gap).max()) <= tolerance:
            return rate, True
    return mean, False
