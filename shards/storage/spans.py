"""Which ranges of an object to ask for together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shards.storage.base import Span


@dataclass
class Run:
    """One request: `size` bytes from `start`. `members`: (number of the span, start, size) of what is wanted of it."""

    start: int
    size: int
    members: list[tuple[int, int, int]] = field(default_factory=list)


def coalesce(spans: Sequence[Span], *, gap: int, largest: int) -> list[Run]:
    """Requests for (offset, size) spans: those at most `gap` bytes apart share one, up to `largest` bytes; what is
    larger by itself is cut into several. Spans of no bytes need none."""
    runs: list[Run] = []
    for start, size, number in sorted((start, size, number) for number, (start, size) in enumerate(spans) if size):
        last = runs[-1] if runs else None
        if last is not None and start <= last.start + last.size + gap:
            end = max(last.start + last.size, start + size)
            if end - last.start <= largest:
                last.size = end - last.start
                last.members.append((number, start, size))
                continue
        for begin in range(start, start + size, largest):
            count = min(largest, start + size - begin)
            runs.append(Run(begin, count, [(number, begin, count)]))
    return runs
