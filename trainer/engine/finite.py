"""Noticing a loss that is not finite, without making the host wait for the device."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Watched:
    """A step whose loss is on its way to the host."""

    step: int
    samples: Tensor
    finite: Tensor
    loss: Tensor
    ready: Any = None  # CUDA event


class FiniteWatch:
    """Keeps the losses of the steps whose outcome the host does not know yet."""

    def __init__(self) -> None:
        self._pending: deque[Watched] = deque()

    def add(self, step: int, loss: Tensor, samples: Tensor) -> None:
        """Watch a step. `samples` (B,) are named if its loss turns out bad."""
        loss = loss.detach()
        finite = loss.isfinite()
        if not loss.is_cuda:
            self._pending.append(Watched(step, samples, finite, loss))
            return
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(finite, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending.append(Watched(step, samples, host, loss, event))

    def bad(self, *, wait: bool = False) -> Watched | None:
        """The first step with a loss that is not finite, among those whose outcome is known (or all, with `wait`)."""
        while self._pending:
            first = self._pending[0]
            if first.ready is not None and not first.ready.query():
                if not wait:
                    return None
                first.ready.synchronize()
            if not bool(first.finite):
                return first
            self._pending.popleft()
        return None


def all_finite(module: nn.Module) -> bool:
    """Whether every floating-point parameter and buffer is finite; waits for the device."""
    tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
    return bool(torch.stack([t.isfinite().all() for t in tensors]).all()) if tensors else True
