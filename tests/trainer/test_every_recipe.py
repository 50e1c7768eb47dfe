"""Every shipped recipe trains, goes on and learns four videos by heart, at reduced size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.samples import annotate
from tests.tiny import build_dataset
from trainer.api import load_backbone
from trainer.config import Recipe, load_recipe
from trainer.engine.run import train
from trainer.recipes.files import recipe_names
from trainer.testing import learn_by_heart
from vidprep.derive import add_flow, add_labels

SIZE, CROP, FRAMES = (40, 48), 32, 16
QUICK = {"backend": "numba", "nscales": 1, "warps": 1, "outer_iterations": 1, "inner_iterations": 2, "workers": 1}
# One of each make is enough for `make test`; `make test-all` runs them all.
FAST = ("cpd-infonce", "demo-pace", "finetune", "pace-r3d", "rspnet-c3d", "statistics-r21d")
SLOW = [name for name in recipe_names() if name not in FAST]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four samples with flow, labels and captions; to be read only."""
    folder = tmp_path_factory.mktemp("recipes")
    dest = build_dataset(folder / "data", samples=4, frames=72, size=SIZE)
    lines = [json.dumps({"key": f"video_{i:03d}", "caption": f"a bar goes {i} steps"}) for i in range(4)]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    annotate(dest, folder / "captions.jsonl")
    add_flow(dest, **QUICK)  # type: ignore[arg-type]
    add_labels(dest, crop=CROP, window=FRAMES, resize=SIZE, stride=16, views=2, workers=1)
    return dest


def reduced(name: str) -> Recipe:
    """The recipe with a narrow network, small clips and short queues; nothing else of it changes."""
    recipe = load_recipe(name)
    changes = ["train.batch=4", "train.steps=2", "train.save_every=1", "data.workers=0", f"data.crop={CROP}"]
    changes += ["train.validation=null", "data.split=null", "backbone.base_width=8", f"data.frames={FRAMES}"]
    if recipe.data.resize is not None:
        changes.append(f"data.resize=[{SIZE[0]},{SIZE[1]}]")
    if recipe.data.resize_range is not None:
        changes.append("data.resize_range=[36,40]")
    options = recipe.task.options
    changes += [f"task.{key}=16" for key in ("queue", "negatives") if isinstance(options.get(key), int)]
    if recipe.task.name == "joint":
        changes += ["task.tasks.rspnet.queue=16", f"task.tasks.statistics.data.resize=[{SIZE[0]},{SIZE[1]}]"]
    changes += ["task.text=builtin"] if recipe.task.name == "cpd" else []
    changes += ["backbone.fc=false"] if recipe.backbone.name == "c3d-mas" else []  # of 97 x 97 pixels at least
    return load_recipe(recipe, changes)


def check(name: str, url: Path, out: Path) -> None:
    recipe = reduced(name)
    torch.manual_seed(0)
    whole = train(recipe, url, out=out / "whole", device="cpu")
    assert whole.finished and torch.isfinite(torch.tensor(whole.log["loss"]))
    train(load_recipe(recipe, ["train.steps=1"]), url, out=out / "parts", device="cpu")
    assert train(recipe, url, out=out / "parts", device="cpu", resume=True).finished
    ends = [load_backbone(out / part).state_dict() for part in ("whole", "parts")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("name", FAST)
def test_trains_and_resumes(name: str, url: Path, tmp_path: Path) -> None:
    check(name, url, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_others_train_and_resume(name: str, url: Path, tmp_path: Path) -> None:
    check(name, url, tmp_path)


# Learning by heart: what has to fall, to which part of where it began (the highest of the first five steps), and what
# a batch of four videos would otherwise stand in the way of.
OTHERS = ("negatives=others", "bn_groups=1")
FALLS: dict[str, tuple[dict[str, float], tuple[str, ...]]] = {
    "classify": ({"loss": 0.2}, ()),
    "pace": ({"loss": 0.2}, ()),
    # 27 numbers of up to 16 by one linear layer: they move at the rate of Adam.
    "statistics": ({"loss": 0.7}, ()),
    # The whole loss has parts that fall below 0 and one (alignment) that cannot reach it.
    "concepts": ({"instance_loss": 0.2, "alignment_loss": 0.8}, ()),
    "cpd": ({"loss": 0.2}, ()),
    # With four entries in the banks, a pair is a quarter of its own noise: its loss cannot fall far, but which caption
    # is nearest is learnt. The share of those that are wrong falls.
    "cpd-nce": ({"missed": 0.1}, ()),
    # The queue begins with random keys and then holds those of these four videos: a query cannot be nearer to its
    # key than to the older ones of its video, so only those of others are compared (and the highest of the first five
    # steps counts). Of groups of two videos, shuffled anew in each step, batch statistics are other ones every time.
    "rspnet": ({"appearance_loss": 0.7, "motion_loss": 0.7}, OTHERS),
    "joint": ({"rspnet_motion_loss": 0.5, "pace_loss": 0.2, "statistics_loss": 0.6}, OTHERS),
}
STEPS = 30


def learns_by_heart(name: str, url: Path) -> None:
    recipe = reduced(name)
    kind = (
        "cpd-nce" if recipe.task.name == "cpd" and "infonce" not in recipe.task.options.values() else recipe.task.name
    )
    falls, changes = FALLS[kind]
    where = "task.tasks.rspnet" if kind == "joint" else "task"
    rows = learn_by_heart(load_recipe(recipe, [f"{where}.{change}" for change in changes]), url, steps=STEPS)
    for row in rows:
        assert np.isfinite(list(row.values())).all(), row
        row["missed"] = 1 - row.get("accuracy", 0)
    for scalar, share in falls.items():
        begin, end = max(row[scalar] for row in rows[:5]), float(np.mean([row[scalar] for row in rows[-5:]]))
        assert end <= share * begin, f"{name}: {scalar} {begin:.3f} fell to {end:.3f}, not to {share:g} of it"


@pytest.mark.parametrize("name", FAST)
def test_learns_four_videos_by_heart(name: str, url: Path) -> None:
    learns_by_heart(name, url)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_others_learn_four_videos_by_heart(name: str, url: Path) -> None:
    learns_by_heart(name, url)
