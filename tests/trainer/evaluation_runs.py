"""Tiny networks and recipes for tests of the evaluation."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.models.base import Backbone, InputConvention
from trainer.models.weights import save_weights

THIS = str(Path(__file__))
TINY = f"{THIS}:Tiny"
SIZES = ["data.frames=4", "data.resize=[20,24]", "data.crop=16", "data.workers=0"]


class Tiny(Backbone):
    """One convolution: quick, and every pixel matters."""

    def __init__(self, *, features: int = 6) -> None:
        super().__init__(width=features, convention=InputConvention(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)))
        self.conv = nn.Conv3d(3, features, 3, stride=(1, 4, 4))

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        return {"conv": self.conv(clip_BCTHW).relu()}


def write_tiny_weights(path: Path, *, seed: int = 0) -> Path:
    from trainer.models import build_backbone

    torch.manual_seed(seed)
    save_weights(path, build_backbone(TINY))
    return path


def write_recipe(path: Path, **changes: str) -> Path:
    """A recipe of the task classify that trains the tiny network for 6 steps."""
    path.write_text(
        f"""\
name: tiny-finetune
task: {{name: classify}}
backbone: {{name: "{TINY}"}}
data: {{frames: 4, resize: [20, 24], crop: 16, when_short: loop, workers: 0}}
optim: {{name: sgd, lr: 0.05}}
train: {{steps: 6, batch: 4, log_every: 2, save_every: 2}}
"""
    )
    return path
