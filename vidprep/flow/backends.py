"""The backends of TV-L1 and the choice between them."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from shards.errors import UserError
from vidprep.flow.frames import check_frames
from vidprep.flow.params import TVL1Params

_log = logging.getLogger(__name__)

# modules with solve(frames, params, *, threads); imported when asked for
BACKENDS: dict[str, str] = {
    "numba": "vidprep.flow.cpu.backend",
    "triton": "vidprep.flow.gpu.backend",
    "opencv": "vidprep.flow.opencv",
    "opencv-cuda": "vidprep.flow.opencv_cuda",
}


@functools.lru_cache(maxsize=1)
def choose_backend() -> tuple[str, str]:
    """What `backend="auto"` stands for on this machine: (name, reason). Triton where a test launch works, else numba.

    Torch is only imported where there is an NVIDIA driver.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "numba", "no NVIDIA driver (libcuda.so.1)"
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return "numba", f"{package} is not installed"
    reason = cast("str | None", importlib.import_module("vidprep.flow.gpu.probe").why_not())
    if reason is not None:
        return "numba", reason
    return "triton", "a test launch on the GPU worked"


def tvl1(
    frames: np.ndarray | Sequence[np.ndarray], backend: str = "auto", *, threads: int = 1, **params: Any
) -> np.ndarray:
    """Dense optical flow by duality-based TV-L1.

    frames: (T,H,W) grey, uint8 or float32 in [0,1]. Returns (T−1,H,W,2) float32: for every pixel of frame t the motion
    (x, y) in pixels to frame t+1.

    backend: "auto" (see `choose_backend`; the choice is logged), "numba", "triton", "opencv" or "opencv-cuda".
    threads: pairs solved at the same time by the CPU backends; does not change a byte of the result.
    params: fields of `TVL1Params`, which are those of OpenCV's DualTVL1OpticalFlow with its defaults.

    The same frames give the same bytes on every machine with backend "numba". Raises UserError for unusable frames or
    parameters, or a backend that does not run here.

    Source: Zach, Pock, Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007; Sánchez Pérez,
    Meinhardt-Llopis, Facciolo, "TV-L1 optical flow estimation", IPOL 2013.
    """
    unknown = sorted(set(params) - set(TVL1Params.names()))
    if unknown:
        raise UserError(f"unknown flow parameter {unknown[0]!r}: known are {', '.join(TVL1Params.names())}")
    checked = TVL1Params(**params)
    if threads < 1:
        raise UserError(f"threads={threads}: must be at least 1")
    if backend == "auto":
        backend, reason = choose_backend()
        _log.info("TV-L1 backend %s: %s", backend, reason)
    if backend not in BACKENDS:
        raise UserError(f"unknown TV-L1 backend {backend!r}: known are auto, {', '.join(BACKENDS)}")
    images = check_frames(frames)
    return cast(np.ndarray, importlib.import_module(BACKENDS[backend]).solve(images, checked, threads=threads))
