"""What `vidprep recipes` tells of a recipe, as plain values. Torch-free, so that a list of all recipes is quick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trainer.config import Recipe

CAPTIONS = "captions"
"""Not a column: a field of the sample table."""
_TOLD = {"paper", "code", "command", "prepare", "literal", "published", "notes"}


def facts(recipe: Recipe) -> dict[str, Any]:
    """Task, backbone, clip, columns, batch, memory and published results of a recipe."""
    about, data = recipe.about, recipe.data
    size = data.crop if data.crop is not None else data.resize
    return {
        "name": recipe.name,
        "description": recipe.description,
        "task": recipe.task.name,
        "backbone": recipe.backbone.name,
        "frames": data.frames,
        "size": [size, size] if isinstance(size, int) and data.crop is not None else _listed(size),
        "fps": data.fps,
        "columns": list(columns_of(recipe)),
        "batch": recipe.train.batch,
        "epochs": recipe.train.epochs,
        "steps": recipe.train.steps,
        "gpus": about.gpus,
        "memory_gb": about.memory_gb,
        "commands": list(about.commands(recipe.name)),
        **about.model_dump(mode="json", include=_TOLD),
    }


class OneTask(NamedTuple):
    """A recipe's task, or one of those it is made of.

    Attributes:
        path: of its options below `task`, which is that of its module too: "", or "tasks.LABEL".
        name: of the task.
        options: with what belongs to its place, such as a weight.
        column: where its clips come from.
    """

    path: str
    name: str
    options: Mapping[str, Any]
    column: str


def tasks_of(recipe: Recipe) -> list[OneTask]:
    """The tasks that look at clips: the recipe's one, or those of a task of several."""
    return list(_leaves(OneTask("", recipe.task.name, recipe.task.options, recipe.data.column)))


def columns_of(recipe: Recipe) -> tuple[str, ...]:
    """Columns that training reads, the clips' first, and "captions" where it needs those of the sample table.

    Of a task of one's own only the clips' column is known here.
    """
    parts = tasks_of(recipe)
    found = [part.column for part in parts] + [name for part in parts for name in _further(part.name, part.options)]
    return tuple(dict.fromkeys(found))


def clip_text(found: Mapping[str, Any]) -> str:
    """frames x height x width, and @ frames a second where the recipe resamples: 16x112x112@25."""
    size = found["size"]
    sides = "" if size is None else "x".join(map(str, size)) if isinstance(size, list) else str(size)
    rate = "" if found["fps"] is None else f"@{found['fps']:g}"
    return f"{found['frames']}" + (f"x{sides}" if sides else "") + rate


def _listed(size: tuple[int, int] | int | None) -> list[int] | int | None:
    return list(size) if isinstance(size, tuple) else size


def _leaves(whole: OneTask) -> Iterator[OneTask]:
    tasks = whole.options.get("tasks")
    if not isinstance(tasks, Mapping):
        yield whole
        return
    for label, options in tasks.items():
        if isinstance(options, Mapping):  # what is wrong with others is told when the task is built
            data = options.get("data")
            column = data.get("column", whole.column) if isinstance(data, Mapping) else whole.column
            path = f"{whole.path}.tasks.{label}".lstrip(".")
            yield from _leaves(OneTask(path, str(options.get("name") or label), options, str(column)))


def _further(name: str, options: Mapping[str, Any]) -> list[str]:
    if name == "statistics":
        if options.get("labels", "table") == "table":
            return [str(options.get("table", "statistics"))]
        return [str(options.get("flow", "flow"))] if options.get("motion", True) else []
    if name == "cpd":
        source = str(options.get("captions", "table"))
        return [CAPTIONS if source == "table" else source]
    return []
