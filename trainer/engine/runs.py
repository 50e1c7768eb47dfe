"""The run folder: who may write to it, what a resumed run may change, what it tells about the run.

RUN/recipe.yaml          the resolved recipe; a recipe file itself
    run.json             data set, device, versions, and how far the run is
    log.csv              one row per log line
    validation.csv       one row per validation
    checkpoints/         `trainer.engine.checkpoint`
    weights.safetensors  the backbone of the newest checkpoint
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.dataset import Dataset
from shards.derived import stale_column
from shards.errors import StorageError, UserError
from shards.mixture import Mixture
from shards.order import IntArray
from shards.publish import Aside
from trainer.config import Recipe, load_recipe
from trainer.data.jobs import parts_of
from trainer.engine.checkpoint import checkpoint_paths, read_info
from trainer.engine.schedule import Length, learning_rate

RECIPE, INFO, CHECKPOINTS, WEIGHTS, LOCK = "recipe.yaml", "run.json", "checkpoints", "weights.safetensors", ".lock"
# Changing these leaves every batch and every gradient as they were, up to rounding by another kernel.
_FREE = re.compile(
    r"name|description|data\.(workers|threads)|"
    r"train\.(log_every|save_every|keep|compile|channels_last|fused|validation(\..*)?)"
)
# These may change what is to come, if they leave what has been.
_LENGTH = re.compile(r"train\.(epochs|steps)|schedule\..*")


def default_out(recipe: Recipe, data: Dataset | Mixture) -> Path:
    """runs/RECIPE-DATASET in the current folder."""
    name = data.meta.name if isinstance(data, Dataset) else data.name
    return Path("runs") / re.sub(r"[^\w.-]+", "_", f"{recipe.name}-{name}")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Create the run folder if need be and keep other processes from training into it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = (run / LOCK).open("a+")
    except OSError as error:
        raise StorageError(f"cannot write to {run}: {error.strerror or error}; choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{run} is being trained by process {file.read().strip() or '?'}; wait for it, stop it, or choose "
                "another --out"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_free(run: Path, *, resume: bool) -> None:
    """Refuse a folder that is in use: an existing run needs `resume`, a foreign folder another place."""
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file; a run needs a folder: choose another --out")
    entries = [path.name for path in run.iterdir() if path.name != LOCK] if run.exists() else []
    if INFO in entries and run.parent.name == CHECKPOINTS:
        owner = run.parent.parent
        raise UserError(f"{run} is a checkpoint of the run {owner}: --out {owner} --resume goes on from its newest one")
    if entries and RECIPE not in entries:
        raise UserError(f"{run} holds {', '.join(sorted(entries)[:3])}, … and is not a run; choose another --out")
    if entries and not resume:
        steps = [int(path.name.removeprefix("step-")) for path in checkpoint_paths(run / CHECKPOINTS)]
        at, go_on = (f"step {max(steps)}", "Continue it") if steps else ("no checkpoint yet", "Begin it again")
        raise UserError(
            f"{run} exists: a run of {load_recipe(run / RECIPE).name}, {at}. "
            f"{go_on} with --resume, or choose another --out"
        )


def resume_point(
    run: Path, recipe: Recipe, *, data: Mapping[str, Any], length: Length
) -> tuple[Path | None, list[str]]:
    """The newest checkpoint, and the accepted changes since it.

    Args:
        data: as `describe_data` gives it.
        length: of the run now.

    Raises:
        UserError: the recipe or the data set changed in a way that would make other steps; lists all such changes.
    """
    paths = checkpoint_paths(run / CHECKPOINTS)
    if not paths:
        return None, []
    info = read_info(paths[-1])
    before = load_recipe(info["recipe"])
    changes = _changes(before, recipe)
    refused = [key for key in changes if not _FREE.fullmatch(key) and not _LENGTH.fullmatch(key)]
    refused += [key for key in changes if _LENGTH.fullmatch(key) and not _same_past(before, recipe, info, length)]
    lines = [f"  {key}: {changes[key]}" for key in refused]
    if info["data"]["digest"] != data["digest"]:
        lines.append(f"  data: {_counted(info['data'])} → {_counted(data)}, not the same")
    if lines:
        raise UserError(
            "\n".join([f"{run} cannot go on at step {info['step']}, since these make other steps:", *lines])
            + f"\nTake them back (the recipe as it was: {run / RECIPE}), or start another run with --out OTHER "
            f"(--init {run} starts from its weights)"
        )
    if info["step"] > length.total:
        raise UserError(
            f"{run} is at step {info['step']} already; train.epochs or train.steps end at {length.total}: give more of "
            "them, or train anew with another --out"
        )
    return paths[-1], [f"{key}: {change}" for key, change in changes.items()]


def stale_notes(data: Dataset | Mixture) -> list[str]:
    """What to tell about columns in use that were made from others as before a change; nothing about data sets in
    object storage, where a note is not worth fetching the indexes of columns that are not in use (`vidprep check` is).
    """
    found = [
        (part.url, stale_column(part.storage, part.meta, column))
        for part in parts_of(data)
        if part.storage.near
        for column in part.columns
    ]
    return [f"{url}: {told}" for url, told in found if told is not None]


def describe_data(data: Dataset | Mixture, samples: IntArray) -> dict[str, Any]:
    """The data set (of a mixture: the first, and `sources`, all with their weights) and selection of a run: where it
    was, and a digest of what it is."""
    if isinstance(data, Dataset):
        return {"url": data.url, "name": data.meta.name, "samples": len(samples), "digest": _digest(data, samples)}
    parts = [
        _digest(part, samples[(samples >= low) & (samples < high)] - low)
        for part, low, high in zip(data.parts, data.firsts, data.firsts[1:], strict=False)
    ]
    text = json.dumps([parts, data.weights, data.classes])
    return {
        "url": data.parts[0].url,
        "sources": list(data.sources),
        "name": data.name,
        "samples": len(samples),
        "digest": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
    }


def left_out(data: Dataset | Mixture, split: str | None) -> str:
    """How many samples of a split failed in a column that is open, in brackets; "" where none did."""
    parts = [data] if isinstance(data, Dataset) else [p for p in data.parts if split is None or split in p.splits]
    failed = sum(int((~p.valid if split is None else p.table.mask(split) & ~p.valid).sum()) for p in parts)
    columns = " or ".join(parts[0].columns)
    return f" ({failed} more have nothing in column {columns}; vidprep info counts the reasons)" if failed else ""


def sources_of(described: Mapping[str, Any]) -> list[str]:
    """What `--data` was given, from what `describe_data` gave."""
    return list(described.get("sources") or [described["url"]])


def _counted(described: Mapping[str, Any]) -> str:
    return f"{described['samples']} samples of {' + '.join(sources_of(described))}"


def _digest(dataset: Dataset, samples: IntArray) -> str:
    meta, digest = dataset.meta, hashlib.blake2b(digest_size=16)
    columns = {name: (meta.columns[name].folder, dict(meta.columns[name].parameters)) for name in dataset.columns}
    digest.update(json.dumps([columns, dict(meta.size), meta.classes], sort_keys=True, default=str).encode())
    digest.update(int(dataset.table.header["keys_digest"]).to_bytes(8, "little"))
    digest.update(samples.tobytes() + dataset.labels[samples].tobytes())
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file of the run folder in one step."""
    file = Aside(path)
    try:
        file.write(text.encode())
        file.publish(replace=True)
    finally:
        file.discard()


def _changes(before: Recipe, after: Recipe) -> dict[str, str]:
    """key → "old → new". An `init` that is not given again is no change: the checkpoint has what it started."""
    old, new = _flat(before.tree()), _flat(after.tree())
    if new.get("init") is None:
        old.pop("init", None)
        new.pop("init", None)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return {key: f"{old.get(key)} → {new.get(key)}" for key in keys}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _same_past(before: Recipe, after: Recipe, info: Mapping[str, Any], length: Length) -> bool:
    """Whether every step so far had the learning rate that it would have now."""
    old = Length.of(before, samples=int(info["data"]["samples"]))
    return all(
        learning_rate(before.schedule, before.optim.lr, step, old)
        == learning_rate(after.schedule, after.optim.lr, step, length)
        for step in range(info["step"])
    )
