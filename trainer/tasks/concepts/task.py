"""Static and dynamic concepts: six views of a video agree on the concepts they have in common.

"Static and Dynamic Concepts for Self-supervised Video Representation Learning", ECCV 2022, arXiv 2207.12795;
reference/concepts.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor, nn

from shards.errors import UserError
from trainer.config import DataConfig
from trainer.models.base import Backbone
from trainer.strict import Strict
from trainer.tasks.base import Task
from trainer.tasks.concepts import losses
from trainer.tasks.concepts.heads import FRAME, RESIDUAL, RGB, VIEWS, ConceptHeads, Outputs
from trainer.tasks.concepts.views import DRAWS, ViewOptions, make_views, plan_views
from trainer.tasks.losses import gather_ranks

if TYPE_CHECKING:
    from trainer.data.batch import Batch

_INSTANCE_TEMPERATURE, _CONCEPT_TEMPERATURE = 0.07, 0.1
_EPSILON, _ITERATIONS = 0.05, 3
_MARGIN = 1.4
_ROUNDING = 1e-9
_STATIC, _DYNAMIC = [0, 1, 2, 3], [0, 1, 4, 5]  # views that share the concepts of a type


class ConceptsOptions(Strict):
    """Options of the task `concepts`.

    Args:
        concepts: C; there are C static and C dynamic ones.
        rate: highest rate of the two clips; they have one rate, uniform in 1..rate as far as the video is long enough.
        grey: probability that a view shows one colour channel in place of three.
        first_difference: "repeat": a clip's first difference is its second once more. "wrap": that to its last frame,
            as in the reference.
        projection: width of the instance embeddings.
        queue: rows of past scores that assignments of concepts are made on besides the batch.
        queue_start: "empty": rows that hold no scores yet take no part. "noise": they hold N(0, 1), as in the
            reference, until scores have pushed them out.
        active: concepts above the `active`-th largest score in both views are compared locally; at most active − 1.
        threshold: in place of that rule, concepts whose share softmax(scores / 0.1) is above it in both views. Our
            reading of `--thres`, which the reference's README has and its code has not. null: `active` decides.
        prototypes_from, queue_from, local_from: epochs after which prototypes are learnt, assignments use the queue,
            and the local loss is added.
        instance_weight, alignment_weight, entropy_weight, reconstruction_weight, local_weight: factors of the losses.
    """

    concepts: int = Field(default=100, ge=2)
    rate: float = Field(default=3.0, ge=1)
    grey: float = Field(default=0.5, ge=0, le=1)
    first_difference: Literal["repeat", "wrap"] = "repeat"
    projection: int = Field(default=128, ge=1)
    queue: int = Field(default=1024, ge=1)
    queue_start: Literal["empty", "noise"] = "empty"
    active: int = Field(default=10, ge=2)
    threshold: float | None = Field(default=None, gt=0, lt=1)
    prototypes_from: float = Field(default=1.0, ge=0)
    queue_from: float = Field(default=1.0, ge=0)
    local_from: float = Field(default=10.0, ge=0)
    instance_weight: float = Field(default=1.0, ge=0)
    alignment_weight: float = Field(default=1.0, ge=0)
    entropy_weight: float = Field(default=0.1, ge=0)
    reconstruction_weight: float = Field(default=1.0, ge=0)
    local_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _enough(self) -> ConceptsOptions:
        if self.threshold is None and self.concepts < self.active:
            raise ValueError(
                f"concepts is {self.concepts}, fewer than the {self.active} that active ranks; set task.concepts to at "
                f"least {self.active}, or task.active to at most {self.concepts}"
            )
        return self


class Concepts(Task):
    """Contrast of instances, agreement on concepts, their diversity and fidelity, and contrast of concepts in places.

    Logs "instance_loss", "alignment_loss", "entropy_loss", "reconstruction_loss" and "local_loss" before their weights
    (sums as in reference/concepts.md section 6.6; the last is 0 before `local_from`).

    Over several ranks, assignments, instance contrast and local contrast see the global batch.
    """

    Options = ConceptsOptions
    options: ConceptsOptions
    queue: Tensor
    queued: Tensor

    def __init__(
        self, backbone: Backbone, data: DataConfig, options: ConceptsOptions, classes: tuple[str, ...]
    ) -> None:
        super().__init__(backbone, data, options, classes)
        self.options, self.frames = options, data.frames
        self.views = _view_options(backbone, data, options)
        self.spec = replace(
            self.spec,
            frames=2 * data.frames,
            rates=(1.0, options.rate),
            crop=None,
            area=None,
            flip=0.0,
            jitter=None,
            draws=DRAWS,
        )
        self.heads = ConceptHeads(backbone.width, concepts=options.concepts, projection=options.projection)
        self.register_buffer("queue", torch.randn(options.queue, VIEWS, 2 * options.concepts))
        # Rows at the end of the queue that take part.
        self.register_buffer("queued", torch.tensor(options.queue if options.queue_start == "noise" else 0))
        self._scores: Tensor | None = None
        self._epoch = 0.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the current epoch."""
        if self.training:
            self._epoch = batch.epoch + _ROUNDING
        features = self.backbone(self.six_views(batch).flatten(0, 1))
        shape = (len(batch), VIEWS)
        pooled_B6D, map_B6DTHW = features.pooled.unflatten(0, shape), features.last.unflatten(0, shape)
        outputs = self.heads(pooled_B6D)
        if self.training:
            self._scores = outputs.scores.detach()
        local_on = self._epoch >= self.options.local_from
        with torch.autocast(pooled_B6D.device.type, enabled=False):
            parts = self.pooled_losses(outputs, pooled_B6D)
        parts["local_loss"] = self.local_loss(outputs.scores, map_B6DTHW) if local_on else self._unused()
        options = self.options
        weights = {
            "instance_loss": options.instance_weight,
            "alignment_loss": options.alignment_weight,
            "entropy_loss": options.entropy_weight,
            "reconstruction_loss": options.reconstruction_weight,
            "local_loss": options.local_weight,
        }
        return {"loss": torch.stack([weight * parts[name] for name, weight in weights.items()]).sum(), **parts}

    @torch.no_grad()
    def six_views(self, batch: Batch) -> Tensor:
        """(B,6,3,T,h,w) in the backbone's convention."""
        if batch.draws is None:
            raise ValueError("the task concepts needs a batch with draws")
        size = (batch.clips.shape[3], batch.clips.shape[4])
        plan = plan_views(np.asarray(batch.draws)[:, 0], frames=self.frames, size=size, options=self.views)
        return make_views(
            batch.clips[:, 0],
            plan,
            convention=self.backbone.convention,
            crop=self.views.crop,
            wrap=self.options.first_difference == "wrap",
        )

    def pooled_losses(self, outputs: Outputs, pooled_B6D: Tensor) -> dict[str, Tensor]:
        """The losses of pooled features: all but the local one, before their weights."""
        return {
            "instance_loss": self._instance(outputs.instance),
            "alignment_loss": self._alignment(outputs.scores),
            "entropy_loss": self._entropy(outputs.scores),
            "reconstruction_loss": torch.stack(
                [
                    losses.reconstruction(outputs.made[:, views].flatten(0, 1), pooled_B6D[:, views].flatten(0, 1))
                    for views in (RGB, FRAME, RESIDUAL)
                ]
            ).sum(),
        }

    def local_loss(self, scores_B6K: Tensor, map_B6DTHW: Tensor) -> Tensor:
        """The local loss, summed over RGB, frame and residual views."""
        static, dynamic = self._types()
        kinds = {"rgb": (RGB, slice(None)), "frame": (FRAME, static), "residual": (RESIDUAL, dynamic)}
        locals_ = self.heads.local(map_B6DTHW)
        parts = []
        for kind, (views, concepts) in kinds.items():
            local_B2KD = locals_[kind]
            with torch.autocast(local_B2KD.device.type, enabled=False):
                active_BK = self.active(scores_B6K[:, views, concepts])
                counts = gather_ranks(active_BK.sum()[None])
                parts.append(
                    losses.local_contrast(
                        local_B2KD,
                        gather_ranks(local_B2KD.detach()),
                        active_BK,
                        terms=(2 * counts.sum() + 1) / len(counts),
                        first=_rank() * len(local_B2KD),
                        margin=_MARGIN,
                    )
                )
        return torch.stack(parts).sum()

    def active(self, scores_B2K: Tensor) -> Tensor:
        """(B,K) bool: the concepts of two views that are compared locally."""
        threshold = self.options.threshold
        if threshold is None:
            return losses.top_concepts(scores_B2K, above=self.options.active)
        return losses.likely_concepts(scores_B2K, threshold=threshold, temperature=_CONCEPT_TEMPERATURE)

    def before_step(self, step: int) -> None:
        """Drop the gradients of what is not learnt yet: of 0, Adam with weight decay would still move it."""
        frozen: list[nn.Module] = []
        if self._epoch < self.options.prototypes_from:
            frozen += [self.heads.prototype, self.heads.prototype_s, self.heads.prototype_d]
        if self._epoch < self.options.local_from:
            frozen.append(self.heads.lit)
        for module in frozen:
            module.zero_grad(set_to_none=True)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Scale the prototypes to length 1, and put the step's scores into the queue."""
        self.heads.normalise_prototypes()
        if self._scores is None:
            return
        scores, self._scores = gather_ranks(self._scores), None
        rows = min(len(scores), len(self.queue))
        self.queue.copy_(torch.cat([self.queue[rows:], scores[len(scores) - rows :]]))
        self.queued.copy_((self.queued + rows).clamp(max=len(self.queue)))

    def _types(self) -> tuple[slice, slice]:
        concepts = self.options.concepts
        return slice(0, concepts), slice(concepts, 2 * concepts)

    def _instance(self, instance: dict[str, Tensor]) -> Tensor:
        def contrast(one: str, at: int, other: str) -> Tensor:
            """From a view of one kind to the other clip's view of the other kind."""
            return losses.instance_contrast(
                instance[one][:, at],
                keys[other][:, 1 - at],
                first=_rank() * len(instance[one]),
                temperature=_INSTANCE_TEMPERATURE,
            )

        keys = {name: gather_ranks(embedding.detach()) for name, embedding in instance.items()}
        both = ("fvv", "fvv"), ("fvs", "fsv"), ("fsv", "fvs"), ("fvd", "fdv"), ("fdv", "fvd")
        return torch.stack([contrast(one, at, other) for one, other in both for at in (0, 1)]).sum() / 2

    def _alignment(self, scores_B6K: Tensor) -> Tensor:
        every_N6K, valid = gather_ranks(scores_B6K.detach()), None
        first, batch = _rank() * len(scores_B6K), len(every_N6K)
        if self._epoch >= self.options.queue_from:
            size = len(self.queue)
            row = torch.arange(batch + size, device=every_N6K.device)
            # The queue's newest rows are its last ones.
            valid = (row < batch) | (row >= batch + size - self.queued)
            every_N6K = torch.cat([every_N6K, self.queue])
        parts = []
        for views, concepts in zip((_STATIC, _DYNAMIC), self._types(), strict=True):
            target = losses.sinkhorn(
                every_N6K[:, views, concepts], valid_N=valid, epsilon=_EPSILON, iterations=_ITERATIONS
            )
            own = target[first : first + len(scores_B6K)]
            parts.append(losses.alignment(scores_B6K[:, views, concepts], own, temperature=_CONCEPT_TEMPERATURE))
        return torch.stack(parts).sum()

    def _entropy(self, scores_B6K: Tensor) -> Tensor:
        """Of the type that a view should not express."""
        static, dynamic = self._types()
        parts = (scores_B6K[:, RESIDUAL, static], scores_B6K[:, FRAME, dynamic])
        return torch.stack([losses.negative_entropy(part, temperature=_CONCEPT_TEMPERATURE) for part in parts]).sum()

    def _unused(self) -> Tensor:
        """0, of all parameters of the local loss: with several processes each parameter has to get a gradient."""
        return torch.stack([p.sum() for p in self.heads.lit.parameters()]).sum() * 0


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _view_options(backbone: Backbone, data: DataConfig, options: ConceptsOptions) -> ViewOptions:
    """How views are made, by the recipe's `data` section.

    Raises:
        UserError: what the task cannot do.
    """
    if data.crop is None:
        raise UserError("the task concepts needs the size of its views: set data.crop=128")
    if backbone.in_channels != 3:
        raise UserError(
            f"the task concepts takes RGB clips; backbone.in_channels is {backbone.in_channels}: set it to 3, and "
            "data.column to an RGB column"
        )
    jitter = data.spec().jitter
    if jitter is not None and jitter.per_frame:
        raise UserError(
            "the task concepts changes the colours of all frames of a view alike; set data.jitter.per_frame=false"
        )
    crop = (data.crop, data.crop) if isinstance(data.crop, int) else data.crop
    return ViewOptions(crop=crop, area=data.area, flip=data.flip, grey=options.grey, jitter=jitter)
