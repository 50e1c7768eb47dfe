"""The checks that tasks should pass are passed by ours, and not by a broken one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.toys import THIS
from trainer.config import load_recipe
from trainer.testing import SMALL, check_overfit, check_ranks, check_resume, check_task, generate


def broken(name: str) -> dict[str, object]:
    return {**SMALL, "name": "check", "task": {"name": f"{THIS}:{name}"}}


def test_the_recipe_of_pace_passes(tmp_path: Path) -> None:
    small = ["backbone.base_width=2", "data.frames=8", "data.resize=[32,40]", "data.crop=24", "train.batch=4"]
    alone = ["data.workers=0", "train.precision=float32", "task.contrastive=context"]
    check_task("pace-r3d", tmp_path, overrides=[*small, *alone])


def test_a_task_that_does_not_learn_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not learn 4 videos by heart"):
        check_overfit(load_recipe(broken("Deaf")), generate(tmp_path / "data"), steps=3)


def test_a_task_that_remembers_outside_its_state_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="resumed at step 2 of 4 gives other tensors"):
        check_resume(load_recipe(broken("Deaf")), generate(tmp_path / "data"), tmp_path)


def test_a_task_whose_loss_needs_the_whole_batch_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="on two processes has another gradient"):
        check_ranks(load_recipe(broken("Selfish")), generate(tmp_path / "data"), tmp_path / "ranks")
