"""Recipes: every mistake in one is named, and a resolved recipe is a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from shards.errors import UserError
from shards.spec import ClipSpec, Jitter
from tests.trainer.toys import toy_recipe
from trainer.config import DataConfig, Recipe, load_recipe
from trainer.recipes.files import merge, parse_overrides


def test_unknown_keys_name_the_nearest_one_at_every_depth() -> None:
    recipe = toy_recipe(data={"frmaes": 3}, optim={"name": "sgd", "lr": 0.1, "momentm": 0.5})
    recipe["trian"] = {}
    with pytest.raises(UserError) as error:
        load_recipe(recipe)
    text = str(error.value)
    assert "unknown key data.frmaes: did you mean frames?" in text
    assert "unknown key optim.momentm: did you mean momentum?" in text
    assert "unknown key trian: did you mean train?" in text
    assert "vidprep recipes" in text


def test_wrong_values_are_all_reported_with_what_was_given() -> None:
    with pytest.raises(UserError, match=r"data.flip.*less than or equal to 1.*got 2(.|\n)*train.batch.*got 0"):
        load_recipe(toy_recipe(data={"flip": 2}, train={"batch": 0}))


def test_a_missing_section_is_named() -> None:
    recipe = toy_recipe()
    del recipe["optim"]
    with pytest.raises(UserError, match="optim is missing"):
        load_recipe(recipe)


def test_an_unknown_optimiser_lists_the_allowed_ones() -> None:
    with pytest.raises(UserError, match=r"optim.*'sgd', 'adam', 'adamw'"):
        load_recipe(toy_recipe(optim={"name": "lion", "lr": 0.1}))


def test_a_length_in_steps_replaces_one_in_epochs(tmp_path: Path) -> None:
    train = load_recipe("pace-c3d", ["train.steps=7"]).train
    assert (train.steps, train.epochs) == (7, None)
    (tmp_path / "short.yaml").write_text("extends: pace-c3d\ntrain: {steps: 5}\n")
    train = load_recipe(tmp_path / "short.yaml", ["train.epochs=2"]).train
    assert (train.steps, train.epochs) == (None, 2)
    with pytest.raises(UserError, match="exactly one"):
        load_recipe("pace-c3d", ["train.steps=7", "train.epochs=2"])


@pytest.mark.parametrize("length", [{"steps": 3, "epochs": 2}, {"steps": None}])
def test_length_is_either_epochs_or_steps(length: dict[str, int]) -> None:
    with pytest.raises(UserError, match="exactly one of epochs"):
        load_recipe(toy_recipe(train=length))


def test_overrides_are_yaml_and_change_single_values() -> None:
    overrides = ["optim.lr=1e-3", "data.crop=[8, 12]", "data.jitter=null", "task.paces=3", "data.split='1'"]
    recipe = load_recipe(toy_recipe(), overrides)
    assert recipe.optim.lr == 0.001
    assert recipe.data.crop == (8, 12)
    assert recipe.data.jitter is None
    assert recipe.task.options == {"paces": 3}
    assert recipe.data.split == "1"


@pytest.mark.parametrize("text", ["optim.lr", "=3", "optim.lr=[1"])
def test_malformed_overrides_show_the_form(text: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_recipe(toy_recipe(), [text])


def test_another_name_replaces_the_options_of_the_old_one_in_any_order() -> None:
    for overrides in (["optim.name=adamw", "optim.lr=0.3"], ["optim.lr=0.3", "optim.name=adamw"]):
        optim = load_recipe(toy_recipe(optim={"name": "sgd", "lr": 0.1, "momentum": 0.5}), overrides).optim
        assert (optim.name, optim.lr, hasattr(optim, "momentum")) == ("adamw", 0.3, False)


def test_a_resolved_recipe_is_an_equal_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("pace-s3dg", ["data.split=träin", "train.validation={split: test}"])
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.yaml(), encoding="utf-8")
    again = load_recipe(file)
    assert again.tree() == recipe.tree()
    assert again.digest() == recipe.digest() != load_recipe("pace-s3dg").digest()


def test_extends_follows_names_and_files_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: pace-r3d\ntrain: {batch: 8}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\ntrain: {epochs: null, steps: 5}\n")
    recipe = load_recipe(tmp_path / "b.yaml")
    assert (recipe.name, recipe.train.batch, recipe.train.steps) == ("b", 8, 5)
    assert recipe.backbone.name == "r3d-vcop"
    assert recipe.optim == load_recipe("pace-c3d").optim


def test_a_circle_of_extends_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match=r"extends itself through a.yaml -> b.yaml"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("optim: {lr: 1, lr: 2}", "lr is given twice"),
        ("- a\n- b", "holds list"),
        ("a: [1", "is not YAML"),
        ("train: 3", "train"),
    ],
)
def test_recipe_files_that_are_none(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_recipe(file)


def test_unknown_recipes_name_the_nearest_and_missing_files_their_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean pace-r21d\?"):
        load_recipe("pace-r2d")
    with pytest.raises(UserError, match="nowhere.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_numbers_with_exponents_are_numbers_and_words_stay_words() -> None:
    tree = parse_overrides(["a=1e-3", "b=2E5", "c=e5", "d=1.5e+2", "f=v1e3"])
    assert tree == {"a": 0.001, "b": 2e5, "c": "e5", "d": 150.0, "f": "v1e3"}


def test_merge_leaves_its_arguments_alone() -> None:
    base, change = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(base, change) == {"a": {"b": 1, "c": 2}}
    assert (base, change) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_data_section_becomes_a_clip_spec() -> None:
    data = DataConfig(frames=8, resize=(20, 30), crop=16, fps=10, flip=0.25, jitter={"hue": 0.1}, when_short="loop")
    assert data.spec(strides=(1, 2), clips=3) == ClipSpec(
        frames=8,
        strides=(1, 2),
        clips=3,
        resize=(20, 30),
        crop=16,
        fps=10,
        flip=0.25,
        jitter=Jitter(hue=0.1),
        when_short="loop",
    )


def test_order_options_are_checked_with_the_recipe() -> None:
    for change, told in (
        ("data.shuffle=block:3", r"data.*allowed: full, none, or blocks:k"),
        ("data.clips_per_read=2", r"--set data.repeats=2"),
    ):
        with pytest.raises(UserError, match=told):
            load_recipe(toy_recipe(), [change])
    data = load_recipe(toy_recipe(), ["data.shuffle=none", "data.repeats=4", "data.clips_per_read=2"]).data
    assert (data.shuffle, data.clips_per_read) == ("none", 2)


def test_keys_of_a_recipe_are_a_promise() -> None:
    """Run folders hold these keys: renaming one breaks resuming. Adding one with a default does not."""
    sections = yaml.safe_load(load_recipe(toy_recipe()).yaml())
    assert {name: sorted(s) if isinstance(s, dict) else None for name, s in sections.items()} == {
        "name": None,
        "description": None,
        "task": ["name"],
        "backbone": ["base_width", "name"],
        "data": sorted(
            "column frames resize resize_range crop area fps flip jitter repeats shuffle clips_per_read when_short "
            "cover split keep workers threads".split()
        ),
        "optim": sorted(
            "name lr momentum nesterov weight_decay backbone_lr_scale bias_lr_scale decay_all clip_norm".split()
        ),
        "schedule": ["name", "warmup"],
        "train": sorted(
            "epochs steps batch seed precision channels_last compile fused log_every save_every keep validation".split()
        ),
        "init": None,
    }
    assert set(Recipe.model_fields) == {*sections, "about"}  # which run folders do not hold
