"""Tasks by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from shards.errors import UserError
from shards.plugins import load_object
from trainer.config import DataConfig
from trainer.models.base import Backbone
from trainer.strict import validate
from trainer.tasks.base import Task
from trainer.tasks.classify import Classify
from trainer.tasks.concepts import Concepts
from trainer.tasks.cpd import Cpd
from trainer.tasks.joint import Joint
from trainer.tasks.pace import Pace
from trainer.tasks.rspnet import Rspnet
from trainer.tasks.statistics import Statistics

__all__ = [
    "TASKS",
    "Classify",
    "Concepts",
    "Cpd",
    "Joint",
    "Pace",
    "Rspnet",
    "Statistics",
    "Task",
    "build_task",
    "find_task",
]

TASKS: dict[str, type[Task]] = {
    "pace": Pace,
    "rspnet": Rspnet,
    "statistics": Statistics,
    "cpd": Cpd,
    "concepts": Concepts,
    "classify": Classify,
    "joint": Joint,
}


def find_task(name: str) -> type[Task]:
    """The task class of that name, or of a user's `file.py:Name` or `package.module:Name`.

    Raises:
        UserError: unknown name (naming the nearest), or an object that is no task class.
    """
    if name in TASKS:
        return TASKS[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"unknown task {name!r}: {hint}allowed: {', '.join(TASKS)}, or your own as file.py:Name")
    task = load_object(name)
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"{name} is not a task: it must be a class derived from trainer.tasks.base.Task")
    return task


def build_task(
    name: str,
    *,
    backbone: Backbone,
    data: DataConfig,
    options: Mapping[str, Any] | None = None,
    classes: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
) -> Task:
    """A task around a backbone, its heads fresh from torch's generator.

    Args:
        name: as for `find_task`.
        backbone, data, classes: as for `Task`.
        options: the task's own options as plain values.
        also: keys that may stand beside them and are not the task's; errors name them too.

    Raises:
        UserError: unknown task, unknown or wrong options (naming the nearest and the allowed ones).
    """
    task = find_task(name)
    checked = validate(task.Options, dict(options or {}), where=f"task {name}", also=also)
    return task(backbone, data, checked, classes)
