"""A small recipe, and tasks that misbehave on purpose, for tests of the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.conftest import ROOT
from trainer.augment import augment
from trainer.config import Strict
from trainer.engine.checkpoint import MODEL, checkpoint_paths
from trainer.models.base import Backbone, InputConvention
from trainer.tasks import Classify, Pace

THIS = str(Path(__file__))


def toy_recipe(**changes: Any) -> dict[str, Any]:
    """Pace on a one-channel R3D with jitter and dropout-free heads: 8 steps of 4 videos. Sections are updated."""
    recipe: dict[str, Any] = {
        "name": "toy",
        "task": {"name": "pace"},
        "backbone": {"name": "r3d-vcop", "base_width": 1},
        "data": {"frames": 4, "resize": [18, 20], "crop": 16, "workers": 0, "threads": 1},
        "optim": {"name": "sgd", "lr": 0.02},
        "train": {"batch": 4, "steps": 8, "log_every": 2, "save_every": 3},
    }
    recipe["data"]["jitter"] = {"brightness": 0.4, "hue": 0.1, "per_frame": True}
    for section, values in changes.items():
        if isinstance(values, dict) and "name" not in values:
            recipe[section] = {**recipe[section], **values}
        else:
            recipe[section] = values
    return recipe


def newest_tensors(run: Path) -> dict[str, Tensor]:
    return load_file(checkpoint_paths(run / "checkpoints")[-1] / MODEL)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = newest_tensors(one), newest_tensors(other)
    assert first.keys() == second.keys()
    wrong = [name for name in first if not torch.equal(first[name], second[name])]
    assert not wrong, wrong


def start_vidprep(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`vidprep ARGUMENTS` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Plain(Backbone):
    """One convolution, no batch normalisation."""

    def __init__(self, *, features: int = 6) -> None:
        super().__init__(width=features, convention=InputConvention(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)))
        self.conv = nn.Conv3d(3, features, 3, stride=(1, 2, 2))

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        return {"conv": self.conv(clip_BCTHW).tanh()}


class Noisy(Pace):
    """Draws from torch's generator in every step."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        scalars = super().forward(batch)
        return {**scalars, "loss": scalars["loss"] * (1 + 0.5 * torch.rand(()))}


class Recording(Classify):
    """Appends the step and samples of each batch to FOLDER/RANK.txt."""

    class Options(Strict):
        folder: str
        dropout: float = 0.0

    def forward(self, batch: Any) -> dict[str, Tensor]:
        with (Path(self.folder) / f"{os.environ.get('RANK', '0')}.txt").open("a") as file:
            file.write(f"{batch.step}:{','.join(map(str, batch.sample.tolist()))}\n")
        return super().forward(batch)

    def __init__(self, backbone: Backbone, data: Any, options: Any, classes: tuple[str, ...]) -> None:
        super().__init__(backbone, data, options, classes)
        self.folder = options.folder


class Breaks(Pace):
    """The loss becomes NaN at step number 4 (from 0), on the last rank."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        scalars = super().forward(batch)
        last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
        return {**scalars, "loss": scalars["loss"] * (float("nan") if batch.step == 4 and last else 1.0)}


class Explodes(Pace):
    """Finite loss, but a gradient that is not, from step 4 on."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        scalars = super().forward(batch)
        if batch.step == 4:
            scalars["loss"] = scalars["loss"] + (self.head.bias[0].detach() - self.head.bias[0]).abs().sqrt()
        return scalars


class Lossless(Pace):
    """Forgets to call its scalar "loss"."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {"error": super().forward(batch)["loss"]}


class Deaf(Classify):
    """Cannot learn: its head sees zeros. Forgets a count that is no buffer."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        self.steps = getattr(self, "steps", 0) + 1
        loss = super().forward(batch)["loss"]
        return {"loss": loss * 0 + 1 + self.head.bias.sum() * self.steps}


class Selfish(Pace):
    """Compares the videos of this rank only, where the whole batch is meant."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        pooled = self.backbone(augment(batch, self.backbone.convention).flatten(0, 1)).pooled
        logits = self.head(pooled)
        return {"loss": ((logits - logits.mean(0)) ** 2).mean()}
