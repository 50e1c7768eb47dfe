"""The section `about`: what is written there is true of the recipe, and changes no run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from shards.errors import UserError
from tests.commands import parse_command
from tests.trainer.toys import toy_recipe
from trainer.config import Recipe, load_recipe
from trainer.models import build_backbone
from trainer.recipes.about import About
from trainer.recipes.facts import CAPTIONS, clip_text, columns_of, facts
from trainer.recipes.files import find_recipe, recipe_names
from trainer.tasks import Task, build_task

FIGURE = {"dataset": "UCF101", "metric": "fine-tuning", "value": 76.71, "source": "README"}
# Of this project: no command of a reference.
OWN = ("demo-pace", "demo-finetune", "finetune", "cpd-infonce", "joint-r21d", "statistics-s3dg")


def with_about(**about: object) -> dict[str, object]:
    return {**toy_recipe(), "about": about}


def built(recipe: Recipe) -> Task:
    if recipe.task.name == "cpd":
        recipe = load_recipe(recipe, ["task.text=builtin"])
    backbone = build_backbone(recipe.backbone.name, **{**recipe.backbone.options, "base_width": 4})
    options, classes = recipe.task.options, ("a", "b")
    return build_task(recipe.task.name, backbone=backbone, data=recipe.data, options=options, classes=classes)


def test_a_run_does_not_depend_on_it() -> None:
    plain = load_recipe(toy_recipe())
    told = load_recipe(with_about(paper="A paper", published=[FIGURE], memory_gb=3.5))
    assert told.about.paper == "A paper"
    assert told.digest() == plain.digest()
    assert told.tree() == plain.tree() and "about" not in told.tree()
    assert yaml.safe_load(told.yaml()) == plain.tree()


def test_overrides_keep_it_but_for_memory() -> None:
    told = load_recipe(with_about(paper="A paper", memory_gb=3.5))
    assert load_recipe(told).about == told.about
    assert load_recipe(told, ["train.batch=7"]).about == About(paper="A paper")
    assert load_recipe(told, ["about.gpus=2"]).about == About(paper="A paper", memory_gb=3.5, gpus=2)


def test_a_file_takes_over_the_method_but_no_results(tmp_path: Path) -> None:
    about = {"paper": "P", "code": "C", "prepare": ["vidprep pack m.jsonl DATA"], "gpus": 4, "samples": 9}
    own = {"command": "c", "run": ["vidprep demo"], "literal": ["vidprep demo"], "notes": ["n"], "memory_gb": 2.0}
    first = {**toy_recipe(), "about": {**about, **own, "published": [FIGURE]}}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))
    (tmp_path / "second.yaml").write_text("extends: first.yaml\nabout: {gpus: 2}\n")
    found = load_recipe(tmp_path / "second.yaml").about
    assert found == About.model_validate({**about, "gpus": 2})
    (tmp_path / "other.yaml").write_text("extends: first.yaml\ntask: {name: rspnet}\nabout: {notes: [n]}\n")
    assert load_recipe(tmp_path / "other.yaml").about == About(notes=("n",))  # another method


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"papr": "x"}, "did you mean paper"),
        ({"published": [{**FIGURE, "metric": "fine tuning"}]}, "fine-tuning"),
        ({"published": [{**FIGURE, "value": [76.7, 80.1]}]}, "one value for each"),
        ({"published": [{**FIGURE, "value": 7671}]}, "0 to 100"),
        ({"gpus": 0}, "about.gpus"),
    ],
)
def test_mistakes_are_errors(about: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_recipe(with_about(**about))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_tells_where_it_is_from(name: str) -> None:
    recipe = load_recipe(name)
    about = recipe.about
    assert about.published or about.notes or name.startswith("demo-")
    if name not in OWN:
        assert about.paper and about.code and about.command
    if not name.startswith("demo-"):
        assert about.prepare
        assert any(f"train {name} " in f"{line} " for line in about.commands(name))
        assert recipe.train.batch % about.gpus == 0
    assert "about:" in find_recipe(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", recipe_names())
def test_columns_are_those_of_the_task(name: str) -> None:
    recipe = load_recipe(name)
    found = columns_of(recipe)
    specs = built(recipe).specs
    read = dict.fromkeys(column for spec in specs for column in spec.columns)
    assert tuple(column for column in found if column != CAPTIONS) == tuple(read)
    assert (CAPTIONS in found) == (recipe.task.name == "cpd")


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        (["task.labels=online"], ("rgb", "flow")),
        (["task.labels=online", "task.flow=flow-raft"], ("rgb", "flow-raft")),
        (["task.labels=online", "task.motion=[]"], ("rgb",)),
        (["task.table=literal", "data.column=rgb-256"], ("rgb-256", "literal")),
    ],
)
def test_columns_follow_the_options_of_statistics(changes: list[str], columns: tuple[str, ...]) -> None:
    recipe = load_recipe("statistics-r3d", changes)
    assert columns_of(recipe) == columns == built(recipe).spec.columns


def test_columns_of_a_joint_task_are_those_of_its_tasks() -> None:
    tasks = {"pace": {"data": {"column": "flow-raft"}}, "statistics": {"name": None}, "words": {"name": "cpd"}}
    recipe = load_recipe({**toy_recipe(), "task": {"name": "joint", "tasks": tasks}})
    assert columns_of(recipe) == ("flow-raft", "rgb", "statistics", CAPTIONS)


@pytest.mark.parametrize("name", recipe_names())
def test_the_commands_parse_and_make_what_the_task_reads(name: str) -> None:
    recipe = load_recipe(name)
    task, made = built(recipe), set()
    for line in recipe.about.prepare:
        command, values = parse_command(line)
        if command == "pack":
            made |= set(values["columns"])
            # Cuts are taken from stored frames, which are better not enlarged.
            least = min(values["size"]) if values["size"] else values["short_side"] or 128
            side = task.spec.crop_size or (task.views.crop if recipe.task.name == "concepts" else (0, 0))  # type: ignore[union-attr]
            assert least >= max(side)
        elif command in ("flow", "labels"):
            made.add(values["column"])
        elif command == "annotate":
            made.add(CAPTIONS)
        else:
            assert command == "index", f"{line} makes nothing"
        if command == "labels":
            part = recipe.task.options.get("tasks", {}).get("statistics", {}).get("data", {})
            data = load_recipe(recipe, [f"data.{key}={json.dumps(value)}" for key, value in part.items()]).data
            assert (values["crop"], values["window"], values["resize"]) == (data.crop, data.frames, data.resize)
    assert set(columns_of(recipe)) <= made or not recipe.about.prepare
    for line in (*recipe.about.commands(name), *recipe.about.literal):
        command, values = parse_command(line)
        given = {"train": "recipe", "evaluate finetune": "recipe"}.get(command)
        if given is not None and values[given] is not None:
            assert values[given] == name
            changed = load_recipe(name, values["overrides"])
            built(changed)
            assert line not in recipe.about.literal or changed.digest() != recipe.digest()


def test_pretraining_recipes_quote_what_fine_tuning_recipes_quote() -> None:
    for name in recipe_names():
        if name.startswith("rspnet-finetune-"):
            backbone = name.rsplit("-", 1)[1]
            pretraining = load_recipe(f"rspnet-{backbone}").about.published
            first = load_recipe(name).about.published[0]
            assert first in pretraining, name


def test_clips_are_told_shortly() -> None:
    names = ("pace-c3d", "rspnet-finetune-ucf101-s3dg", "cpd-r50")
    assert [clip_text(facts(load_recipe(name))) for name in names] == ["16x112x112", "64x224x224@25", "8x224x224@7.5"]
    assert clip_text(facts(load_recipe("pace-c3d", ["data.crop=[96, 128]"]))) == "16x96x128"
    assert clip_text(facts(load_recipe("pace-c3d", ["data.crop=null", "data.resize=64"]))) == "16x64"
    assert clip_text(facts(load_recipe("pace-c3d", ["data.crop=null", "data.resize=null"]))) == "16"
