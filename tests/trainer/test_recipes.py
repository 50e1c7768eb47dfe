"""Shipped recipes: they build, and those of the reference carry its settings."""

from __future__ import annotations

import re

import pytest

from shards.spec import Jitter
from trainer.config import load_recipe
from trainer.models import build_backbone
from trainer.recipes.files import find_recipe, recipe_names
from trainer.tasks import build_task

PACE = {
    # name: backbone, frames, resize, crop, batch (reference/pace.md sections 4 and 5)
    "pace-c3d": ("c3d-bn", 16, (128, 171), 112, 30),
    "pace-r3d": ("r3d-vcop", 16, (128, 171), 112, 30),
    "pace-r21d": ("r21d-vcop", 16, (128, 171), 112, 30),
    "pace-s3dg": ("s3dg-pace", 64, (256, 256), 224, 32),
}


@pytest.mark.parametrize("name", PACE)
def test_pace_recipes_carry_the_reference_settings(name: str) -> None:
    recipe = load_recipe(name)
    data, train = recipe.data, recipe.train
    assert (recipe.backbone.name, data.frames, data.resize, data.crop, train.batch) == PACE[name]
    assert recipe.backbone.options == {}
    assert recipe.task.options == {"paces": 4, "rule": "window"}
    assert recipe.optim.model_dump() == {
        "name": "sgd",
        "lr": 1e-3,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-3,
        "decay_all": True,
        "backbone_lr_scale": 1.0,
        "bias_lr_scale": 1.0,
        "clip_norm": None,
    }
    assert recipe.schedule.model_dump() == {"name": "step", "every": 6, "gamma": 0.1, "warmup": 0}
    assert (train.epochs, data.repeats, data.flip, data.fps) == (18, 10, 0.5, None)
    assert data.spec().jitter == Jitter(
        brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8, per_frame=True
    )


STATISTICS = {  # backbone (reference/statistics.md section 7)
    "statistics-c3d": "c3d-bn",
    "statistics-r3d": "r3d-vcop",
    "statistics-r21d": "r21d-vcop",
    "statistics-s3dg": "s3dg-pace",
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_recipes_carry_the_reference_settings(name: str) -> None:
    """reference/statistics.md sections 2, 3 and 8."""
    recipe = load_recipe(name)
    data, train = recipe.data, recipe.train
    assert (recipe.backbone.name, recipe.backbone.options) == (STATISTICS[name], {})
    assert (data.frames, data.resize, data.crop, data.flip, data.jitter) == (16, (128, 171), 112, 0.5, None)
    assert {key: recipe.task.options[key] for key in ("motion_weight", "appearance_weight", "standardize")} == {
        "motion_weight": 1.0,
        "appearance_weight": 0.1,
        "standardize": False,
    }
    assert (recipe.task.options["labels"], recipe.task.options["variant"]) == ("table", "corrected")
    assert recipe.optim.model_dump() == {
        "name": "sgd",
        "lr": 5e-4,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-3,
        "decay_all": True,
        "backbone_lr_scale": 1.0,
        "bias_lr_scale": 2.0,
        "clip_norm": None,
    }
    assert recipe.schedule.model_dump() == {"name": "step", "every": 6, "gamma": 0.1, "warmup": 0}
    assert (train.epochs, train.batch) == (18, 30)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_its_task(name: str) -> None:
    recipe = load_recipe(name)
    if recipe.task.name == "cpd":
        recipe = load_recipe(recipe, ["task.text=builtin"])  # the recipe's own comes from the hub
    backbone = build_backbone(recipe.backbone.name, **{**recipe.backbone.options, "base_width": 4})
    task = build_task(
        recipe.task.name, backbone=backbone, data=recipe.data, options=recipe.task.options, classes=("a", "b")
    )
    clips = 2 if recipe.task.name == "concepts" else 1  # that are read as one
    assert task.spec.frames == clips * recipe.data.frames
    assert recipe.description
    assert recipe.name == name


@pytest.mark.parametrize("name", [*PACE, *STATISTICS, "finetune"])
def test_recipe_files_say_how_to_pack_and_where_each_value_comes_from(name: str) -> None:
    text = find_recipe(name).read_text(encoding="utf-8")
    assert f"vidprep train {name}" in text
    if name != "finetune":
        assert "vidprep pack" in text
        assert "ublished" in text
    value = re.compile(r"^  \w+:")
    jitter = "[code] torchvision ColorJitter"  # one source for the block below it
    unsourced = [line for line in text.splitlines() if value.match(line) and "# " not in line]
    assert jitter in text or "jitter:\n" not in text
    assert not unsourced
