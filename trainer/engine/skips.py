"""Steps that are left out because their loss is not finite (`vidprep train --skip-nan N`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shards.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A step that was left out.

    Attributes:
        step: counted from 1, as messages and log lines do.
        loss: "nan", "inf" or "-inf".
        keys: of the videos of the processes whose loss it was.
    """

    step: int
    loss: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"loss is {self.loss} in step {self.step}, on the videos {_listed(self.keys)}"


class Skips:
    """Which steps of a run were left out, and how many more may be.

    A step that is left out teaches nothing and is remembered by nothing: no gradient is worked out, neither
    `before_step` nor `after_step` is called, and the task's buffers (running statistics, queues) get back what they
    held before its forward pass.

    Args:
        allowed: steps of the whole run that may be left out.
        before: those of a checkpoint, as `tree` gave them. They count.

    Raises:
        UserError: a negative number.
    """

    def __init__(self, allowed: int, before: Sequence[dict[str, Any]] = ()) -> None:
        if allowed < 0:
            raise UserError(f"--skip-nan is {allowed}; it is a number of steps, 0 or more")
        self.allowed = allowed
        self.steps = [Skipped(step=it["step"], loss=it["loss"], keys=tuple(it["keys"])) for it in before]
        self._held: dict[str, Tensor] = {}

    @property
    def left(self) -> int:
        """How many more steps may be left out."""
        return max(0, self.allowed - len(self.steps))

    def tree(self) -> list[dict[str, Any]]:
        """The steps as JSON values, for checkpoints and run.json."""
        return [{**asdict(it), "keys": list(it.keys)} for it in self.steps]

    @torch.no_grad()
    def hold(self, task: nn.Module) -> None:
        """Keep a copy of the buffers, before a forward pass."""
        buffers = dict(task.named_buffers())
        for name, buffer in buffers.items():
            copy = self._held.get(name)
            if copy is None or (copy.shape, copy.dtype, copy.device) != (buffer.shape, buffer.dtype, buffer.device):
                self._held[name] = torch.empty_like(buffer)
        if buffers:
            torch._foreach_copy_([self._held[name] for name in buffers], list(buffers.values()))

    @torch.no_grad()
    def put_back(self, task: nn.Module) -> None:
        """Give the buffers what they held at `hold`."""
        for name, buffer in task.named_buffers():
            if name in self._held:
                buffer.copy_(self._held[name])


def _listed(keys: Sequence[str]) -> str:
    """At most eight keys, and how many more."""
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
