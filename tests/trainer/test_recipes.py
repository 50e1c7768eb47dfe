"""Shipped recipes: they build, and their files say where each value comes from."""

from __future__ import annotations

import re

import pytest

from trainer.config import load_recipe
from trainer.models import build_backbone
from trainer.recipes.files import find_recipe, recipe_names
from trainer.tasks import build_task


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


@pytest.mark.parametrize("name", [name for name in recipe_names() if not name.startswith("demo-")])
def test_recipe_files_say_where_each_value_comes_from(name: str) -> None:
    text = find_recipe(name).read_text(encoding="utf-8").partition("\nabout:")[0]
    source = re.compile(r"# (\[(config|code|README|default|ours|MLFO|Pace|RSP|CPD|rspnet|pace|statistics)\])")
    values = [line for line in text.splitlines() if re.match(r"^ +\w+:", line)]
    if "torchvision ColorJitter" in text:  # one source for the block below it
        values = [line for line in values if not line.startswith("    ")]
    unsourced = [line for line in values if not source.search(line) and not re.search(r"\w+: *(#|$)", line)]
    own = (
        "  name: cpd",
        "  name: joint",
        "  name: r3d-vcop                # the pretrained network",
        "  at: [101, 202, 251]",
    )
    assert [line for line in unsourced if not line.startswith(own)] == []
