"""Parameters of TV-L1, named and defaulted as in OpenCV."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from shards.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TVL1Params:
    """Parameters of cv2.optflow.DualTVL1OpticalFlow_create, with its defaults.

    OpenCV's illumination term (gamma) is not offered; it is 0 there by default.
    """

    tau: float = 0.25
    """Time step of the dual update; above 0.25 it need not converge."""
    lambda_: float = 0.15
    """Weight of the data term for grey values in 0..255; smaller is smoother."""
    theta: float = 0.3
    """Tightness of the coupling between u and its auxiliary variable."""
    nscales: int = 5
    """Most levels of the pyramid; it ends before a side falls below 16."""
    warps: int = 5
    """Warps per level."""
    epsilon: float = 0.01
    """Inner iterations end when the mean squared update is at most epsilon²."""
    inner_iterations: int = 30
    """Most inner iterations between two median filters."""
    outer_iterations: int = 10
    """Most median filters per warp."""
    scale_step: float = 0.8
    """Ratio of neighbouring levels, between 0 and 1."""
    median_filtering: int = 5
    """Side of the median filter: 5, 3, or 1 for none."""

    def __post_init__(self) -> None:
        for name in ("tau", "lambda_", "theta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"flow parameter {name}={value!r}: must be a number above 0")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise UserError(f"flow parameter epsilon={self.epsilon!r}: must be a number of at least 0")
        for name in ("nscales", "warps", "inner_iterations", "outer_iterations"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"flow parameter {name}={value!r}: must be a whole number of at least 1")
        if not 0 < self.scale_step < 1:
            raise UserError(f"flow parameter scale_step={self.scale_step!r}: must lie between 0 and 1")
        if self.median_filtering not in (1, 3, 5):
            raise UserError(f"flow parameter median_filtering={self.median_filtering!r}: must be 1 (none), 3 or 5")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))
