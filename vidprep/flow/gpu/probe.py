"""Whether the Triton backend runs on this machine."""

from __future__ import annotations

import subprocess

import numpy as np


def why_not() -> str | None:
    """None where a test launch on the GPU worked, else the reason in a few words."""
    try:
        import torch  # noqa: PLC0415  (may be missing or broken; that is what is probed)
        from triton.errors import TritonError  # type: ignore[import-untyped]  # noqa: PLC0415

        if not torch.cuda.is_available():
            return "torch finds no usable CUDA device"
        from vidprep.flow.gpu.backend import solve  # noqa: PLC0415
        from vidprep.flow.params import TVL1Params  # noqa: PLC0415
    except (ImportError, OSError) as error:
        return f"torch or triton cannot be imported: {_first_line(error)}"
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    try:
        flow = solve(frames, TVL1Params(nscales=1, warps=1))
    except (RuntimeError, OSError, subprocess.SubprocessError, TritonError) as error:
        return f"the test launch failed: {_first_line(error)}"
    return None if np.isfinite(flow).all() else "the test launch gave wrong numbers"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
