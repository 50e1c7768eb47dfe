"""What is evaluated, on what, and where the results go: RUN|WEIGHTS|random:BACKBONE, splits, result files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from shards.dataset import Dataset
from shards.errors import UserError
from shards.keys import make_key
from shards.receipts import package_versions
from trainer.api import init_backbone, load_backbone
from trainer.config import DataConfig, Recipe, load_recipe
from trainer.engine.checkpoint import read_info
from trainer.engine.device import describe_device
from trainer.engine.runs import RECIPE, write_text
from trainer.models import BACKBONES, build_backbone
from trainer.models.base import Backbone
from trainer.recipes.files import merge, parse_overrides

Init = Literal["pretrained", "random"]
DEFAULT_RECIPE = "finetune"
FOLDER = "evaluation"
_RANDOM = "random:"
# What a network saw in pretraining it sees in evaluation.
_SEEN = ("column", "frames", "resize", "resize_range", "crop", "area", "cover", "fps")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to evaluate.

    Attributes:
        source: as the user named it.
        init: whether its own weights are used, or fresh ones of the same make.
        recipe: the recipe of the evaluation: its `data` says what clips look like, its `backbone` what the network is.
        weights: run folder or weights file; None for fresh weights.
        folder: results go to `folder / "evaluation"`.
    """

    source: str
    init: Init
    recipe: Recipe
    weights: Path | None
    folder: Path

    @property
    def data(self) -> DataConfig:
        return self.recipe.data

    def backbone(self, *, seed: int) -> Backbone:
        """The network; `seed` draws fresh weights."""
        named = self.recipe.backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = build_backbone(named.name, **named.options)
        if self.weights is not None:
            init_backbone(backbone, self.weights)
        return backbone


def resolve(
    source: str,
    *,
    init: Init = "pretrained",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    **sections: Mapping[str, Any],
) -> Subject:
    """Find out what `source` is.

    A run folder brings its backbone and, unless `recipe` is given, what its clips look like (`data.frames`, `resize`,
    `crop`, `area`, `cover`, `fps`). A weights file brings its backbone. Everything else is the recipe's.

    Args:
        source: run folder, weights file, or `random:BACKBONE`.
        init: "random" evaluates the same architecture with fresh weights.
        recipe: name or file; default "finetune".
        overrides: "section.key=value", over everything else.
        out: folder for results; default: the run folder itself; runs/NAME for the other two.
        sections: values put over the recipe's sections before `overrides`.

    Raises:
        UserError: there is no such run, file or backbone, or the recipe is wrong.
    """
    if init not in get_args(Init):
        raise UserError(f"init is {init!r}; allowed: {', '.join(get_args(Init))}")
    tree = load_recipe(recipe or DEFAULT_RECIPE).tree()
    changes, weights, folder = _of_random(source) if source.startswith(_RANDOM) else _of_path(Path(source))
    if recipe is not None:
        changes.pop("data", None)
    for change in (changes, {name: dict(values) for name, values in sections.items()}, parse_overrides(overrides)):
        tree = merge(tree, change)
    return Subject(
        source=source,
        init=init if weights is not None else "random",
        recipe=load_recipe(tree),
        weights=weights if init == "pretrained" else None,
        folder=Path(out) if out is not None else folder,
    )


def _of_random(source: str) -> tuple[dict[str, Any], None, Path]:
    name = source.removeprefix(_RANDOM)
    if not name:
        raise UserError("random: needs the name of a backbone, such as random:r3d-vcop")
    return {"backbone": {"name": name}}, None, Path("runs") / make_key(f"random-{name}")


def _of_path(path: Path) -> tuple[dict[str, Any], Path, Path]:
    backbone = load_backbone(path)
    assert backbone.id is not None  # weights files and checkpoints name it
    change: dict[str, Any] = {"backbone": {"name": backbone.id, **backbone.options}}
    if backbone.id in BACKBONES:
        # Belongs to the weights, so that a fresh network of the same make sees the same pixels.
        change["backbone"]["convention"] = backbone.convention.tree()
    if path.is_file():
        return change, path, Path("runs") / make_key(path.stem)
    if (path / RECIPE).is_file():
        recipe, folder = load_recipe(path / RECIPE), path
    else:
        recipe = load_recipe(read_info(path)["recipe"])
        folder = Path("runs") / make_key(f"{path.resolve().parents[1].name}-{path.name}")
    data = recipe.tree()["data"]
    change["data"] = {name: data[name] for name in _SEEN}
    return change, path, folder


def choose_split(dataset: Dataset, wanted: str | None, defaults: Sequence[str], *, option: str) -> str:
    """`wanted`, or the first of `defaults` that the data set has.

    Raises:
        UserError: there is no such split; names those there are.
    """
    for name in (wanted,) if wanted is not None else defaults:
        if name in dataset.splits:
            return name
    looked = repr(wanted) if wanted is not None else " or ".join(map(repr, defaults))
    there = f"has: {', '.join(dataset.splits)}" if dataset.splits else "has no splits (vidprep annotate adds them)"
    raise UserError(f"{dataset.url} has no split {looked}; it {there}. Choose one with {option}")


def refuse_overlap(dataset: Dataset, first: str, second: str) -> None:
    """Raise UserError if a video is in both splits: it would find or be tested on itself."""
    both = np.flatnonzero(dataset.table.mask(first) & dataset.table.mask(second))
    if len(both):
        raise UserError(
            f"{len(both)} samples are in both splits {first!r} and {second!r} of {dataset.url}, "
            f"such as {dataset.key(int(both[0]))}; a test needs splits without common videos"
        )


def left_out(dataset: Dataset, split: str) -> list[str]:
    """A note on the videos of a split that failed in a column which the network sees, if there are any."""
    of_split = dataset.table.mask(split)
    failed = int((of_split & ~dataset.valid).sum())
    if not failed:
        return []
    columns = ", ".join(name for name in dataset.columns)
    return [f"{failed} of {int(of_split.sum())} videos of split {split} have nothing in column {columns}: left out."]


def check_labelled(dataset: Dataset, split: str) -> None:
    """Refuse a split with unlabelled videos before anything is computed.

    Raises:
        UserError: how many there are.
    """
    labels = dataset.labels[dataset.select(split=split)]
    missing = int((labels < 0).sum())
    if missing:
        raise UserError(
            f"{missing} of {len(labels)} samples of split {split!r} have no label; give them one with "
            f"vidprep annotate {dataset.url} FILE, or choose a split without them"
        )


def describe(dataset: Dataset) -> dict[str, str]:
    """Name and address of a data set, as results give them."""
    return {"name": dataset.meta.name, "url": dataset.url}


def stem(kind: str, dataset: Dataset, split: str, *parts: str) -> str:
    """File name of a result without suffix: retrieve-ucf101-test-random."""
    return make_key("-".join([kind, dataset.meta.name, split, *(part for part in parts if part)]).replace(" ", "_"))


def complete(
    subject: Subject, kind: str, result: Mapping[str, Any], *, device: torch.device, command: str | None
) -> dict[str, Any]:
    """A result with what every one has: kind, format, source, device, versions, date, command."""
    return {
        "kind": kind,
        "format": 1,
        "source": subject.source,
        "init": subject.init,
        "backbone": subject.recipe.backbone.name,
        "device": describe_device(device),
        "command": command,
        "versions": package_versions("vidprep", "torch", "numpy"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **result,
    }


def write_result(subject: Subject, name: str, result: Mapping[str, Any]) -> Path:
    """Write `folder/evaluation/NAME.json`. Raises StorageError."""
    path = subject.folder / FOLDER / f"{name}.json"
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path
