"""Pace prediction: at which speed was this clip taken? (Wang, Jiao, Liu, ECCV 2020; reference/pace.md)"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.models.base import Backbone
from trainer.strict import Strict
from trainer.tasks.base import Task
from trainer.tasks.losses import contrastive_loss, gather_ranks, same_context_pairs, same_pace_pairs

if TYPE_CHECKING:
    from trainer.data.batch import Batch


class PaceOptions(Strict):
    """Options of the task `pace`.

    Args:
        paces: P; a clip takes every p-th frame, p uniform in 1..P, and p − 1 is its class.
        rule: what a clip does that runs over the end of its video (`shards.spec.ClipSpec.when_short`). "window":
            cuts fall at the same places at every pace. "restart": the reference's literal rule, whose number of cuts
            tells the pace, also of a static video (benchmarks/pace_leak.py).
        contrastive: the paper's second loss, or null. "context": two clips of one video are a positive pair, at
            whatever paces. "pace": two clips of one pace are.
        contrastive_weight: its factor; the classification loss has factor 1.
        temperature: of the contrastive loss; 1.0 is the formula as quoted.
        projection: width of the embedding that the contrastive loss compares.

    The contrastive branch was never released. Two clips of each video per batch, negatives from the whole global
    batch, an embedding by Linear, ReLU, Linear scaled to length 1, and equal weights are this project's choices.
    """

    paces: int = Field(default=4, ge=2)
    rule: Literal["window", "restart"] = "window"
    contrastive: Literal["context", "pace"] | None = None
    contrastive_weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    projection: int = Field(default=128, ge=1)


class Pace(Task):
    """Cross entropy over the P paces from one linear layer on the pooled features, plus the contrastive option.

    Logs "accuracy" (of the pace) and, with the option, "pace_loss" and "contrastive_loss".
    """

    Options = PaceOptions
    options: PaceOptions

    def __init__(self, backbone: Backbone, data: DataConfig, options: PaceOptions, classes: tuple[str, ...]) -> None:
        super().__init__(backbone, data, options, classes)
        if data.when_short not in ("window", options.rule):
            raise UserError(
                f"data.when_short is {data.when_short!r}, but the task pace decides this itself; remove it, or set "
                f"task.rule to one of: window, restart"
            )
        strides = tuple(range(1, options.paces + 1))
        clips = 1 if options.contrastive is None else 2
        self.options = options
        self.spec = replace(data.spec(strides=strides, clips=clips), when_short=options.rule)
        self.head = nn.Linear(backbone.width, options.paces)
        self.projection: nn.Module | None = None
        if options.contrastive is not None:
            self.projection = nn.Sequential(
                nn.Linear(backbone.width, backbone.width),
                nn.ReLU(inplace=True),
                nn.Linear(backbone.width, options.projection),
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and accuracy of the paces `batch.stride` (B,V)."""
        clips_BVCTHW = augment(batch, self.backbone.convention)
        pooled = self.backbone(clips_BVCTHW.flatten(0, 1)).pooled
        logits, pace = self.head(pooled), batch.stride.flatten()
        loss = functional.cross_entropy(logits, pace)
        scalars = {"loss": loss, "accuracy": (logits.argmax(1) == pace).float().mean()}
        if self.projection is None:
            return scalars
        sample = batch.sample.repeat_interleave(batch.stride.shape[1])
        contrast = self._contrast(self.projection(pooled), sample, pace)
        total = loss + self.options.contrastive_weight * contrast
        return {**scalars, "loss": total, "pace_loss": loss, "contrastive_loss": contrast}

    def _contrast(self, embedding_ND: Tensor, sample_N: Tensor, pace_N: Tensor) -> Tensor:
        z_ND = gather_ranks(functional.normalize(embedding_ND.float(), dim=1))
        if self.options.contrastive == "context":
            positive, negative = same_context_pairs(gather_ranks(sample_N))
        else:
            positive, negative = same_pace_pairs(gather_ranks(pace_N))
        return contrastive_loss(z_ND, positive, negative, temperature=self.options.temperature)
