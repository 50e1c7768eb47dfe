"""Another frame rate, by timestamps, while frames stream past."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from vidprep.decode import Picture


def resample(pictures: Iterable[Picture], fps: float) -> Iterator[Picture]:
    """The picture shown at each tick of `fps`: the last one whose time has come.

    The rule of `shards.spec.ClipSpec` (`fps=`), so packing at a rate and reading at it agree. Pictures are dropped,
    or yielded several times (the same object).
    """
    times: list[int] = []
    period = 1e6 / fps
    ticks = 0
    previous: Picture | None = None
    # One tick lags behind: whether the very last one counts is known when the video has ended.
    held: Picture | None = None
    for picture in pictures:
        while previous is not None and ticks * period + 0.5 < picture.time_us:
            if held is not None:
                yield held
            held = previous
            ticks += 1
        previous = picture
        times.append(picture.time_us)
    if previous is None:
        return
    gap = float(np.median(np.diff(times))) if len(times) > 1 else period
    total = max(1, int((times[-1] + gap) * fps / 1e6 + 1e-6))
    while ticks < total:
        if held is not None:
            yield held
        held = previous
        ticks += 1
    if held is not None and ticks == total:
        yield held
