"""Typed doors to numba, and where its compiled code is kept.

Only `entry` functions are cached on disk; what they call is compiled into them. Numba's cache key covers the
entry's own source file but not its callees', so the digest of all kernel sources is frozen into the entry's closure,
which is part of the key: a change of any kernel file recompiles.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import extending

Function = TypeVar("Function", bound=Callable[..., Any])

_log = logging.getLogger(__name__)

# Strict IEEE arithmetic (no fastmath): the kernels spell out their fused multiply-adds and summation order, so a
# result is the same byte for byte on every processor. error_model="numpy" drops the division-by-zero branch only.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}


def kernel(function: Function) -> Function:
    """Compile `function` as a part of an entry."""
    return cast(Function, numba.njit(**_OPTIONS)(function))


def entry(function: Function) -> Function:
    """Compile `function` on first call and keep the machine code on disk.

    Kept in NUMBA_CACHE_DIR, else beside the source, else in the user's cache folder. Where none of them can be written
    every process compiles for itself, and a warning says so.
    """
    try:
        return cast(Function, numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError as error:
        _log.warning("compiled flow code is not kept: %s; set NUMBA_CACHE_DIR to a writable folder", error)
        return cast(Function, numba.njit(**_OPTIONS)(function))


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function that writes its own LLVM IR; called without its first parameter, the typing context."""
    return extending.intrinsic(function)


def sources_digest() -> str:
    """Digest of the kernel sources in this folder."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
