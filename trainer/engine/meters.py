"""What a run measures about itself, without making the host wait for the device."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class ScalarMeter:
    """Means of the task's scalars, summed on their device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._sums)

    def update(self, scalars: dict[str, Tensor], *, weight: int = 1) -> None:
        """Add one step's scalars."""
        for name, value in scalars.items():
            addend = value.detach().double() * weight if value.device.type == "cpu" else value.detach().float() * weight
            self._sums[name] = self._sums[name] + addend if name in self._sums else addend
            self._counts[name] = self._counts.get(name, 0) + weight

    def read(self) -> dict[str, tuple[float, int]]:
        """name → (sum, weight) since the last read. The one place that waits for the device."""
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        read = {name: (total, self._counts[name]) for name, total in zip(names, sums, strict=True)}
        self._sums, self._counts = {}, {}
        return read


class Stopwatch:
    """Clips per second and the share of time spent waiting for data, since the last read."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._start, self._paused, self._waited, self._clips = self._clock(), 0.0, 0.0, 0

    def waits(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, counting the time until each one comes."""
        iterator = iter(items)
        while True:
            before = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += self._clock() - before
            yield item

    def pause(self) -> AbstractContextManager[None]:
        """Time inside (validation, saving) is not part of the rates."""
        return self._pause()

    @contextmanager
    def _pause(self) -> Iterator[None]:
        before = self._clock()
        yield
        self._paused += self._clock() - before

    def count(self, clips: int) -> None:
        """Clips that a step has used, over all ranks."""
        self._clips += clips

    def read(self) -> dict[str, float]:
        """`clips_per_s` and `data_wait` (0 to 1), and start anew."""
        elapsed = max(self._clock() - self._start - self._paused, 1e-9)
        rates = {"clips_per_s": self._clips / elapsed, "data_wait": min(1.0, self._waited / elapsed)}
        self._reset()
        return rates


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: allocated on a GPU, resident in this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in kB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
