"""Several tasks on one backbone, over one stream of videos.

No reference has this. Each task keeps its own clips, heads, queues and losses; the backbone learns from their weighted
sum. Where one task's clips are as good as another's, both look at the same ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from shards.errors import UserError
from shards.spec import ClipSpec
from trainer.config import DataConfig
from trainer.models.base import Backbone
from trainer.recipes.files import merge
from trainer.strict import Strict, validate
from trainer.tasks.base import Task

if TYPE_CHECKING:
    from shards.dataset import Dataset
    from shards.mixture import Mixture
    from trainer.data.batch import Batch

_LABEL = re.compile(r"[a-z][a-z0-9_-]*")
_OPTION = re.compile(r"(?<![\w./])task\.(?=[a-z_]+\b)")
_OF_THE_STREAM = ("split", "keep", "repeats", "clips_per_read", "shuffle", "workers", "threads")


class Member(BaseModel):
    """One of the tasks: what is named here, and the task's own options, which the task validates."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str | None = None
    weight: float = Field(default=1.0, ge=0)
    data: dict[str, Any] = {}


class JointOptions(Strict):
    """Options of the task `joint`.

    Args:
        tasks: label → `name` of a task (as for `find_task`; default: the label), the `weight` of its loss, `data`: keys
            of the recipe's `data` section that are different for this task, and the task's own options. Selection,
            order, repeats and workers belong to the stream and are the same for all.
    """

    tasks: dict[str, Member] = Field(min_length=1)

    @field_validator("tasks")
    @classmethod
    def _labels(cls, tasks: dict[str, Member]) -> dict[str, Member]:
        for label in tasks:
            if not _LABEL.fullmatch(label) or hasattr(nn.ModuleDict, label):
                raise ValueError(
                    f"{label!r} cannot be the label of a task: small letters, digits, - and _ are allowed, and no name "
                    "of a dictionary's methods; give it another label and its task as `name`"
                )
        return tasks


class Joint(Task):
    """The weighted sum of several tasks' losses.

    Every task runs the backbone on its own clips, one task after the other, as it does alone: running statistics of
    batch normalisation see the clips of all. Logs every scalar of a task as LABEL_SCALAR.

    Attributes:
        tasks: by label, without the backbone, which is this module's.
        specs: of the clips that are loaded, each for one or more tasks.
        shared: label → the numbers of the `specs` whose clips the task looks at.
    """

    Options = JointOptions
    options: JointOptions

    def __init__(self, backbone: Backbone, data: DataConfig, options: JointOptions, classes: tuple[str, ...]) -> None:
        super().__init__(backbone, data, options, classes)
        self.options = options
        self.tasks = nn.ModuleDict()
        for label, member in options.tasks.items():
            self.tasks[label] = _without_backbone(_build(label, member, backbone, data, classes))
        self._specs = least([spec for _, task in self._members() for spec in task.specs])
        self.spec = self._specs[0]
        self.shared = {label: tuple(map(self._place, task.specs)) for label, task in self._members()}
        self.lr_scales = {
            f"tasks.{label}.{start}": factor
            for label, task in self._members()
            for start, factor in task.lr_scales.items()
        }

    @property
    def specs(self) -> tuple[ClipSpec, ...]:
        return self._specs

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of the batches of all specs."""
        batches, scalars = (batch, *batch.more), dict[str, Tensor]()
        total: Tensor | None = None
        for label, task in self._members():
            first, *more = (
                batches[place].first_clips(spec.clips, draws=spec.draws)
                for place, spec in zip(self.shared[label], task.specs, strict=True)
            )
            found = task(replace(first, more=tuple(more)))
            if "loss" not in found:
                raise UserError(f"task {label} gave {', '.join(found) or 'nothing'}; one of its scalars must be 'loss'")
            scalars |= {f"{label}_{name}": value for name, value in found.items()}
            loss = self.options.tasks[label].weight * found["loss"]
            total = loss if total is None else total + loss
        assert total is not None
        return {"loss": total, **scalars}

    def begin(self) -> None:
        """Every task's own."""
        for _, task in self._members():
            task.begin()

    def before_step(self, step: int) -> None:
        """Every task's own."""
        for _, task in self._members():
            task.before_step(step)

    def after_step(self, step: int) -> None:
        """Every task's own."""
        for _, task in self._members():
            task.after_step(step)

    def prepare(self, dataset: Dataset | Mixture, samples: npt.NDArray[np.int64]) -> None:
        """Every task's own; errors as theirs."""
        for label, task in self._members():
            with _options_of(label):
                task.prepare(dataset, samples)
        self.notes = tuple(f"{label}: {_named(label, note)}" for label, task in self._members() for note in task.notes)

    def check_labels(self, labels: npt.NDArray[np.integer]) -> None:
        """Every task's own; errors as theirs."""
        for label, task in self._members():
            with _options_of(label):
                task.check_labels(labels)

    def check_columns(self, dataset: Dataset | Mixture) -> None:
        """Every task's own; errors as theirs."""
        for label, task in self._members():
            with _options_of(label):
                task.check_columns(dataset)

    def check_batch(self, batch: int) -> None:
        """Every task's own; errors as theirs."""
        for label, task in self._members():
            with _options_of(label):
                task.check_batch(batch)

    def _members(self) -> list[tuple[str, Task]]:
        return [(label, cast(Task, task)) for label, task in self.tasks.items()]

    def _place(self, spec: ClipSpec) -> int:
        return next(place for place, ours in enumerate(self._specs) if serves(ours, spec))


def serves(ours: ClipSpec, theirs: ClipSpec) -> bool:
    """Whether the first clips of a spec are as good as those of another one: alike in all that a clip depends on, each
    with every stride equally often, as independent of each other, and with as many numbers of the task's own.

    A clip that shows its window together with others starts where the largest stride fits too; alone it may start
    later. This makes no difference here.
    """
    if ours == theirs:
        return True
    if ours.sampling == "uniform":  # the first of several clips lies elsewhere than an only one
        return False
    alone = replace(ours, clips=theirs.clips, windows=None, stride_rows=None, deal=False, draws=theirs.draws)
    if alone != theirs or ours.draws < theirs.draws:
        return False
    if ours.windows is None and ours.stride_rows is None:
        return theirs.clips <= ours.clips
    often = Counter(range(len(ours.strides)) if ours.stride_rows is None else (row[0] for row in ours.stride_rows))
    return theirs.clips == 1 and len(often) == len(ours.strides) and len(set(often.values())) == 1


def least(specs: Sequence[ClipSpec]) -> tuple[ClipSpec, ...]:
    """Those of some specs that serve all of them, in their order."""
    kept: list[ClipSpec] = []
    for spec in dict.fromkeys(specs):
        if not any(serves(other, spec) for other in specs if other != spec):
            kept.append(spec)
    return tuple(kept)


def _build(label: str, member: Member, backbone: Backbone, data: DataConfig, classes: tuple[str, ...]) -> Task:
    from trainer.tasks import build_task  # noqa: PLC0415 (its table has this task)

    own = _data(label, member, data)
    with _options_of(label):
        return build_task(
            member.name or label,
            backbone=backbone,
            data=own,
            options=member.model_extra,
            classes=classes,
            also=tuple(Member.model_fields),
        )


@contextmanager
def _options_of(label: str) -> Iterator[None]:
    """What a task calls `task.KEY` in its errors is `task.tasks.LABEL.KEY` here, where it can be set."""
    try:
        yield
    except UserError as error:
        if type(error) is not UserError:  # of data and storage, which name no options
            raise
        raise UserError(_named(label, str(error))) from error


def _named(label: str, text: str) -> str:
    """What a task tells, with its options as they are called here."""
    return _OPTION.sub(f"task.tasks.{label}.", text)


def _data(label: str, member: Member, data: DataConfig) -> DataConfig:
    """The data section as one of the tasks has it."""
    shared = [key for key in member.data if key in _OF_THE_STREAM]
    if shared:
        raise UserError(
            f"task.tasks.{label}.data has {', '.join(shared)}, but all tasks look at one stream of videos; set it for "
            f"all: --set data.{shared[0]}={member.data[shared[0]]}"
        )
    return validate(DataConfig, merge(data.model_dump(), member.data), where=f"task.tasks.{label}.data")


def _without_backbone(task: Task) -> Task:
    """The task with its backbone as a plain attribute: parameters, state and mode of the backbone have one owner."""
    backbone = task.backbone
    del task.backbone
    object.__setattr__(task, "backbone", backbone)
    again = {id(p) for p in backbone.parameters()} & {id(p) for p in task.parameters()}
    if again:
        raise UserError(
            f"task {type(task).__name__} holds the backbone under another name than `backbone`, so it cannot train "
            "together with others; use self.backbone only"
        )
    return task
