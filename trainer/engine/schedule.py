"""Length of a run and learning rate, as functions of the step. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.config import Constant, Cosine, Milestones, Recipe, ScheduleConfig, StepSchedule

_ROUNDING = 1e-9  # so that 0.3 epochs / 0.1 epochs is 3


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        items: clips draws of an epoch: samples x repeats.
        batch: items of a step, over all ranks.
        total: steps of the run.
    """

    items: int
    batch: int
    total: int

    @classmethod
    def of(cls, recipe: Recipe, *, samples: int) -> Length:
        """The length that the recipe gives to a run over that many samples."""
        items, train = samples * recipe.data.repeats, recipe.train
        total = train.steps or math.ceil((train.epochs or 0) * items / train.batch - _ROUNDING)
        return cls(items=items, batch=train.batch, total=max(1, total))

    def epoch(self, step: int) -> float:
        """Epochs that are done after `step` steps."""
        return step * self.batch / self.items

    def steps(self, epochs: float) -> int:
        """Steps in that many epochs, rounded, at least 1."""
        return max(1, round(epochs * self.items / self.batch))


def learning_rate(schedule: ScheduleConfig, lr: float, step: int, length: Length) -> float:
    """Learning rate of step number `step` (from 0)."""
    epoch = length.epoch(step)
    if epoch < schedule.warmup - _ROUNDING:
        return lr * (step + 1) / math.ceil(schedule.warmup * length.items / length.batch - _ROUNDING)
    return lr * _factor(schedule, epoch, length)


def _factor(schedule: ScheduleConfig, epoch: float, length: Length) -> float:
    match schedule:
        case Constant():
            return 1.0
        case StepSchedule():
            return float(schedule.gamma ** math.floor(epoch / schedule.every + _ROUNDING))
        case Milestones():
            return float(schedule.gamma ** sum(epoch >= at - _ROUNDING for at in schedule.at))
        case Cosine():
            end = length.epoch(length.total)
            done = (epoch - schedule.warmup) / max(end - schedule.warmup, _ROUNDING)
            return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
