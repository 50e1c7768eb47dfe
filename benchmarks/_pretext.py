"""What benchmarks/pretext.py trains: the recipes, what a small data set changes in them, and two sizes of network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._captions import add_captions
from benchmarks._learning import SETS, prepare
from shards.dataset import open_dataset
from trainer.tasks.statistics.motion import MOTION_NUMBERS
from vidprep.derive import add_flow, add_labels

FPS = 12.5
KS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Network and clips, the same for all tasks, for a kind of device.

    Attributes:
        stored: height x width of packed frames. frames, resize, crop: of clips.
        network: over the recipes' own backbone; none: as the recipes say.
        finetune: recipe; finetune_epochs: of it.
        steps: factor of the tasks' steps.
    """

    name: str
    stored: tuple[int, int]
    frames: int
    resize: tuple[int, int]
    crop: int
    network: str | None
    finetune: str
    finetune_batch: int
    finetune_epochs: int
    steps: int

    def clips(self) -> list[str]:
        """Overrides of every recipe. The videos are packed at `FPS`."""
        resize = f"[{self.resize[0]}, {self.resize[1]}]"
        return [
            *(f"data.frames={self.frames}", f"data.resize={resize}", f"data.crop={self.crop}", "data.fps=null"),
            *("data.area=null", "data.resize_range=null"),
        ]

    def changes(self) -> list[str]:
        """Overrides of pretraining recipes."""
        network = [] if self.network is None else [f"backbone={self.network}", "train.channels_last=true"]
        return [*self.clips(), *network]

    def finetuning(self, scale: float) -> list[str]:
        """Overrides of the fine-tuning recipe; its network is the pretrained one."""
        epochs = max(1.0, self.finetune_epochs * scale)
        length = [f"train.epochs={epochs:g}", f"train.batch={self.finetune_batch}", "train.save_every=1000000"]
        return [*self.clips(), *length, "optim={name: adamw, lr: 0.003, weight_decay: 0.01}"]


SMALL = Size(
    name="small",
    stored=(72, 90),
    frames=8,
    resize=(52, 66),
    crop=48,
    network="{name: r3d-vcop, base_width: 8, convention: {mean: [0.45, 0.45, 0.45], std: [0.225, 0.225, 0.225]}}",
    finetune="demo-finetune",
    finetune_batch=18,
    finetune_epochs=60,
    steps=1,
)
FULL = Size(
    name="full",
    stored=(128, 171),
    frames=16,
    resize=(128, 171),
    crop=112,
    network=None,
    finetune="finetune",
    finetune_batch=16,
    finetune_epochs=60,
    steps=5,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One task.

    Attributes:
        changes: what some dozen videos and short trainings ask for, at both sizes; RESIZE is that of the size.
        steps, batch: of pretraining at the small size.
        metrics: columns of the log, and what a network that knows nothing has there, in words.
        held_out: whether the task's numbers on test videos can be compared with those in training.
        source: the set that is learnt from; None: the one that is scored.
    """

    recipe: str
    changes: tuple[str, ...]
    steps: int
    batch: int
    metrics: dict[str, str]
    held_out: bool = True
    source: str | None = None

    def changed(self, size: Size) -> list[str]:
        """`changes` at a size."""
        return [change.replace("RESIZE", f"[{size.resize[0]}, {size.resize[1]}]") for change in self.changes]

    def overrides(self, size: Size, *, seed: int, scale: float) -> list[str]:
        """Of the recipe."""
        steps = max(2, round(self.steps * size.steps * scale))
        return [
            *size.changes(),
            *("data.split=train", "data.workers=0" if size.network else "data.workers=4", "schedule.warmup=1"),
            *self.changed(size),
            *(f"train.steps={steps}", f"train.batch={self.batch}", f"train.seed={seed}"),
            *(f"train.log_every={max(1, steps // 10)}", "train.save_every=1000000"),
            *(["train.validation={split: test, every: 1000000, metric: loss}"] if self.held_out else []),
        ]


def _adamw(rate: float, decay: float = 0.01) -> tuple[str, str]:
    return f"optim={{name: adamw, lr: {rate:g}, weight_decay: {decay:g}}}", "schedule={name: cosine}"


_JITTER = "data.jitter={brightness: 0.2, contrast: 0.2, saturation: 0.2, hue: 0.1, probability: 0.8}"
_CPD = (
    *("task.text=builtin", "task.queue=64", "task.text_lr_scale=1"),
    *_adamw(0.001),
)
PLANS = {
    "pace": Plan(
        recipe="pace-r3d",
        changes=(*_adamw(0.002), "data.jitter=null", "data.repeats=4"),
        steps=260,
        batch=32,
        metrics={"accuracy": "25 %"},
    ),
    "statistics": Plan(
        recipe="statistics-r3d",
        changes=(*_adamw(0.002), "task.standardize=true", "task.appearance_weight=1", "data.repeats=4"),
        steps=240,
        batch=32,
        metrics={"motion_error": "constant", "appearance_error": "constant"},
    ),
    "rspnet": Plan(
        recipe="rspnet-resnet18",
        changes=(
            *_adamw(0.002),
            *("task.speeds=[4]", "task.bn_groups=2", "task.queue=128", "task.negatives=others", "task.momentum=0.95"),
            *("data.area=[0.6, 1.0]", "data.repeats=4"),
            _JITTER,
        ),
        steps=160,
        batch=32,
        metrics={"motion_accuracy": "50 %", "appearance_accuracy": "1 %"},
    ),
    "concepts": Plan(
        recipe="concepts-ucf101",
        changes=(
            *_adamw(0.002, 0.00001),
            *("task.concepts=16", "task.active=5", "task.queue=128", "task.grey=0.2"),
            *("data.area=[0.6, 1.0]", _JITTER),
        ),
        steps=110,
        batch=16,
        metrics={"instance_loss": "5 ln 16 = 13.86", "alignment_loss": "2 ln 16 = 5.55"},
        held_out=False,
    ),
    "joint": Plan(
        recipe="joint-r21d",
        changes=(
            *_adamw(0.002),
            *(
                f"task.tasks.rspnet.{change}"
                for change in ("bn_groups=2", "queue=128", "negatives=others", "momentum=0.95")
            ),
            *("task.tasks.statistics.appearance_weight=1", "task.tasks.statistics.data.resize=RESIZE"),
            *("data.area=[0.6, 1.0]", "data.repeats=4"),
            _JITTER,
        ),
        steps=160,
        batch=32,
        metrics={"rspnet_motion_accuracy": "50 %", "pace_accuracy": "25 %"},
    ),
    "cpd": Plan(recipe="cpd-infonce", changes=_CPD, steps=220, batch=32, metrics={"accuracy": "3 %"}, held_out=False),
    "cpd-others": Plan(
        recipe="cpd-infonce",
        changes=_CPD,
        steps=220,
        batch=32,
        metrics={"accuracy": "3 %"},
        held_out=False,
        source="others",
    ),
}


def prepare_for(name: str, tasks: list[str], size: Size, folder: Path) -> Path:
    """A packed set with the columns that the tasks need; what is there already is kept."""
    videos = SETS[name]
    data = prepare(videos, folder / f"{name}-{size.name}", size=size.stored, fps=FPS)
    if {"statistics", "joint"} & set(tasks):
        backend = "numba" if size.network else "auto"
        add_flow(data, backend=backend, workers=1 if size.network else None)
        add_labels(data, crop=size.crop, window=size.frames, resize=size.resize, stride=2)
    if any(task.startswith("cpd") for task in tasks):
        add_captions(data, name=None if len(videos.folders) > 1 else name)
    return data


def constant_errors(data: Path) -> dict[str, float]:
    """What a network can reach on the statistics labels that sees nothing: mean distance of test videos' labels from
    the medians of the training videos', without motion numbers of regions in which nothing moves."""
    dataset = open_dataset(data, columns=("rgb", "statistics"))

    def labels(split: str) -> npt.NDArray[np.float64]:
        rows = [dataset.clip_table(int(sample)).values for sample in dataset.select(split=split)]
        values = np.concatenate(rows).astype(np.float64)
        values[:, :MOTION_NUMBERS][values[:, :MOTION_NUMBERS] == 0] = np.nan
        return values

    distance = np.abs(labels("test") - np.nanmedian(labels("train"), axis=0))
    parts = {"motion_error": slice(0, MOTION_NUMBERS), "appearance_error": slice(MOTION_NUMBERS, None)}
    return {name: float(np.nanmean(distance[:, columns])) for name, columns in parts.items()}
