"""The optimiser of a task."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainer.config import Adam, AdamW, OptimConfig, Sgd
from trainer.tasks.base import Task


def build_optimizer(task: Task, config: OptimConfig, *, fused: bool | None) -> Optimizer:
    """The optimiser over the task's trainable parameters.

    Args:
        task: on its device already.
        config: the recipe's `optim` section.
        fused: fused kernels; None takes them on a GPU.
    """
    device = next(task.parameters()).device
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if device.type == "cuda" if fused is None else fused:
        options["fused"] = True
    groups = parameter_groups(task, config)
    match config:
        case Sgd():
            return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **options)
        case Adam():
            return torch.optim.Adam(groups, betas=config.betas, **options)
        case AdamW():
            return torch.optim.AdamW(groups, betas=config.betas, **options)


def parameter_groups(task: Task, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameters by learning-rate factor (`scale`) and weight decay; one group where neither differs."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            scale = config.backbone_lr_scale if name.startswith("backbone.") else 1.0
            for start, factor in task.lr_scales.items():
                scale *= factor if name.startswith(start) else 1.0
            if name.endswith("bias"):
                scale *= config.bias_lr_scale
            decays = config.decay_all or parameter.ndim > 1
            groups.setdefault((scale, config.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": p, "scale": scale, "weight_decay": decay} for (scale, decay), p in groups.items()]


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Take over momenta of a checkpoint, but keep the options of the recipe (kernels, rates)."""
    fresh = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, options in zip(optimizer.param_groups, fresh, strict=True):
        group.update(options)
