"""Supervised classification of clips: fine-tuning a pretrained backbone, or training one from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.models.base import Backbone
from trainer.strict import Strict
from trainer.tasks.base import Task

if TYPE_CHECKING:
    from trainer.data.batch import Batch

_REMEDY = (
    "label them with vidprep annotate DEST FILE, or choose labelled ones with data.split or data.keep; "
    "vidprep info DEST counts them"
)


class ClassifyOptions(Strict):
    """Options of the task `classify`.

    Args:
        dropout: probability of dropping a pooled feature before the linear layer.
    """

    dropout: float = Field(default=0.0, ge=0, lt=1)


class Classify(Task):
    """Cross entropy from one linear layer, PyTorch's default initialisation, on the pooled features.

    Logs "accuracy" (of single clips).
    """

    Options = ClassifyOptions

    def __init__(
        self, backbone: Backbone, data: DataConfig, options: ClassifyOptions, classes: tuple[str, ...]
    ) -> None:
        super().__init__(backbone, data, options, classes)
        if len(classes) < 2:
            raise UserError(
                f"the task classify needs a data set with at least 2 classes; this one has {len(classes)}"
                f"{': ' + classes[0] if classes else ''}. Label it with vidprep annotate DEST FILE"
            )
        self.classes = classes
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(backbone.width, len(classes))

    def check_labels(self, labels: npt.NDArray[np.integer]) -> None:
        """Every sample must have a label of the class table."""
        missing = int((labels < 0).sum())
        if missing:
            raise UserError(f"{missing} of the {len(labels)} selected videos have no label: {_REMEDY}")
        if len(labels) and labels.max() >= len(self.classes):
            raise UserError(
                f"label {labels.max()} is not in the class table of {len(self.classes)} classes; see vidprep check DEST"
            )

    def logits(self, clip_BCTHW: Tensor) -> Tensor:
        """(B,K) class scores, before softmax, of normalised clips."""
        scores: Tensor = self.head(self.dropout(self.backbone(clip_BCTHW).pooled))
        return scores

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and accuracy of the labels `batch.label` (B,), the same for every clip of a video."""
        label = batch.label.repeat_interleave(batch.stride.shape[1])
        if label.device.type == "cpu" and bool((label < 0).any()):  # elsewhere the look would wait for the device
            raise UserError(f"a video of step {batch.step} has no label: {_REMEDY}")
        logits = self.logits(augment(batch, self.backbone.convention).flatten(0, 1))
        loss = functional.cross_entropy(logits, label)
        return {"loss": loss, "accuracy": (logits.argmax(1) == label).float().mean()}
