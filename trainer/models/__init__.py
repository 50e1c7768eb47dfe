"""Backbones by name. The names are the ids of reference/models.md section 0."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from shards.errors import UserError
from shards.plugins import load_object
from trainer.models.base import BGR_255, Backbone, Features, InputConvention
from trainer.models.c3d import C3D, C3DFull
from trainer.models.mfnet import MFNet
from trainer.models.resnet import r3d_vcop, r21d_vcop
from trainer.models.resnet3d import cpd, hara, r2d3d50
from trainer.models.s3d import PRESETS, S3D
from trainer.models.slowfast import SlowFast, c2d_r50, i3d_r50, slow_r50
from trainer.models.tsm import tsm
from trainer.models.tvresnet import mc3_18, r3d_tv18, r21d_tv

__all__ = ["BACKBONES", "BGR_255", "Backbone", "Features", "InputConvention", "build_backbone"]

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "c3d-bn": C3D,
    "c3d": C3DFull,
    "c3d-mas": functools.partial(C3DFull, small=True),
    "r3d-vcop": r3d_vcop,
    "r21d-vcop": r21d_vcop,
    **{name: functools.partial(S3D, **preset) for name, preset in PRESETS.items()},
    "r21d-tv": r21d_tv,
    "r3d-tv-18": r3d_tv18,
    "mc3-18": mc3_18,
    **{f"resnet3d-hara-{depth}": functools.partial(hara, depth) for depth in (10, 18, 34, 50)},
    **{f"cpd-r{depth}": functools.partial(cpd, depth) for depth in (10, 18, 34, 50)},
    "r2d3d50": r2d3d50,
    "slow-r50": slow_r50,
    "i3d-r50": i3d_r50,
    "c2d-r50": c2d_r50,
    "slowfast-r50-4x16": SlowFast,
    "slowfast-r50-8x8": functools.partial(SlowFast, alpha=4, fusion=7),
    "slowfast-nln-r50-4x16": functools.partial(SlowFast, non_local=True),
    "tsm-r18": functools.partial(tsm, 18),
    "tsm-r50": functools.partial(tsm, 50),
    "mfnet": MFNet,
}


def build_backbone(name: str, **options: Any) -> Backbone:
    """A backbone with fresh weights, drawn from torch's generator.

    Args:
        name: a key of `BACKBONES`, or a user's `file.py:Name` or `package.module:Name`: a class or function that
            takes keyword options and gives a `Backbone`.
        options: that builder's own; all here have `base_width`, `convention` and `in_channels`.

    Raises:
        UserError: unknown name or option (naming the nearest), or a value the builder refuses.
    """
    if name not in BACKBONES and ":" not in name:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"unknown backbone {name!r}: {hint}allowed: {', '.join(BACKBONES)}, or your own as file.py:Name"
        )
    builder: Callable[..., Any] = BACKBONES[name] if name in BACKBONES else load_object(name)
    check_options(builder, options, what=f"backbone {name}")
    backbone = builder(**options)
    if not isinstance(backbone, Backbone):
        raise UserError(f"backbone {name} made a {type(backbone).__name__}; it must be a trainer.models.base.Backbone")
    backbone.id, backbone.options = name, dict(options)
    return backbone


def check_options(builder: Callable[..., Any], options: dict[str, Any], *, what: str) -> None:
    """Refuse options that `builder` does not take, or lacks.

    Raises:
        UserError: names the option, the nearest allowed one and all of them.
    """
    signature = inspect.signature(builder)
    try:
        signature.bind(**options)
    except TypeError as error:
        allowed = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        unknown = [key for key in options if key not in allowed]
        near = difflib.get_close_matches(unknown[0], allowed, n=1) if unknown else []
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{what}: {error}{hint} It takes: {', '.join(allowed) or 'no options'}") from error
