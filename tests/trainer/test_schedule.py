"""Learning rates as functions of the step, against torch's stateful schedulers."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.toys import toy_recipe
from trainer.config import Constant, Cosine, Milestones, StepSchedule, load_recipe
from trainer.engine.schedule import Length, learning_rate

LENGTH = Length(items=40, batch=4, total=60)  # 10 steps an epoch, 6 epochs


def torch_rates(make: object, per_epoch: bool = True) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for step in range(LENGTH.total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not per_epoch or (step + 1) % 10 == 0:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make", "per_epoch"),
    [
        (Constant(), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0), True),
        (StepSchedule(every=2), lambda o: torch.optim.lr_scheduler.StepLR(o, 2), True),
        (StepSchedule(every=0.1, gamma=0.9), lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.9), False),
        (Milestones(at=(1, 4), gamma=0.3), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 4], 0.3), True),
        (Cosine(), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 60), False),
        (Cosine(final=0.1), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 60, eta_min=0.05), False),
    ],
)
def test_rates_equal_those_of_torch(schedule: object, make: object, per_epoch: bool) -> None:
    ours = [learning_rate(schedule, 0.5, step, LENGTH) for step in range(LENGTH.total)]  # type: ignore[arg-type]
    assert ours == pytest.approx(torch_rates(make, per_epoch), rel=1e-9, abs=1e-12)


def test_warmup_rises_linearly_to_the_full_rate() -> None:
    rates = [learning_rate(Constant(warmup=0.5), 1.0, step, LENGTH) for step in range(8)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])


def test_cosine_after_warmup_starts_full_and_ends_at_zero() -> None:
    schedule = Cosine(warmup=1)
    assert learning_rate(schedule, 1.0, 10, LENGTH) == 1.0
    assert learning_rate(schedule, 1.0, 35, LENGTH) == pytest.approx(0.5)
    assert learning_rate(schedule, 1.0, 59, LENGTH) < 0.002


@pytest.mark.parametrize(
    ("train", "samples", "repeats", "total"),
    [
        ({"steps": None, "epochs": 18, "batch": 30}, 9537, 10, 57222),  # pace on UCF101 split 1
        ({"steps": None, "epochs": 2, "batch": 4}, 10, 1, 5),
        ({"steps": None, "epochs": 1, "batch": 4}, 10, 1, 3),  # the last step reaches into the next epoch
        ({"steps": None, "epochs": 0.1, "batch": 1}, 30, 1, 3),
        ({"steps": None, "epochs": 0.01, "batch": 8}, 10, 1, 1),
        ({"steps": 7}, 10, 3, 7),
    ],
)
def test_length_of_a_run(train: dict[str, object], samples: int, repeats: int, total: int) -> None:
    recipe = load_recipe(toy_recipe(train=train, data={"repeats": repeats}))
    length = Length.of(recipe, samples=samples)
    assert length.total == total
    assert length.epoch(length.total) == pytest.approx(total * recipe.train.batch / (samples * repeats))
