"""Meters: weighted means, rates without pauses, a watch on the loss."""

from __future__ import annotations

import pytest
import torch

from trainer.engine.finite import FiniteWatch, all_finite
from trainer.engine.meters import ScalarMeter, Stopwatch, peak_memory_mb


def test_scalars_are_summed_with_weights_and_forgotten_when_read() -> None:
    meter = ScalarMeter()
    meter.update({"loss": torch.tensor(2.0), "accuracy": torch.tensor(0.5)}, weight=3)
    meter.update({"loss": torch.tensor(4.0)})
    assert meter.read() == {"accuracy": (1.5, 3), "loss": (10.0, 4)}
    assert meter.read() == {}


def test_scalars_keep_no_graph() -> None:
    meter, value = ScalarMeter(), torch.ones((), requires_grad=True)
    meter.update({"loss": value * 2})
    assert all(not total.requires_grad for total in meter._sums.values())


def test_stopwatch_counts_waiting_and_leaves_out_pauses() -> None:
    now = [0.0]
    watch = Stopwatch(clock=lambda: now[0])

    def slow_items() -> object:
        for item in range(2):
            now[0] += 3.0
            yield item

    for _ in watch.waits(slow_items()):  # type: ignore[arg-type]
        now[0] += 1.0
        watch.count(16)
        with watch.pause():
            now[0] += 100.0
    assert watch.read() == {"clips_per_s": 32 / 8, "data_wait": 6 / 8}
    now[0] += 2.0
    assert watch.read() == {"clips_per_s": 0.0, "data_wait": 0.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_first_loss_that_is_not_finite_is_found_with_its_samples(bad: float) -> None:
    watch = FiniteWatch()
    for step, loss in enumerate([1.0, bad, bad]):
        watch.add(step, torch.tensor(loss), torch.tensor([step, 10 + step]))
    found = watch.bad()
    assert found is not None
    assert (found.step, found.samples.tolist()) == (1, [1, 11])
    assert FiniteWatch().bad(wait=True) is None


def test_weights_are_looked_at_too() -> None:
    module = torch.nn.BatchNorm1d(2)
    assert all_finite(module)
    module.running_var[1] = float("nan")
    assert not all_finite(module)


def test_peak_memory_is_that_of_this_process_in_megabytes() -> None:
    assert 50 < peak_memory_mb(torch.device("cpu")) < 100_000
