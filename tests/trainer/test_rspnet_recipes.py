"""RSPNet's recipes carry the reference's configurations, and train at a small size."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.spec import Jitter
from tests.commands import parse_command
from trainer.config import load_recipe
from trainer.models import build_backbone
from trainer.models.base import IMAGENET
from trainer.recipes.files import recipe_names
from trainer.testing import check_overfit, check_resume, generate

PRETRAINING = {
    # name: backbone, batch of a GPU, base rate, size (reference/rspnet.md section 7)
    "rspnet-c3d": ("c3d-bn", 32, 0.1, 112),
    "rspnet-resnet18": ("resnet3d-hara-18", 64, 0.1, 112),
    "rspnet-resnet50": ("resnet3d-hara-50", 32, 0.1, 112),
    "rspnet-r2plus1d": ("r21d-vcop", 32, 0.05, 112),
    "rspnet-s3dg": ("s3dg-rsp", 64, 0.05, 224),
    "rspnet-tsm-r18": ("tsm-r18", 64, 0.1, 112),
}
COSINE = {"name": "cosine", "final": 0.001, "warmup": 0}
FINETUNING = {
    # name: frames, size, fps, batch of a GPU, rate, steps or cosine, epochs, cover (reference/rspnet.md section 8)
    "ucf101-c3d": (16, 112, None, 20, 0.005, None, 30, False),
    "ucf101-resnet18": (16, 112, 25, 32, 0.1, None, 30, False),
    "ucf101-r2plus1d": (16, 112, None, 8, 0.1, None, 30, False),
    "ucf101-s3dg": (64, 224, 25, 4, 0.005, None, 50, False),
    "hmdb51-c3d": (16, 112, None, 6, 0.005, (50, 70, 90), 100, False),
    "hmdb51-resnet18": (16, 112, None, 64, 0.01, (50, 70, 90), 30, False),
    "hmdb51-r2plus1d": (16, 112, None, 16, 0.1, None, 30, False),
    "hmdb51-s3dg": (64, 224, None, 4, 0.005, None, 50, False),
    "smth-c3d": (16, 112, None, 16, 0.1, None, 50, True),
    "smth-resnet18": (16, 112, None, 32, 0.01, (20, 40), 50, True),
    "smth-s3dg": (16, 224, None, 16, 0.01, (20, 40), 50, True),
}
NAMES = [*PRETRAINING, *(f"rspnet-finetune-{name}" for name in FINETUNING)]


def test_there_is_a_recipe_for_every_configuration() -> None:
    assert sorted(NAMES) == [name for name in recipe_names() if name.startswith("rspnet-")]


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining(name: str) -> None:
    backbone, batch, rate, size = PRETRAINING[name]
    recipe = load_recipe(name)
    data, train, gpus = recipe.data, recipe.train, 4
    assert (recipe.backbone.name, data.crop, train.batch) == (backbone, size, gpus * batch)
    assert recipe.optim.lr == pytest.approx(rate * gpus * batch / 64)
    assert (data.frames, data.resize, data.area, data.flip, data.fps, data.repeats) == (
        8 if backbone == "tsm-r18" else 16,
        None,
        (0.4, 1),
        0.5,
        None,
        1,
    )
    assert data.spec().jitter == Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, grey=0.2)
    assert recipe.schedule.model_dump() == COSINE
    assert (train.epochs, recipe.task.options["bn_groups"]) == (200, gpus)
    options = recipe.task.options
    assert (options["queue"], options["momentum"], options["temperature"]) == (16384, 0.999, 0.07)
    assert (options["projection"], options["head"], options["margin"], options["speeds"]) == (128, "linear", 2.0, [2])


@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning(name: str) -> None:
    frames, size, fps, batch, rate, steps, epochs, cover = FINETUNING[name]
    recipe = load_recipe(f"rspnet-finetune-{name}")
    data, train = recipe.data, recipe.train
    assert recipe.backbone.name == PRETRAINING[f"rspnet-{name.split('-')[1]}"][0]
    assert (data.frames, data.crop, data.fps, data.cover, data.flip) == (frames, size, fps, cover, 0 if cover else 0.5)
    assert (data.area, data.jitter, data.when_short) == ((0.25, 1), None, "loop")
    assert (recipe.optim.lr, train.batch, train.epochs) == (rate, 2 * batch, epochs)
    stepped = {"name": "milestones", "at": steps, "gamma": 0.1, "warmup": 0}
    assert recipe.schedule.model_dump() == (COSINE if steps is None else stepped)
    assert (recipe.task.name, recipe.task.options) == ("classify", {"dropout": 0.0})


@pytest.mark.parametrize("name", NAMES)
def test_common_settings(name: str) -> None:
    recipe = load_recipe(name)
    optim = recipe.optim.model_dump()
    assert (optim["name"], optim["momentum"], optim["nesterov"]) == ("sgd", 0.9, False)
    assert (optim["weight_decay"], optim["decay_all"]) == (1e-4, True)
    backbone = build_backbone(recipe.backbone.name, **{**recipe.backbone.options, "base_width": 4})
    assert backbone.convention == IMAGENET


@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning_is_scored_as_there(name: str) -> None:
    """The final crops of reference/rspnet.md section 8, logits averaged."""
    views = 2 if name.startswith("smth") else 3 if name == "hmdb51-resnet18" else 10
    command, values = parse_command(load_recipe(f"rspnet-finetune-{name}").about.run[0])
    assert (command, values["views"], values["fusion"]) == ("evaluate finetune", views, "logits")
    assert (values["train_split"] is None) == name.startswith("smth")


SMALL = ["backbone.base_width=2", "data.resize=[32,40]", "data.workers=0", "train.batch=4", "train.precision=float32"]
CLIPS = {"c3d-bn": (8, 24), "r21d-vcop": (8, 24), "resnet3d-hara-18": (16, 32), "s3dg-rsp": (8, 32)}


@pytest.mark.parametrize("name", [name for name in PRETRAINING if name not in ("rspnet-resnet50", "rspnet-tsm-r18")])
def test_pretraining_recipes_learn_and_resume(name: str, tmp_path: Path) -> None:
    frames, crop = CLIPS[PRETRAINING[name][0]]
    small = [*SMALL, f"data.frames={frames}", f"data.crop={crop}", "task.queue=8", "task.negatives=others"]
    small.append("task.bn_groups=1")  # two clips a group have hardly any statistics in the last maps of so small a size
    recipe, data = load_recipe(name, small), generate(tmp_path / "data")
    check_overfit(recipe, data)
    check_resume(load_recipe(name, [*small, "optim.lr=0.01"]), data, tmp_path / "resume")


@pytest.mark.parametrize("name", ["ucf101-c3d", "smth-resnet18", "smth-s3dg", "hmdb51-r2plus1d"])
def test_finetuning_recipes_learn_and_resume(name: str, tmp_path: Path) -> None:
    frames, crop = CLIPS[load_recipe(f"rspnet-finetune-{name}").backbone.name]
    small = [*SMALL, f"data.frames={frames}", f"data.crop={crop}", "optim.lr=0.01"]
    recipe, data = load_recipe(f"rspnet-finetune-{name}", small), generate(tmp_path / "data")
    check_overfit(recipe, data, falls_to=0.7)
    check_resume(recipe, data, tmp_path / "resume")
