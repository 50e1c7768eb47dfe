"""Checkpoints: a folder per step, written aside, flushed to the disk, then renamed.

    checkpoints/step-00000120/model.safetensors    the task's state dict
                              optim.pt             the optimiser's state dict
                              run.json             step, recipe, class table, versions, sizes and digests of the two
    checkpoints/best -> step-00000080              only with validation

A folder whose name does not say `.part` is whole; one that is not is an error, never skipped.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from shards.errors import DataError, StorageError

MODEL, OPTIMIZER, INFO, BEST = "model.safetensors", "optim.pt", "run.json", "best"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint folder holds: tensors of the task, the optimiser's state dict, run.json."""

    path: Path
    tensors: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    info: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.info["step"])


def checkpoint_paths(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    found = [(int(match[1]), path) for path in _entries(folder) if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def save_checkpoint(
    folder: Path,
    *,
    tensors: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    info: Mapping[str, Any],
    keep: int,
    best: bool = False,
) -> Path:
    """Publish a checkpoint and remove old ones.

    Args:
        folder: RUN/checkpoints.
        tensors, optimizer: state dicts of task and optimiser.
        info: JSON values; `step` is needed.
        keep: newest checkpoints to keep; the one that `best` names stays besides.
        best: let `best` name this one.

    Raises:
        StorageError: disk full, no permission, …; nothing half-written then has a final name.
    """
    path = folder / f"step-{info['step']:08d}"
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    cpu = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    files = {MODEL: save_tensors(cpu, {"format": "vidprep-task"}), OPTIMIZER: buffer.getvalue()}
    described = {**info, "files": {name: _describe(data) for name, data in files.items()}}
    files[INFO] = (json.dumps(described, indent=1) + "\n").encode()
    with _writing(path):
        aside = folder / f".{path.name}.{secrets.token_hex(4)}.part"
        aside.mkdir(parents=True)
        for name, data in files.items():
            _write(aside / name, data)
        _sync(aside)
        aside.rename(path)
        if best:
            _link(folder / BEST, path.name)
        _sync(folder)
        _prune(folder, keep)
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, verifying every byte.

    Raises:
        DataError: a file is missing or is not what was written; says which folder to remove.
    """
    info = read_info(path)
    data: dict[str, bytes] = {}
    for name, written in info["files"].items():
        try:
            data[name] = (path / name).read_bytes()
        except FileNotFoundError as error:
            raise _damaged(path, f"{name} is missing") from error
        except OSError as error:
            raise StorageError(f"cannot read {path / name}: {error.strerror or error}") from error
        if _describe(data[name]) != written:
            raise _damaged(path, f"{name} has changed since it was written")
    try:
        optimizer = torch.load(io.BytesIO(data[OPTIMIZER]), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _damaged(path, f"{OPTIMIZER} holds more than tensors and numbers and cannot be read safely") from error
    return Checkpoint(path=path, tensors=load_tensors(data[MODEL]), optimizer=optimizer, info=info)


def read_info(path: Path) -> dict[str, Any]:
    """run.json of a checkpoint folder."""
    try:
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
        if not isinstance(info["step"], int) or set(info["files"]) != {MODEL, OPTIMIZER}:
            raise ValueError("it lacks step or files")
    except FileNotFoundError as error:
        raise _damaged(path, f"{INFO} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{INFO} cannot be understood ({error})") from error
    except OSError as error:
        raise StorageError(f"cannot read {path / INFO}: {error.strerror or error}") from error
    return dict(info)


def best_info(folder: Path) -> dict[str, Any] | None:
    """run.json of the checkpoint that `best` names, or None."""
    return read_info(folder / BEST) if (folder / BEST).exists() else None


def _damaged(path: Path, what: str) -> DataError:
    older = [p.name for p in checkpoint_paths(path.parent) if p.name < path.name]
    rest = f"to go on from {older[-1]}" if older else "and, with no older one, start again with another --out"
    return DataError(f"checkpoint {path} is damaged: {what}; remove that folder {rest}")


def _describe(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "blake2b": hashlib.blake2b(data, digest_size=16).hexdigest()}


def _prune(folder: Path, keep: int) -> None:
    best = (folder / BEST).resolve().name
    for old in checkpoint_paths(folder)[:-keep]:
        if old.name != best:
            # Renamed first: a folder that is half removed must not look like a checkpoint.
            doomed = old.rename(folder / f".{old.name}.{secrets.token_hex(4)}.part")
            shutil.rmtree(doomed)
    for leftover in folder.glob(".step-*.part"):
        shutil.rmtree(leftover)


def _link(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    aside.symlink_to(target)
    aside.replace(link)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write checkpoint {path}: {error.strerror or error}; mend that (free space, permissions), then "
            "go on with --resume from the checkpoint before"
        ) from error
