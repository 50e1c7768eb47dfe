"""Statistics: where in a clip is motion largest, which way does it point, where do colours change, and to what?

Wang et al., CVPR 2019 (arXiv 1904.03597) and T-PAMI 44(7) (arXiv 2008.13426); reference/statistics.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from shards.errors import UserError
from shards.mixture import Mixture
from trainer.augment import augment, mirrored
from trainer.config import DataConfig
from trainer.models.base import Backbone
from trainer.strict import Strict
from trainer.tasks.base import Task
from trainer.tasks.losses import gather_ranks
from trainer.tasks.statistics.appearance import APPEARANCE_NUMBERS, appearance_labels
from trainer.tasks.statistics.motion import MOTION_NUMBERS, Variant, motion_labels
from trainer.tasks.statistics.regions import check_window

if TYPE_CHECKING:
    from shards.dataset import Dataset
    from trainer.data.batch import Batch

Group = Literal[1, 2, 3, "global"]
Groups = tuple[Group, ...]
_EVERY: Groups = (1, 2, 3, "global")
_REGIONS = {1: 16, 2: 4, 3: 8}
_OCTANTS = 8  # directions and colours


class StatisticsOptions(Strict):
    """Options of the task `statistics`.

    Args:
        labels: "table": clips are those of a table of the data set, made once by `vidprep labels`, which carries
            their numbers. "online": any clips; their numbers are computed on the device from the flow column.
        table: the table column.
        flow: the flow column; only for labels: online.
        flip: how mirrored clips are labelled; only for labels: online. "physical": u changes its sign. "literal": it
            does not, as in the reference, so that the directions of u are wrong by 180 degrees in mirrored clips.
            "none": no clip is mirrored.
        variant: "reference" takes over the reference's errors (`vidprep.statistics`); a table was made in one of the
            two ways. Under "corrected" a motion number of a region in which nothing moves is 0 and not learnt.
        motion, appearance: groups of numbers to learn: patterns 1 (4x4 grid), 2 (rings), 3 (triangles), and global.
            An empty list leaves out the branch.
        motion_weight, appearance_weight: factors of the two mean squared errors.
        standardize: learn (label − mean) / deviation instead of the label itself, with the mean (n+1)/2 and deviation
            √((n²−1)/12) of a number that is uniform in its range 1..n. It gives all numbers the same weight, where
            in the reference a block (1 to 16) outweighs a direction (1 to 8) four times.
    """

    labels: Literal["table", "online"] = "table"
    table: str = "statistics"
    flow: str = "flow"
    flip: Literal["physical", "literal", "none"] = "physical"
    variant: Variant = "corrected"
    motion: Groups = _EVERY
    appearance: Groups = _EVERY
    motion_weight: float = Field(default=1.0, ge=0)
    appearance_weight: float = Field(default=0.1, ge=0)
    standardize: bool = False

    @model_validator(mode="after")
    def _groups(self) -> StatisticsOptions:
        for name in ("motion", "appearance"):
            groups: Groups = getattr(self, name)
            if len(set(groups)) != len(groups):
                raise ValueError(f"{name} is {list(groups)}; each of 1, 2, 3, global can be given once")
        if not self.motion and not self.appearance:
            raise ValueError("motion and appearance are both empty; one of them has to be learnt")
        if self.labels == "table" and self.flip != "physical":
            raise ValueError(
                f"flip is {self.flip!r}, but a table's rows say which clips are mirrored and how these are labelled; "
                f"make such a table with vidprep labels --flip {self.flip}, or set task.labels=online"
            )
        return self


class Statistics(Task):
    """Mean squared errors of the 14 motion and 13 appearance numbers, from a linear layer each on the pooled features.

    Logs "motion_loss" and "appearance_loss" without their weights; "motion_error" and "appearance_error", the mean
    distance of a prediction from its label (a block or bin number); and under the corrected variant "motionless", the
    share of motion numbers that are left out.
    """

    Options = StatisticsOptions
    options: StatisticsOptions

    def __init__(
        self, backbone: Backbone, data: DataConfig, options: StatisticsOptions, classes: tuple[str, ...]
    ) -> None:
        super().__init__(backbone, data, options, classes)
        self.options = options
        if options.labels == "table":
            self.spec = replace(self.spec, table=options.table)
        else:
            height, width = self.spec.crop_size or (0, 0)
            check_window(height, width)
            if data.frames < 2:
                raise UserError(f"data.frames is {data.frames}; motion needs at least 2")
            flip = 0.0 if options.flip == "none" else self.spec.flip
            self.spec = replace(self.spec, flip=flip, flow=options.flow if options.motion else None)
        self.motion = Numbers(range(MOTION_NUMBERS), options.motion, fields=data.frames - 1)
        self.appearance = Numbers(range(MOTION_NUMBERS, MOTION_NUMBERS + APPEARANCE_NUMBERS), options.appearance)
        # The names of the reference.
        self.motion_linear = self.motion.head(backbone.width)
        self.app_linear = self.appearance.head(backbone.width)

    def prepare(self, dataset: Dataset | Mixture, samples: npt.NDArray[np.int64]) -> None:
        """Refuse a table of the other variant: its numbers, and what 0 means among them, are others.

        Raises:
            UserError: names the setting, and the command that makes the table.
        """
        if self.options.labels != "table":
            return
        for part in dataset.parts if isinstance(dataset, Mixture) else (dataset,):
            made = part.meta.columns[self.options.table].parameters.get("variant")
            if made is not None and made != self.options.variant:
                raise UserError(
                    f"table {self.options.table!r} of {part.url} has labels of variant {made}, the recipe asks for "
                    f"{self.options.variant}: --set task.variant={made}, or make another table with vidprep labels "
                    f"{part.url} --variant {self.options.variant} --column {self.options.table}-{self.options.variant}"
                )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses and errors of the labels, the batch's own or computed here."""
        pooled = self.backbone(augment(batch, self.backbone.convention).flatten(0, 1)).pooled
        labels = self.labels(batch)
        options, scalars = self.options, dict[str, Tensor]()
        if self.motion_linear is not None:
            known = labels > 0 if options.variant == "corrected" else None
            part = self._regression(self.motion_linear, self.motion, pooled, labels, known)
            scalars |= {"motion_loss": part.loss, "motion_error": part.error}
            if known is not None:
                scalars["motionless"] = 1 - part.share
        if self.app_linear is not None:
            part = self._regression(self.app_linear, self.appearance, pooled, labels, None)
            scalars |= {"appearance_loss": part.loss, "appearance_error": part.error}
        weights = {"motion_loss": options.motion_weight, "appearance_loss": options.appearance_weight}
        losses = [weight * scalars[name] for name, weight in weights.items() if name in scalars]
        return {"loss": torch.stack(losses).sum(), **scalars}

    @torch.no_grad()
    def labels(self, batch: Batch) -> Tensor:
        """(B·V,27) int64 labels of the batch's clips; numbers that are not learnt may be 0."""
        count = MOTION_NUMBERS + APPEARANCE_NUMBERS
        if batch.targets is not None:
            if batch.targets.shape[2] != count:
                raise UserError(
                    f"table {self.options.table} has {batch.targets.shape[2]} numbers a clip; statistics are {count}: "
                    "make a table with vidprep labels, or name it with task.table"
                )
            return batch.targets.flatten(0, 1)
        flip = batch.flip.flatten()
        parts = [flip.new_zeros((len(flip), n), dtype=torch.int64) for n in (MOTION_NUMBERS, APPEARANCE_NUMBERS)]
        if self.options.motion:
            if batch.flow is None:
                raise ValueError("online labels need a batch with flow")
            planes, physical = mirrored(batch.flow.flatten(0, 1), flip), self.options.flip == "physical"
            parts[0] = motion_labels(planes, variant=self.options.variant, negate_u=flip if physical else None)
        if self.options.appearance:
            parts[1] = appearance_labels(mirrored(batch.clips.flatten(0, 1), flip), variant=self.options.variant)
        return torch.cat(parts, dim=1)

    def _regression(
        self, head: nn.Linear, numbers: Numbers, pooled_ND: Tensor, labels_NK: Tensor, known_NK: Tensor | None
    ) -> _Regression:
        # In half precision a prediction of 16 would have steps of 1/8.
        with torch.autocast(pooled_ND.device.type, enabled=False):
            output = head(pooled_ND.float())
        mean, deviation = numbers.mean, numbers.deviation
        labels = numbers.of(labels_NK).float()
        target, scale = ((labels - mean) / deviation, deviation) if self.options.standardize else (labels, None)
        difference = output - target
        away = (difference.detach() if scale is None else difference.detach() * scale).abs()
        if known_NK is None:
            return _Regression(difference.square().mean(), away.mean(), torch.ones((), device=output.device))
        known = numbers.of(known_NK)
        # The mean over all ranks' known numbers: ranks have unequal shares of them, and their losses are averaged.
        counts = gather_ranks(known.sum()[None])
        count = counts.sum().clamp(min=1) / len(counts)
        share = known.float().mean()
        return _Regression((difference.square() * known).sum() / count, (away * known).sum() / count, share)


class _Regression(NamedTuple):
    """Scalars: mean squared error, mean distance in label numbers, share of labels that counted."""

    loss: Tensor
    error: Tensor
    share: Tensor


class Numbers(nn.Module):
    """Which of the 27 numbers a head learns.

    Args:
        places: of the branch's numbers: four for each pattern, then the global ones.
        groups: that are learnt.
        fields: largest number of a global motion label; None for the appearance branch.

    Attributes:
        mean, deviation: of numbers uniform in their range 1..n.
    """

    places: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, places: range, groups: Groups, *, fields: int | None = None) -> None:
        super().__init__()
        chosen: list[int] = []
        ranges: list[int] = []
        for group in _EVERY:
            if group not in groups:
                continue
            if group == "global":
                last = places[12:]
                chosen += last
                ranges += [_OCTANTS if fields is None else fields] * len(last)
            else:
                chosen += places[4 * (group - 1) : 4 * group]
                ranges += [_REGIONS[group], _OCTANTS] * 2
        n = torch.tensor(ranges, dtype=torch.float64)
        # Not part of a checkpoint: they follow from the recipe.
        self.register_buffer("places", torch.tensor(chosen, dtype=torch.int64), persistent=False)
        self.register_buffer("mean", ((n + 1) / 2).float(), persistent=False)
        deviation = ((n.square() - 1) / 12).sqrt()
        self.register_buffer("deviation", torch.where(n > 1, deviation, 1).float(), persistent=False)

    def head(self, width: int) -> nn.Linear | None:
        """A fresh linear layer for these numbers; None where there are none."""
        return nn.Linear(width, len(self.places)) if len(self.places) else None

    def of(self, labels_NK: Tensor) -> Tensor:
        """These of the 27 numbers."""
        return labels_NK.index_select(1, self.places)
