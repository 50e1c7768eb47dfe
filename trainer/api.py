"""Backbones out of runs, for evaluation and for users' own code."""

from __future__ import annotations

from pathlib import Path

from shards.errors import UserError
from trainer.config import load_recipe
from trainer.engine.checkpoint import INFO as CHECKPOINT_INFO
from trainer.engine.checkpoint import MODEL, read_checkpoint
from trainer.engine.runs import RECIPE, WEIGHTS
from trainer.models import build_backbone
from trainer.models.base import Backbone, InputConvention
from trainer.models.weights import load_strict, load_weights


def load_backbone(run_or_weights: str | Path) -> Backbone:
    """A trained backbone on the CPU, in eval mode.

    Its `convention` says how it wants pixels, its `width` how long its features are:

        backbone = trainer.load_backbone("runs/pace-r3d-ucf101")
        features = backbone(clips_BCTHW).pooled

    Args:
        run_or_weights: a run folder (then the newest checkpoint's weights), one of its checkpoint folders, or a weights
            file.

    Raises:
        UserError: there is none of these, or what is there does not fit together.
    """
    path = Path(run_or_weights)
    if (path / CHECKPOINT_INFO).exists() and not (path / RECIPE).exists():
        return _from_checkpoint(path).eval()
    return load_weights(find_weights(path)).eval()


def find_weights(run_or_weights: str | Path) -> Path:
    """The weights file of a run folder, or the file itself."""
    path = Path(run_or_weights)
    if not path.exists():
        raise UserError(f"there is no run folder or weights file {path}; vidprep train writes both")
    if not path.is_dir():
        if path.name == MODEL and (path.parent / CHECKPOINT_INFO).exists():
            raise UserError(f"{path} holds the whole task of a checkpoint; give the checkpoint's folder, {path.parent}")
        return path
    if (path / WEIGHTS).exists():
        return path / WEIGHTS
    why = "has no checkpoint yet" if (path / RECIPE).exists() else "is not a run folder"
    raise UserError(f"{path} {why}: it has no {WEIGHTS}. Give a run folder of vidprep train, or a weights file")


def clip_size(run_or_weights: str | Path) -> tuple[int, int, int] | None:
    """(T,H,W) of the clips that a run was trained on; None if there is no recipe, or no one size."""
    path = Path(run_or_weights)
    if not (path / RECIPE).is_file():
        return None
    data = load_recipe(str(path / RECIPE)).data
    if data.crop is None:
        return None
    height, width = (data.crop, data.crop) if isinstance(data.crop, int) else data.crop
    return data.frames, height, width


def init_backbone(backbone: Backbone, run_or_weights: str | Path) -> str:
    """Load weights into a backbone of the same make; returns a line that says what was matched.

    The backbone takes over the pixel convention of the weights.

    Raises:
        UserError: the weights are of another backbone or other options, with a table of the differences.
    """
    path = Path(run_or_weights)
    if (path / CHECKPOINT_INFO).exists() and not (path / RECIPE).exists():
        found = _from_checkpoint(path)
        remedy = "Set the backbone's name and options to those of the checkpoint's run."
        load_strict(backbone, found.state_dict(), what=f"{path} does not fit {backbone.id}", remedy=remedy)
        backbone.convention = found.convention
    else:
        path = find_weights(path)
        load_weights(path, into=backbone)
    state = backbone.state_dict()
    count = sum(tensor.numel() for tensor in state.values())
    return f"{backbone.id} starts from {path}: {len(state)} of {len(state)} tensors match (100 %), {count:,} values"


def _from_checkpoint(path: Path) -> Backbone:
    checkpoint = read_checkpoint(path)
    described = load_recipe(checkpoint.info["recipe"]).backbone
    backbone = build_backbone(described.name, **described.options)
    prefix = "backbone."
    tensors = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    remedy = "The code of the backbone has changed since."
    load_strict(backbone, tensors, what=f"{path} does not fit {described.name}", remedy=remedy)
    backbone.convention = InputConvention.of(checkpoint.info["convention"])
    return backbone
