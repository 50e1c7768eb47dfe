"""RSPNet: which of two clips plays at the query's speed, and which comes from its video? (Chen et al., AAAI 2021,
arXiv 2011.07949; reference/rspnet.md)

Of each video come a query clip q and a second clip at both speeds: k at the query's, n ("negative") at the other one.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.models.base import Backbone, Features
from trainer.strict import Strict
from trainer.tasks.base import Task
from trainer.tasks.losses import gather_ranks
from trainer.tasks.momentum import (
    Queue,
    copy_over,
    encode_in_groups,
    encode_shuffled,
    follow,
    groups_here,
    queue_contrast,
    rank,
    shuffle_order,
    world,
)

if TYPE_CHECKING:
    from trainer.data.batch import Batch

Kind = Literal["linear", "mlp", "conv", "convbn"]
_Q, _K, _N = range(3)  # places of the three clips
_A, _M = range(2)  # places of the two embeddings
_FEW = 8  # clips a group: groups of 4 have been seen to fail, groups of 16 not (docs/recipes.md, small data sets)


class RspnetOptions(Strict):
    """Options of the task `rspnet`.

    Args:
        speeds: of a video's clips the slow ones take every frame, the fast ones every r-th, r one of these. Clips have
            `data.frames` frames at both speeds, from windows of r times as many.
        pairs: of speeds that are compared: "slow": 1 and one of `speeds`, as in the reference. "all": any two of 1 and
            `speeds`, so that a query has each speed equally often.
        draw: "batch": half of each batch has slow queries, the other half fast ones, as in the reference; each pair is
            in it equally often. "sample": drawn for each video.
        rule: what a clip does that runs over the end of its video (`shards.spec.ClipSpec.when_short`). "window": cuts
            fall at the same places at both speeds. "loop": the reference's, whose cuts tell the speed.
        projection: D, width of both embeddings.
        head: of both embeddings: "linear" on the pooled features, as in all configs of the reference; "mlp": Linear,
            ReLU, Linear; "conv": two 3x3x3 convolutions of the last map with ReLU between, pooling, Linear; "convbn":
            one with batch normalisation and ReLU.
        queue: K, past keys that a query must tell from its own. Any number from the batch on.
        negatives: "all": every key of the queue, as in the reference. "others": but those of the query's own video,
            which a small data set has many of.
        momentum: of the key network.
        temperature: of both losses.
        margin: of the ranking, in cosine / temperature: the reference's 2.0 at 0.07 is a cosine of 0.14.
        appearance_weight, motion_weight: of the two losses.
        bn_groups: the batch is encoded in so many groups (over all processes; each has at least one), keys shuffled
            among them, so that a key never shares the batch statistics of its query. 4 is the reference's 4 GPUs.
    """

    speeds: tuple[int, ...] = (2,)
    pairs: Literal["slow", "all"] = "slow"
    draw: Literal["batch", "sample"] = "batch"
    rule: Literal["window", "loop"] = "window"
    projection: int = Field(default=128, ge=1)
    head: Kind = "linear"
    queue: int = Field(default=16384, ge=1)
    negatives: Literal["all", "others"] = "all"
    momentum: float = Field(default=0.999, ge=0, lt=1)
    temperature: float = Field(default=0.07, gt=0)
    margin: float = Field(default=2.0, ge=0)
    appearance_weight: float = Field(default=1.0, ge=0)
    motion_weight: float = Field(default=1.0, ge=0)
    bn_groups: int = Field(default=4, ge=1)

    @field_validator("speeds")
    @classmethod
    def _faster(cls, speeds: tuple[int, ...]) -> tuple[int, ...]:
        if not speeds or min(speeds) < 2 or len(set(speeds)) != len(speeds):
            raise ValueError("different whole numbers of at least 2 are needed; slow clips have speed 1")
        return speeds


class Rspnet(Task):
    """Margin ranking of the two speeds ("motion_loss", RSP) plus two cross entropies against a queue of other videos'
    keys ("appearance_loss", A-VID: the key's speed does not matter).

    Logs "motion_accuracy", the share of queries that are nearer to the key of their own speed, and
    "appearance_accuracy", the share that are nearer to their key than to any in the queue.
    """

    Options = RspnetOptions
    options: RspnetOptions

    def __init__(self, backbone: Backbone, data: DataConfig, options: RspnetOptions, classes: tuple[str, ...]) -> None:
        super().__init__(backbone, data, options, classes)
        if data.when_short not in ("window", options.rule):
            raise UserError(
                f"data.when_short is {data.when_short!r}, but the task rspnet decides this itself; remove it, or set "
                f"task.rule to one of: window, loop"
            )
        places = range(len(options.speeds) + 1)
        pairs = [(a, b) for a in places for b in places if a != b and (0 in (a, b) or options.pairs == "all")]
        self.options = options
        self.spec = replace(
            data.spec(strides=(1, *options.speeds), clips=3),
            when_short=options.rule,
            windows=(0, 1, 1),
            stride_rows=tuple((a, a, b) for a, b in sorted(pairs, key=lambda pair: (max(pair), pair))),
            deal=options.draw == "batch",
        )
        self.heads = nn.ModuleList([Head(backbone.width, options.projection, options.head) for _ in (_A, _M)])
        self.key_backbone, self.key_heads = deepcopy(backbone).requires_grad_(False), deepcopy(self.heads)
        self.key_heads.requires_grad_(False)
        self.queue = Queue(options.queue, options.projection)
        self._shuffles = int(torch.randint(2**31, ()))  # the same on every process, whose generators are seeded alike
        self._new: tuple[Tensor, Tensor] | None = None

    def check_batch(self, batch: int) -> None:
        """Also notes groups of so few clips that their batch statistics hide the speed.

        Raises:
            UserError: it is larger than the queue.
        """
        super().check_batch(batch)
        groups = self.options.bn_groups
        if groups > 1 and batch < _FEW * groups:
            self.notes = (
                f"a batch of {batch} in {groups} groups leaves {max(1, batch // groups)} clips a group, whose batch "
                f"statistics hide the speed; better here: --set task.bn_groups={max(1, batch // (2 * _FEW))}",
            )

    def begin(self) -> None:
        """Both networks begin alike, also where the backbone got its weights after this task was made."""
        copy_over(self.key_backbone, self.backbone)
        copy_over(self.key_heads, self.heads)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses and accuracies of the three clips of each video."""
        self.queue.check(len(batch) * world())
        clips_BVCTHW = augment(batch, self.backbone.convention)
        queries = self._embed(clips_BVCTHW[:, _Q])
        with torch.no_grad():
            # In the reference's order, which running statistics of the key network can tell.
            negatives = self._keys(clips_BVCTHW[:, _N], batch.step, _N)
            keys = self._keys(clips_BVCTHW[:, _K], batch.step, _K)
            if self.training:
                self._new = negatives[:, _A], gather_ranks(batch.sample)
        mine = slice(rank() * len(batch), (rank() + 1) * len(batch))
        with torch.autocast(queries.device.type, enabled=False):
            return self.losses(queries, keys[mine], negatives[mine], batch.sample)

    def after_step(self, step: int) -> None:
        """The key network follows, and the newest keys enter the queue."""
        follow(self.key_backbone, self.backbone, self.options.momentum)
        follow(self.key_heads, self.heads, self.options.momentum)
        if self._new is not None:
            self.queue.push(*self._new)
            self._new = None

    def _embed(self, clips_NCTHW: Tensor) -> Tensor:
        """(N,2,D) embeddings of length 1 of queries."""
        encode = _encoder(self.backbone, self.heads)
        groups = groups_here(self.options.bn_groups, len(clips_NCTHW)) if self.training else 1
        return encode_in_groups(encode, clips_NCTHW, groups)

    def _keys(self, clips_NCTHW: Tensor, step: int, stream: int) -> Tensor:
        """(global batch,2,D) embeddings of length 1 by the key network, over all processes."""
        encode = _encoder(self.key_backbone, self.key_heads)
        if not self.training:
            return gather_ranks(encode(clips_NCTHW))
        count = len(clips_NCTHW) * world()
        order = shuffle_order(count, seed=self._shuffles, step=step, stream=stream, device=clips_NCTHW.device)
        return encode_shuffled(encode, clips_NCTHW, groups_here(self.options.bn_groups, len(clips_NCTHW)), order)

    def losses(
        self, queries_N2D: Tensor, keys_N2D: Tensor, negatives_N2D: Tensor, sample_N: Tensor
    ) -> dict[str, Tensor]:
        """Losses and accuracies of embeddings (N,2,D) of length 1: of queries, of keys at their speed, and at the other
        one. Keys and queue have no gradient."""
        options = self.options
        same_N2, other_N2 = (queries_N2D * keys_N2D).sum(2), (queries_N2D * negatives_N2D).sum(2)
        queue_NK = queries_N2D[:, _A] @ self.queue.keys.T
        if options.negatives == "others":
            queue_NK = queue_NK.masked_fill(sample_N[:, None] == self.queue.owner, -torch.inf)
        positives = same_N2[:, _A], other_N2[:, _A]
        appearance = torch.stack([queue_contrast(p, queue_NK, options.temperature) for p in positives]).sum()
        motion = ranking(same_N2[:, _M], other_N2[:, _M], temperature=options.temperature, margin=options.margin)
        return {
            "loss": options.appearance_weight * appearance + options.motion_weight * motion,
            "appearance_loss": appearance.detach(),
            "motion_loss": motion.detach(),
            "appearance_accuracy": (positives[0] > queue_NK.amax(1)).float().mean(),
            "motion_accuracy": (same_N2[:, _M] > other_N2[:, _M]).float().mean(),
        }


def ranking(near_N: Tensor, far_N: Tensor, *, temperature: float, margin: float) -> Tensor:
    """Mean of max(0, margin − (near − far) / temperature): cosines of the same speed and of the other one."""
    return functional.relu(margin - (near_N - far_N) / temperature).mean()


class Head(nn.Module):
    """One embedding, before it is scaled to length 1; PyTorch's default initialisation.

    Args:
        width: of the backbone.
        projection: of the embedding.
        kind: as `RspnetOptions.head`.
    """

    def __init__(self, width: int, projection: int, kind: Kind) -> None:
        super().__init__()
        self.convolutions = nn.Sequential()
        if kind in ("conv", "convbn"):
            between = nn.BatchNorm3d(width) if kind == "convbn" else nn.ReLU(inplace=True)
            last = nn.ReLU(inplace=True) if kind == "convbn" else nn.Conv3d(width, width, 3, padding=1)
            self.convolutions = nn.Sequential(nn.Conv3d(width, width, 3, padding=1), between, last)
        hidden = [nn.Linear(width, width), nn.ReLU(inplace=True)] if kind == "mlp" else []
        self.project = nn.Sequential(*hidden, nn.Linear(width, projection))

    def forward(self, features: Features) -> Tensor:
        pooled = features.pooled
        if len(self.convolutions):
            pooled = self.convolutions(features.last.float()).mean((2, 3, 4))
        projected: Tensor = self.project(pooled)
        return projected


def _encoder(backbone: nn.Module, heads: nn.ModuleList) -> Callable[[Tensor], Tensor]:
    def encode(clips_NCTHW: Tensor) -> Tensor:
        features = backbone(clips_NCTHW)
        # In bf16 a cosine of 1 would be known to 1/256, which is 0.06 after the temperature.
        with torch.autocast(clips_NCTHW.device.type, enabled=False):
            return functional.normalize(torch.stack([head(features) for head in heads], dim=1), dim=2)

    return encode
