"""Training. Importing this package loads no torch: loader processes import it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.api import load_backbone

__all__ = ["load_backbone"]


def __getattr__(name: str) -> Any:
    if name != "load_backbone":
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    from trainer.api import load_backbone  # noqa: PLC0415 - brings torch

    return load_backbone
