"""What Swift keeps in memcached, in the memory of its one process: pip has no memcached.

A filter of Swift's proxy server; without it, every request looks up account and container anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

Application = Callable[[dict[str, Any], Any], Any]


class Memory:
    """The part of Swift's memcache client that its proxy uses. Values are kept as JSON, as there."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, str]] = {}

    def get(self, key: str, **_: Any) -> Any:
        until, text = self._kept.get(key, (0.0, "null"))
        return json.loads(text) if until > time.time() else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        self._kept[key] = (_until(time), json.dumps(value))

    def incr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        value = max(0, int(self.get(key) or 0) + delta)
        self.set(key, value, time=time)
        return value

    def decr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        return self.incr(key, -delta, time)

    def delete(self, key: str, **_: Any) -> None:
        self._kept.pop(key, None)

    def set_multi(self, mapping: dict[str, Any], server_key: str, time: float = 0, **_: Any) -> None:
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys: list[str], server_key: str, **_: Any) -> list[Any]:
        return [self.get(key) for key in keys]


def _until(seconds: float) -> float:
    return time.time() + (seconds or 60)


def filter_factory(_: dict[str, str], **__: str) -> Callable[[Application], Application]:
    """For paste.deploy."""
    memory = Memory()

    def wrap(application: Application) -> Application:
        def answer(environment: dict[str, Any], start: Any) -> Any:
            environment["swift.cache"] = memory
            return application(environment, start)

        return answer

    return wrap
