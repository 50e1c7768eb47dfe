"""Why a run should stop before its end: a signal, the time limit, or a launcher that is gone."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from shards.errors import UserError
from trainer.engine.launch import LAUNCHER

REASONS = ("", "max-time", "launcher", "SIGINT", "SIGTERM")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str | float) -> float:
    """Seconds of "90", "30s", "45m", "2h", "1d" or "1h30m".

    Raises:
        UserError: it is no such duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", str(text).replace(" ", ""))
    if not parts or "".join(number + unit for number, unit in parts) != str(text).replace(" ", ""):
        raise UserError(f"{text!r} is no duration; examples: 90s, 45m, 2h, 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Stop:
    """Asked once per step. Use `listening` around the loop.

    Args:
        max_time: seconds after which to stop, counted from creation; None for no limit.
    """

    def __init__(self, max_time: float | None = None) -> None:
        self._deadline = time.monotonic() + max_time if max_time is not None else float("inf")
        self._launcher = int(os.environ.get(LAUNCHER, "0"))
        self._signal = 0

    def reason(self) -> int:
        """Index into `REASONS`; 0 to go on. Higher numbers win where ranks differ."""
        if self._signal:
            return REASONS.index(signal.Signals(self._signal).name)
        if self._launcher and os.getppid() != self._launcher:
            return REASONS.index("launcher")
        return REASONS.index("max-time") if time.monotonic() >= self._deadline else 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as a wish to stop; a second one acts at once, as without this."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers; the caller keeps its own
            return
        before: dict[int, Any] = {}

        def receive(number: int, frame: FrameType | None) -> None:
            self._signal = number
            for other, handler in before.items():
                signal.signal(other, handler)

        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
