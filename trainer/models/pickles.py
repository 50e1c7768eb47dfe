"""State dicts out of PyTorch checkpoints, without running any code that a file may carry."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from shards.errors import StorageError, UserError

_ENTRIES = ("state_dict", "model", "model_state_dict", "model_state")
_HEAD = 4096
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # how a PyTorch file begins that is no zip
# All that torch.load was seen to raise of files that are cut short, changed, or something else.
_DAMAGED = (
    struct.error,
    AssertionError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint: of its entry `state_dict` or `model`, or the file itself.

    A PyTorch file (zip, or the older form) is read with `weights_only`: tensors, numbers, text and lists of them. NumPy
    numbers, such as a best accuracy, are common in checkpoints and allowed.

    Raises:
        UserError: the file holds anything else, is damaged, or has no state dict.
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            first = file.read(_HEAD)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if first[8:9] == b"{":
        return _safetensors(path)
    _refuse_other_frameworks(path, first)
    return state_of(_load(path), what=str(path))


def state_of(content: Any, *, what: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint's content.

    Raises:
        UserError: there is none, or it holds something that is no tensor.
    """
    entry = next((name for name in _ENTRIES if isinstance(content, Mapping) and _is_mapping(content, name)), None)
    state = content if entry is None else content[entry]
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        held = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            held = f"a dict with {', '.join(map(str, list(content)[:8])) or 'nothing'}"
        raise UserError(f"{what} has no state dict: it holds {held}; looked for {', '.join(_ENTRIES)}")
    other = [f"{key} ({type(value).__name__})" for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise UserError(f"{what}: these entries of the state dict are no tensors: {', '.join(other[:5])}")
    return {str(key): value for key, value in state.items()}


def _refuse_other_frameworks(path: Path, first: bytes) -> None:
    """Say what a file of Caffe2 or TensorFlow is, in place of calling it damaged."""
    if first[:1] == b"\x80" and not first.startswith(_LEGACY) and b"blobs" in first:
        raise UserError(
            f"{path} is a Caffe2 file, a pickle whose reading could run code; only PyTorch and safetensors files are "
            "read. Take the .pyth file of the same network, or load this one where you trust it (PySlowFast: "
            "TRAIN.CHECKPOINT_TYPE caffe2) and save it again: torch.save(model.state_dict(), NEW)"
        )
    if re.search(r"\.(index|meta|data-\d{5}-of-\d{5})$", path.name):
        raise UserError(
            f"{path} is part of a TensorFlow checkpoint; only PyTorch and safetensors files are read. Save its "
            "variables as a PyTorch state dict first"
        )


def _is_mapping(content: Mapping[Any, Any], name: str) -> bool:
    return isinstance(content.get(name), Mapping)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is a damaged safetensors file ({error}); fetch it again") from error


def _load(path: Path) -> Any:
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")]
    safe = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]
    try:
        with torch.serialization.safe_globals(safe):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        why = "is damaged, or holds more than tensors and numbers"
        if wanted is not None:
            why = f"holds more than tensors and numbers: it asks for {wanted[1]}"
        raise UserError(
            f"{path} {why}; nothing that a file brings along is run. If you trust whoever made it, load it where its "
            "code is installed and save its state dict alone: torch.save(checkpoint['state_dict'], NEW)"
        ) from error
    except _DAMAGED as error:
        why = _first_line(str(error)) or type(error).__name__
        raise UserError(
            f"{path} is not a PyTorch checkpoint or safetensors file, or a damaged one ({why}); fetch it again"
        ) from error


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
