"""What every task is: clips in, scalars out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from shards.clips import check_columns
from shards.spec import ClipSpec
from trainer.config import DataConfig
from trainer.data.jobs import parts_of
from trainer.models.base import Backbone
from trainer.strict import Strict
from trainer.tasks.momentum import Queue

if TYPE_CHECKING:
    from shards.dataset import Dataset
    from shards.mixture import Mixture
    from trainer.data.batch import Batch


class NoOptions(Strict):
    """Options of a task that has none."""


class Task(nn.Module):
    """Base of all tasks. A subclass sets `spec` and its heads in `__init__` and defines `forward`.

    The training loop knows nothing else of a method: everything a task learns or remembers (heads, key encoder,
    queue) is a parameter or buffer of it, so its state dict is the checkpoint.

    Args:
        backbone: the network under training; the engine saves it apart as well.
        data: the recipe's `data` section.
        options: an instance of this class's `Options`, a pydantic model that refuses unknown keys.
        classes: class names of the data set, in label order; empty when it has no labels.

    Attributes:
        spec: what this task wants to see of a video.
        lr_scales: beginning of parameters' names → factor of the recipe's learning rate.
        notes: sentences that the user is told once, when the run begins; `prepare` may set them.
    """

    Options: ClassVar[type[Strict]] = NoOptions
    backbone: Backbone
    spec: ClipSpec
    lr_scales: Mapping[str, float] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    def __init__(self, backbone: Backbone, data: DataConfig, options: Strict, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = data.spec()

    @property
    def specs(self) -> tuple[ClipSpec, ...]:
        """All that this task wants to see of a video, `spec` first: of further specs come batches of their own."""
        return (self.spec,)

    @property
    def backbones(self) -> list[Backbone]:
        """The backbone and others of the task, such as a key network: what the engine compiles and lays out."""
        return [module for module in self.modules() if isinstance(module, Backbone)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar tensors: "loss" is minimised, all are logged."""
        raise NotImplementedError

    def begin(self) -> None:
        """Called once before step 0, on the device, when the backbone has the weights that the run starts from; not
        when a run goes on."""

    def before_step(self, step: int) -> None:
        """Called between the backward pass of step number `step` and the optimiser: gradients to be dropped."""

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step number `step` (from 0): momentum updates, queues."""

    def prepare(self, dataset: Dataset | Mixture, samples: npt.NDArray[np.int64]) -> None:
        """Look at the data set, once, before the first step and before the task goes to its device.

        Args:
            dataset: open with the columns of `spec`.
            samples: (n,) ascending numbers of those that are trained on.

        Raises:
            UserError: what is wrong with them.
        """

    def check_labels(self, labels: npt.NDArray[np.integer]) -> None:
        """Refuse a selection of samples that this task cannot learn from; called once, before the first step.

        Args:
            labels: (n,) class index of every sample of the selection, −1 for none.

        Raises:
            UserError: what is wrong with them.
        """

    def check_columns(self, dataset: Dataset | Mixture) -> None:
        """Refuse a data set that cannot show what this task wants to see; called once, before the first step.

        Raises:
            UserError: which column is missing or other, and the command that makes it.
        """
        for part in parts_of(dataset):
            for spec in self.specs:
                check_columns(part, spec)

    def check_batch(self, batch: int) -> None:
        """Refuse a global batch that this task cannot take; called once, before the first step.

        Args:
            batch: videos a step, of all processes.

        Raises:
            UserError: it is larger than one of the task's queues.
        """
        for module in self.modules():
            if isinstance(module, Queue):
                module.check(batch)
