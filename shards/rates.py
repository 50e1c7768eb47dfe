"""Frames of a clip at a real-valued rate (static and dynamic concepts, reference/concepts.md section 3)."""

from __future__ import annotations

from math import floor

from shards.errors import UserError


def check_rates(rates: tuple[float, float]) -> None:
    """Refuse what is not (lowest, highest)."""
    if not 0 < rates[0] <= rates[1]:
        raise UserError(f"rates are {rates}; they are (lowest, highest) with 0 < lowest <= highest")


def at_rate(total: int, frames: int, rates: tuple[float, float], when_short: str, u: float, v: float) -> list[int]:
    """Frame numbers of a clip; see `shards.spec.ClipSpec`, argument `rates`.

    Args:
        total: F, frames of the video.
        frames: T, of the clip.
        rates: (lowest, highest).
        when_short: what a clip does that goes beyond the end.
        u, v: uniform in [0, 1): they choose rate and start.
    """
    lowest, highest = rates
    rate = lowest + (max(lowest, min(highest, total / frames)) - lowest) * u
    start = int(v * (max(0, floor(total - frames * rate)) + 1))
    shown = [round(start + rate * k) for k in range(frames)]
    if when_short == "loop":
        return [f % total for f in shown]
    if when_short == "clamp":
        return [min(f, total - 1) for f in shown]
    window = sum(f < total for f in shown)
    return [shown[k % window] for k in range(frames)]
