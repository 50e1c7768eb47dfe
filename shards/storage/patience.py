"""When to try a request again."""

from __future__ import annotations

import random
import time

from shards.storage.faults import passes, status_of

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0  # seconds
ONE_REQUEST = 1 / 3  # of the time limit: how long a single request may stand still
_STALE_SECONDS = 1.5  # some stores do not show a new object at once
_FINAL = frozenset(
    {
        "PermissionDeniedError",
        "UnauthenticatedError",
        "NotSupportedError",
        "PreconditionError",
        "InvalidPathError",
        "UnknownConfigurationKeyError",
    }
)


class Patience:
    """When to try again: with growing waits, until nothing has moved for some seconds."""

    def __init__(self, seconds: float, *, sure: bool = False) -> None:
        self._seconds, self._sure = seconds, sure
        self._wait = FIRST_WAIT
        self._began = self._moved = time.monotonic()

    def progress(self) -> None:
        self._moved, self._wait = time.monotonic(), FIRST_WAIT

    def wait(self, error: BaseException) -> bool:
        """Sleep before another try; False where there should be none."""
        now = time.monotonic()
        if isinstance(error, FileNotFoundError) or status_of(error) == 404:
            patient = self._sure and now - self._began < min(_STALE_SECONDS, self._seconds)
        else:
            patient = passes(error) and type(error).__name__ not in _FINAL
        wait = self._wait * random.uniform(0.5, 1)
        if not patient or now + wait - self._moved > self._seconds * (1 - ONE_REQUEST):
            return False
        time.sleep(wait)
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        return True
