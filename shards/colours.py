"""Colour changes of clips: how strong they may be (Jitter), and which ones an item gets (JitterPlan).

Letters: V clips per video, T frames per clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
import numpy.typing as npt

from shards.errors import UserError

_ORDERS = np.array(list(permutations(range(4))), dtype=np.uint8)  # (24,4): every order of the four colour changes
_NEUTRAL = np.array([1, 1, 1, 0], dtype=np.float32)  # factors that change nothing


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Strengths of colour jitter, with the meaning of torchvision's ColorJitter.

    A frame (or clip) is changed with `probability`; its brightness, contrast and saturation factors are uniform in
    [max(0, 1 − strength), 1 + strength], its hue shift uniform in [−hue, hue], and the four are applied in an
    order drawn uniformly. `per_frame` draws anew for every frame (pace, reference `datasets/ucf101.py`). Independently
    of that, a frame (or clip) turns grey with the probability `grey`, before the four changes.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0
    per_frame: bool = False
    grey: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise UserError(f"jitter {name} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"jitter hue is {self.hue}; allowed are 0 to 0.5")
        for name in ("probability", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"jitter {name} is {getattr(self, name)}; allowed are 0 to 1")


@dataclass(frozen=True, kw_only=True)
class JitterPlan:
    """Colour changes of one item: `apply` (V,T) bool, `factors` (V,T,4) float32 in the order brightness, contrast,
    saturation, hue, and `order` (V,T,4) uint8: which of the four comes first, second, … Grey frames have saturation 0,
    which comes first."""

    apply: npt.NDArray[np.bool_]
    factors: npt.NDArray[np.float32]
    order: npt.NDArray[np.uint8]


Draw = Callable[[tuple[int, ...]], npt.NDArray[np.float64]]
"""Makes (V, *shape) uniform numbers in [0, 1)."""


def draw_colours(jitter: Jitter, frames: int, draw: Draw) -> JitterPlan:
    """Colour changes of an item whose clips have that many frames."""
    u = draw((frames if jitter.per_frame else 1, 7 if jitter.grey else 6))
    full = (len(u), frames)
    low, span = _ranges(jitter)
    factors = (low + span * u[..., :4]).astype(np.float32)
    apply, order = u[..., 4] < jitter.probability, _ORDERS[(u[..., 5] * len(_ORDERS)).astype(np.intp)]
    if jitter.grey:
        grey = u[..., 6] < jitter.grey
        factors[grey & ~apply] = _NEUTRAL
        # What is grey stays grey: the change of saturation itself would do nothing later, and its entry is free.
        factors[grey, 2] = 0
        order[grey] = _grey_first(order[grey])
        apply = apply | grey
    if not jitter.per_frame:
        apply = np.broadcast_to(apply, full)
        factors, order = np.broadcast_to(factors, (*full, 4)), np.broadcast_to(order, (*full, 4))
    return JitterPlan(apply=apply, factors=factors, order=order)


def _grey_first(order: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Orders of the four changes with saturation put first, the others as they were; (n,4)."""
    others = order[order != 2].reshape(-1, 3)
    return np.concatenate([np.full_like(others[:, :1], 2), others], axis=1)


@lru_cache(maxsize=16)
def _ranges(jitter: Jitter) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest value and width of the range of the four factors."""
    strengths = np.array([jitter.brightness, jitter.contrast, jitter.saturation])
    low = np.append(np.maximum(0, 1 - strengths), -jitter.hue)
    return low, np.append(1 + strengths, jitter.hue) - low
