"""Every value of a reference, recipe by recipe (RSPNet's: test_rspnet_recipes.py). What differs on purpose is in
docs/from-the-references.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from trainer.config import load_recipe
from trainer.models import build_backbone
from trainer.models.base import BGR_255, GREY_45, IMAGENET

COLOURS = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "probability": 0.8, "per_frame": True}
SGD = {"name": "sgd", "momentum": 0.9, "nesterov": False, "decay_all": True, "backbone_lr_scale": 1.0}
STEPS = {"name": "step", "every": 6, "gamma": 0.1, "warmup": 0}

# reference/pace.md sections 3 to 5 and 8
PACE: dict[str, Any] = {
    "task": {"name": "pace", "paces": 4},
    "data": {"frames": 16, "resize": (128, 171), "crop": 112, "flip": 0.5, "fps": None, "repeats": 10, "area": None},
    "data.jitter": {**COLOURS, "grey": 0.0},
    "optim": {**SGD, "lr": 1e-3, "weight_decay": 5e-3, "bias_lr_scale": 1.0, "clip_norm": None},
    "schedule": STEPS,
    "train": {"epochs": 18, "batch": 30, "keep": 3},
    "about": {"gpus": 1},
    "convention": BGR_255,
}
# reference/statistics.md sections 3, 4, 5, 8 and 9
STATISTICS: dict[str, Any] = {
    "task": {"name": "statistics", "motion_weight": 1.0, "appearance_weight": 0.1, "standardize": False},
    "data": {"frames": 16, "resize": (128, 171), "crop": 112, "flip": 0.5, "fps": None, "jitter": None},
    "optim": {**SGD, "lr": 5e-4, "weight_decay": 5e-3, "bias_lr_scale": 2.0, "clip_norm": None},
    "schedule": STEPS,
    "train": {"epochs": 18, "batch": 30, "keep": 3},
    "about": {"gpus": 1},
    "convention": BGR_255,
}
# reference/concepts.md sections 3 to 7
CONCEPTS: dict[str, Any] = {
    "task": {
        "name": "concepts",
        "concepts": 50,
        "rate": 3.0,
        "grey": 0.5,
        "first_difference": "repeat",
        "projection": 128,
        "queue": 1024,
        "queue_start": "empty",
        "active": 10,
        "threshold": None,
        "prototypes_from": 1,
        "queue_from": 1,
        "local_from": 10,
        "instance_weight": 1.0,
        "alignment_weight": 1.0,
        "entropy_weight": 0.1,
        "reconstruction_weight": 1.0,
        "local_weight": 1.0,
    },
    "backbone": {"name": "r21d-tv"},
    "data": {"frames": 16, "crop": 128, "area": (0.5, 1.0), "flip": 0.5, "fps": None, "resize": (150, 200)},
    "data.jitter": {
        "brightness": 0.5,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 0.25,
        "probability": 1.0,
        "per_frame": False,
        "grey": 0.0,
    },
    "optim": {"name": "adam", "lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 1e-5, "decay_all": True},
    "schedule": {"name": "milestones", "at": (200,), "gamma": 0.1, "warmup": 0},
    "train": {"epochs": 300, "batch": 64, "seed": 20},
    "convention": IMAGENET,
}
# reference/cpd.md sections 2.3, 3, 4, 5, 6 and 7
CPD: dict[str, Any] = {
    "task": {
        "name": "cpd",
        "text": "distilbert-base-uncased",
        "most_tokens": 64,
        "embedding": 256,
        "hidden": 512,
        "loss": "nce",
        "negatives": 16392,
        "bank_momentum": 0.5,
        "temperature": 0.07,
        # Epochs 0 to 150 without gradient; then at 0.1 x 3e-4, where the others are at 0.1 x 0.1.
        "train_text_from": 151,
        "text_lr_scale": pytest.approx(0.1 * 3e-4 / (0.1 * 0.1)),
    },
    "backbone": {"name": "cpd-r50"},
    "data": {
        "frames": 32 // 4,
        "fps": 30 / 4,
        "resize_range": (256, 340),
        "crop": 224,
        "flip": 0.5,
        "jitter": None,
        "when_short": "clamp",
        "area": None,
    },
    "optim": {**SGD, "lr": 0.1, "weight_decay": 1e-4, "clip_norm": 20, "bias_lr_scale": 1.0},
    # After epochs 100, 201 and 250, counted from 0.
    "schedule": {"name": "milestones", "at": (101, 202, 251), "gamma": 0.1, "warmup": 0},
    "train": {"epochs": 300, "batch": 256},
    "about": {"gpus": 8, "samples": 300_000},
    "convention": GREY_45,
}
CPD_TUNED: dict[str, Any] = {
    "task": {"name": "classify", "dropout": 0.8},
    "backbone": {"name": "cpd-r50"},
    "data": {**CPD["data"], "frames": 64 // 4},
    "optim": {**SGD, "lr": 0.02, "weight_decay": 1e-4, "clip_norm": 20},
    "train": {"epochs": 100, "batch": 128},
    "convention": GREY_45,
}


def changed(base: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
    return {**base, **{key: {**base.get(key, {}), **values} for key, values in sections.items()}}


RECIPES: dict[str, dict[str, Any]] = {
    "pace-c3d": changed(PACE, backbone={"name": "c3d-bn"}),
    "pace-r3d": changed(PACE, backbone={"name": "r3d-vcop"}),
    "pace-r21d": changed(PACE, backbone={"name": "r21d-vcop"}),
    "pace-s3dg": changed(
        PACE,
        backbone={"name": "s3dg-pace"},
        data={"frames": 64, "resize": (256, 256), "crop": 224},
        train={"batch": 32},
        about={"gpus": 4},
    ),
    "statistics-c3d": changed(STATISTICS, backbone={"name": "c3d-bn"}),
    "statistics-r3d": changed(STATISTICS, backbone={"name": "r3d-vcop"}),
    "statistics-r21d": changed(STATISTICS, backbone={"name": "r21d-vcop"}),
    "statistics-s3dg": changed(STATISTICS, backbone={"name": "s3dg-pace"}),
    # Section 8: 80,000 iterations of 30 clips, of 9,537 videos x 10 clips an epoch.
    "statistics-mas": changed(
        STATISTICS,
        task={"motion": [1, 2, 3, "global"], "appearance": []},
        backbone={"name": "c3d-mas"},
        data={"flip": 0},
        optim={"lr": 1e-3, "decay_all": False},
        schedule={"every": pytest.approx(20_000 * 30 / 95_370, abs=0.01)},
        train={"epochs": pytest.approx(80_000 * 30 / 95_370, abs=0.01)},
    ),
    "concepts-ucf101": CONCEPTS,
    "concepts-k400": changed(CONCEPTS, task={"concepts": 100}, schedule={"at": (70,)}, train={"epochs": 100}),
    "cpd-r50": CPD,
    "cpd-infonce": changed(
        CPD,
        task={"loss": "infonce", "queue": 16384, "train_text_from": 0},
        schedule={"name": "cosine", "warmup": 5, "at": None, "gamma": None},
    ),
    "cpd-finetune": changed(CPD_TUNED, optim={"lr": 0.02}),
    "cpd-linear": changed(CPD_TUNED, optim={"lr": 2, "backbone_lr_scale": 0}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_values_are_those_of_the_reference(name: str) -> None:
    recipe, expected = load_recipe(name), dict(RECIPES[name])
    convention = expected.pop("convention")
    for section, values in expected.items():
        part: Any = recipe
        for key in section.split("."):
            part = getattr(part, key)
        found = {**part.model_dump(), **(part.model_extra or {})}
        wrong = {key: (found.get(key), value) for key, value in values.items() if found.get(key) != value}
        assert not wrong, f"{name}: {section}: (recipe, reference) {wrong}"
    backbone = build_backbone(recipe.backbone.name, **{**recipe.backbone.options, "base_width": 4})
    assert backbone.convention == convention


@pytest.mark.parametrize("name", ["pace-c3d", "pace-s3dg", "statistics-c3d"])
def test_networks_are_those_of_the_reference(name: str) -> None:
    """No option that a backbone has beside its name is set."""
    assert load_recipe(name).backbone.options == {}


def test_the_reference_is_one_override_away() -> None:
    """What we set another way than the reference, it being wrong there, is an option."""
    literal = {
        "pace-c3d": {"rule": "restart"},
        "statistics-r3d": {"variant": "reference"},
        "concepts-ucf101": {"queue_start": "noise", "first_difference": "wrap"},
        "rspnet-c3d": {"rule": "loop"},
        "cpd-r50": {"attend_all": True},
    }
    for name, values in literal.items():
        options = load_recipe(name).task.options
        assert all(options[key] != value for key, value in values.items()), name
        told = " ".join(load_recipe(name).about.literal)
        assert all(f"task.{key}={str(value).lower()}" in told for key, value in values.items()), name
