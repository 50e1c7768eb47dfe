"""Recipes: the validated description of a training run. Torch-free.

A recipe is a YAML file, in `trainer/recipes/` or the user's own. `extends` starts from another one, `--set
a.b=c` changes single keys; the resolved recipe is stored in the run folder and is itself a recipe file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shards.errors import UserError
from shards.order import check_together, window_of
from shards.spec import ClipSpec, Jitter, WhenShort
from trainer.recipes.about import About, inherited
from trainer.recipes.files import Tree, find_recipe, merge, parse_overrides, read_yaml
from trainer.strict import Strict, validate

__all__ = ["DataConfig", "OptimConfig", "Recipe", "ScheduleConfig", "Strict", "TrainConfig", "load_recipe", "validate"]


class Named(BaseModel):
    """A task or backbone: a `name` and that object's own options, which the object validates."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> Tree:
        """Everything beside the name."""
        return dict(self.model_extra or {})


class JitterConfig(Strict):
    """Colour jitter; see `shards.spec.Jitter`."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0
    per_frame: bool = False
    grey: float = 0.0


class DataConfig(Strict):
    """What the network sees of a video. Sizes are (height, width).

    Args:
        column: where clips come from: an RGB column, or a flow column for a network with two input channels.
        frames: T, frames per clip.
        resize: exact (height, width), or the short side, or null for the stored size.
        resize_range: (least, most) of a short side that is drawn for each clip, in place of `resize`; evaluation takes
            the least.
        crop: side of a square or (height, width); null keeps the whole frame.
        area: (least, most) share of the resized frame that a random cut has, which is resized to `crop`; null cuts
            `crop` itself. Evaluation then shows the largest cut of the crop's proportions at the centre.
        fps: resample by timestamps to this rate; null takes stored frames.
        flip: probability of mirroring a clip.
        jitter: colour jitter, or null.
        repeats: clips drawn from each video per epoch.
        shuffle: "full" permutes all clips of an epoch; "blocks:k" draws from k shards at a time; "none" keeps the order
            of the data set (docs/order.md).
        clips_per_read: of `repeats`, how many of a video come together in a batch and share one read; a divisor.
        when_short: what a clip does that does not fit into its video (`shards.spec.ClipSpec`).
        cover: spread a clip's frames over the whole video, whatever its length (`shards.spec.ClipSpec`).
        split: named split to train on; null takes every sample.
        keep: fraction in (0, 1] (class-balanced, seeded) or a file with keys; null takes all of the split.
        workers: loader processes per rank; 0 makes batches in the training process. Never changes a batch.
        threads: decoding threads per loader process; null shares out the cores. Never changes a batch.
    """

    column: str = "rgb"
    frames: int = Field(default=16, ge=1)
    resize: tuple[int, int] | int | None = None
    resize_range: tuple[int, int] | None = None
    crop: tuple[int, int] | int | None = None
    area: tuple[float, float] | None = None
    fps: float | None = Field(default=None, gt=0)
    flip: float = Field(default=0.5, ge=0, le=1)
    jitter: JitterConfig | None = None
    repeats: int = Field(default=1, ge=1)
    shuffle: str = "full"
    clips_per_read: int = Field(default=1, ge=1)
    when_short: WhenShort = "window"
    cover: bool = False
    split: str | None = None
    keep: float | str | None = None
    workers: int = Field(default=2, ge=0)
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _order(self) -> DataConfig:
        try:
            window_of(self.shuffle)
            check_together(self.clips_per_read, self.repeats)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self

    def spec(self, *, strides: tuple[int, ...] = (1,), clips: int = 1) -> ClipSpec:
        """The clip spec of a task that draws `clips` clips with strides from `strides`."""
        return ClipSpec(
            column=self.column,
            frames=self.frames,
            strides=strides,
            clips=clips,
            when_short=self.when_short,
            cover=self.cover,
            fps=self.fps,
            resize=self.resize,
            resize_range=self.resize_range,
            crop=self.crop,
            area=self.area,
            flip=self.flip,
            jitter=Jitter(**self.jitter.model_dump()) if self.jitter else None,
        )


class _Optim(Strict):
    """Options that every optimiser has.

    `lr` is the rate for the whole task; the backbone's is `lr * backbone_lr_scale`, that of biases (of normalisation
    layers too) `lr * bias_lr_scale`, that of the backbone's biases the product. `decay_all` also decays biases and the
    one-dimensional parameters of normalisation layers. `clip_norm` limits the gradient's norm.
    """

    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    backbone_lr_scale: float = Field(default=1.0, ge=0)
    bias_lr_scale: float = Field(default=1.0, ge=0)
    decay_all: bool = True
    clip_norm: float | None = Field(default=None, gt=0)


class Sgd(_Optim):
    """torch.optim.SGD."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False


class Adam(_Optim):
    """torch.optim.Adam: weight decay is added to the gradient."""

    name: Literal["adam"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)


class AdamW(_Optim):
    """torch.optim.AdamW: weight decay apart from the gradient."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)


class _Schedule(Strict):
    """`warmup` epochs of linear rise come before every schedule."""

    warmup: float = Field(default=0.0, ge=0)


class Constant(_Schedule):
    """One rate throughout."""

    name: Literal["constant"] = "constant"


class StepSchedule(_Schedule):
    """Times `gamma` after every `every` epochs (torch's StepLR)."""

    name: Literal["step"] = "step"
    every: float = Field(gt=0)
    gamma: float = Field(default=0.1, gt=0)


class Milestones(_Schedule):
    """Times `gamma` after each of the epochs `at` (torch's MultiStepLR)."""

    name: Literal["milestones"] = "milestones"
    at: tuple[float, ...]
    gamma: float = Field(default=0.1, gt=0)


class Cosine(_Schedule):
    """Half a cosine from the full rate to `final` times it at the end of the run."""

    name: Literal["cosine"] = "cosine"
    final: float = Field(default=0.0, ge=0, le=1)


OptimConfig = Annotated[Sgd | Adam | AdamW, Field(discriminator="name")]
ScheduleConfig = Annotated[Constant | StepSchedule | Milestones | Cosine, Field(discriminator="name")]


class ValidateConfig(Strict):
    """The task's loss and scalars on held-out samples during training.

    The clips are the same each time: a fixed draw, centre crop, neither flip nor jitter.

    Args:
        split: named split of the data set.
        every: epochs between two validations.
        metric: the scalar that decides which checkpoint `checkpoints/best` names: "loss" is minimised, any other
            maximised.
    """

    split: str
    every: float = Field(default=1.0, gt=0)
    metric: str = "accuracy"


class TrainConfig(Strict):
    """How long, how much at a time, and how.

    Args:
        epochs, steps: exactly one of them. An epoch is samples x `data.repeats` clips.
        batch: videos per step over all ranks together.
        seed: initial weights, order, and every random choice.
        precision: "auto" is bf16 autocast on a GPU that has it, float32 elsewhere.
        channels_last: keep convolutions in channels_last_3d memory format.
        compile: torch.compile the backbone.
        fused: fused optimiser kernels; null: where the device has them.
        log_every, save_every: steps between log lines and between checkpoints.
        keep: newest checkpoints to keep (the best is kept besides).
        validation: measure on a held-out split during training, or null.
    """

    epochs: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    channels_last: bool = False
    compile: bool = False
    fused: bool | None = None
    log_every: int = Field(default=10, ge=1)
    save_every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)
    validation: ValidateConfig | None = None

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"set exactly one of epochs ({self.epochs}) and steps ({self.steps}); null unsets one")
        return self


class Recipe(Strict):
    """A whole training run, but for the data set and the run folder.

    `about` tells where a recipe file comes from and changes no run: it is of the file, so neither `tree`, which run
    folders and checkpoints keep, nor `digest` has it.
    """

    name: str
    description: str = ""
    task: Named
    backbone: Named
    data: DataConfig = DataConfig()
    optim: OptimConfig
    schedule: ScheduleConfig = Constant()
    train: TrainConfig
    init: str | None = None
    about: About = About()

    def tree(self) -> Tree:
        """The values of the run as plain JSON values."""
        return self.model_dump(mode="json", exclude={"about"})

    def yaml(self) -> str:
        """The values of the run as a YAML file that `load_recipe` reads back."""
        return str(yaml.safe_dump(self.tree(), sort_keys=False, allow_unicode=True, width=110))

    def digest(self) -> str:
        """16 hex digits that change with any value."""
        return hashlib.blake2b(json.dumps(self.tree(), sort_keys=True).encode(), digest_size=8).hexdigest()


def load_recipe(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Resolve and validate a recipe.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, its content as a mapping, or a Recipe.
        overrides: "section.key=value" strings; values are YAML. `train.steps` replaces `train.epochs` and the other
            way round. `about.memory_gb` is of the recipe without them, and is left out.

    Raises:
        UserError: unknown recipe, unknown keys (naming the nearest), wrong values.
    """
    if isinstance(recipe, Recipe):
        tree, where = {**recipe.tree(), "about": recipe.about.model_dump(mode="json")}, recipe.name
    elif isinstance(recipe, Mapping):
        tree, where = _resolve(dict(recipe), Path.cwd(), ()), str(recipe.get("name", "recipe"))
    else:
        path = find_recipe(recipe)
        tree, where = _resolve(read_yaml(path), path.parent, (path,)), str(recipe)
        tree.setdefault("name", path.stem)
    change = parse_overrides(overrides)
    resolved = validate(Recipe, _over(tree, change), where=f"recipe {where}")
    if set(change) <= {"about"}:
        return resolved
    return resolved.model_copy(update={"about": resolved.about.model_copy(update={"memory_gb": None})})


def _over(base: Tree, change: Tree) -> Tree:
    """`merge`, where a length in steps replaces one in epochs and the other way round."""
    merged, given = merge(base, change), change.get("train")
    if isinstance(given, dict) and isinstance(merged.get("train"), dict):
        for name, other in (("steps", "epochs"), ("epochs", "steps")):
            if given.get(name) is not None and other not in given:
                merged["train"].pop(other, None)
    return merged


def _resolve(tree: Tree, folder: Path, seen: tuple[Path, ...]) -> Tree:
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    path = find_recipe(parent, folder=folder)
    if path in seen:
        raise UserError(f"recipe {path} extends itself through {' -> '.join(p.name for p in (*seen, path))}")
    base = _resolve(read_yaml(path), path.parent, (*seen, path))
    base.pop("name", None)
    merged = _over(base, tree)
    if isinstance(base.get("about"), dict):
        same = _name(merged.get("task")) == _name(base.get("task"))
        merged["about"] = merge(inherited(base["about"]) if same else {}, tree.get("about") or {})
    return merged


def _name(section: Any) -> Any:
    return section.get("name") if isinstance(section, dict) else None
