"""Weights: of the reference networks, and our own files, which carry what is needed to use them.

A weights file is safetensors; its metadata say which backbone it is, with which options and which pixel convention.
Nothing is ever loaded in part: a file fits or is refused with a report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import StorageError, UserError
from shards.publish import Aside
from trainer.models import BACKBONES, build_backbone
from trainer.models.base import CHANNELS, Backbone, Features, InputConvention
from trainer.models.references import REFERENCES, Head, Output, Reference, strip_prefixes

FORMAT = "vidprep-backbone"  # the one metadata entry, JSON: safetensors writes several in random order
VERSION = 1
_SHOWN = 8  # rows of a mismatch table
Row = tuple[str, str, str, str]  # what, entry, expected, found


class ReferenceModel(nn.Module):
    """A backbone with the heads of a reference network.

    `forward` maps normalised clips (B,3,T,H,W), or (B,V,3,T,H,W) where the reference has several views, to {output
    name: (B,K)}, in the order of the reference's outputs. "pooled" are the features, (B,D) or (BV,D), and "map_shape"
    is the shape of the last map.
    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, nn.Module], reference: Reference) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.reference = reference

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        views = clip.shape[1] if clip.ndim == 6 else 1
        features = self.backbone(clip.flatten(0, 1) if clip.ndim == 6 else clip)
        return {name: self._output(output, features, views) for name, output in self.reference.outputs.items()}

    def _output(self, output: Output, features: Features, views: int) -> Tensor:
        if output.head == "map_shape":
            return torch.tensor(features.last.shape)
        if output.head == "pooled":
            return features.pooled
        pooled = features.pooled if output.view is None else features.pooled[output.view :: views]
        value: Tensor = self.heads[output.head](pooled)
        return functional.normalize(value, dim=1) if self.reference.heads[output.head].normalised else value


def load_reference(name: str, state_dict: Mapping[str, Tensor]) -> ReferenceModel:
    """A public reference network with the given weights, in eval mode.

    Args:
        name: a key of `trainer.models.references.REFERENCES`, such as "pace-c3d".
        state_dict: as the reference stores it, with or without the prefixes of released files.

    Returns:
        A module whose `backbone` can be saved with `save_weights`, with the reference's pixel convention.

    Raises:
        UserError: unknown name, or keys that are missing, unexpected or of another shape, in a table.
    """
    if name not in REFERENCES:
        raise UserError(f"unknown reference network {name!r}; allowed: {', '.join(REFERENCES)}")
    if "state_dict" in state_dict or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise UserError(f"{name}: this is a checkpoint, not a state dict; pass its entry 'state_dict'")
    reference, state = REFERENCES[name], strip_prefixes(state_dict)
    backbone = build_backbone(reference.backbone, **reference.options, convention=reference.convention.tree())
    heads = {head: _head(backbone.width, of, state) for head, of in reference.heads.items()}
    model = ReferenceModel(backbone, heads, reference)
    expected, found = model.state_dict(), dict[str, Tensor]()
    for key, value in state.items():
        if any(re.search(pattern, key) for pattern in reference.unused):
            continue
        ours = reference.rename(key)
        # A key that is not the network's, or whose place is taken, keeps its own name and is reported.
        known = ours in expected and ours not in found
        found[ours if known else key] = fitted(value, expected[ours]) if known else value
    load_strict(
        model, found, what=f"the state dict is not that of {name}", remedy="Give that network's weights, whole."
    )
    return model.eval()


def save_weights(path: str | Path, backbone: Backbone) -> None:
    """Write a backbone's weights with its id, options and pixel convention, in one step.

    Raises:
        UserError: the backbone was not made by `build_backbone`, or an option of it is not a JSON value.
        StorageError: the file cannot be written.
    """
    if backbone.id is None:
        raise UserError(
            f"this {type(backbone).__name__} does not know its name; make it with trainer.models.build_backbone"
        )
    description = {
        "version": VERSION,
        "backbone": backbone.id,
        "options": backbone.options,
        "convention": backbone.convention.tree(),
    }
    metadata = {FORMAT: _json(backbone.id, description)}
    # Copies: safetensors refuses tensors that share memory or are in channels_last.
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in backbone.state_dict().items()
    }
    file = Aside(Path(path))
    try:
        file.write(save(tensors, metadata))
        file.publish(replace=True)
    finally:
        file.discard()


def load_weights(path: str | Path, *, into: Backbone | None = None) -> Backbone:
    """The backbone of a file that `save_weights` wrote, on the CPU, in train mode as a fresh one.

    Args:
        path: the file.
        into: load into this backbone, which must be of the same make, instead of a new one. It takes over the file's
            pixel convention; one that its options give explicitly must be the same.

    Raises:
        UserError: a foreign or damaged file, another backbone, tensors that do not fit (with a report).
        StorageError: the file cannot be read.
    """
    description, tensors = _read(Path(path))
    name, options = description["backbone"], description["options"]
    convention = InputConvention.of(description["convention"])
    if into is None:
        backbone = build_backbone(name, **options)
    elif "convention" in into.options and into.convention != convention:
        raise UserError(
            f"{path} was trained on pixels given as {convention.tree()}, but backbone.convention is "
            f"{into.convention.tree()}; remove backbone.convention to take over the file's"
        )
    else:
        backbone = into
    _check_channels(path, name, options, backbone)
    load_strict(
        backbone,
        tensors,
        what=f"{path} holds {_describe(name, options)} and does not fit {_describe(backbone.id, backbone.options)}",
        remedy=f"Set the backbone's name and options to those of the file (--set backbone.name={name}), or choose "
        "other weights.",
    )
    backbone.convention = convention
    return backbone


def _check_channels(path: str | Path, name: str, options: Mapping[str, Any], into: Backbone) -> None:
    found = options.get("in_channels", 3)
    if name in BACKBONES and found != into.in_channels:
        raise UserError(
            f"{path} holds weights for clips of {found} channels ({CHANNELS[found]}), this backbone takes "
            f"{into.in_channels} ({CHANNELS[into.in_channels]}); set backbone.in_channels={found} and data.column to a "
            f"column of {CHANNELS[found]}, or choose other weights"
        )


def load_strict(module: nn.Module, found: Mapping[str, Tensor], *, what: str, remedy: str) -> None:
    """Load a state dict that has exactly the module's keys and shapes.

    Args:
        module: what to load into; untouched when the state dict is refused.
        found: the state dict.
        what, remedy: first and last line of the report.

    Raises:
        UserError: a report with the counts and the first names of what is missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    rows = [("missing", key, _shape(expected[key]), "") for key in expected if key not in found]
    rows += [("unexpected", key, "", _shape(found[key])) for key in found if key not in expected]
    common = [key for key in expected if key in found]
    wrong = [key for key in common if expected[key].shape != found[key].shape]
    rows += [("other shape", key, _shape(expected[key]), _shape(found[key])) for key in wrong]
    if not rows:
        module.load_state_dict(dict(found))
        return
    counts = {kind: sum(row[0] == kind for row in rows) for kind in ("missing", "unexpected", "other shape")}
    head = f"{what}: {len(common) - len(wrong)} of {len(expected)} entries match, " + ", ".join(
        f"{count} {kind}" for kind, count in counts.items()
    )
    table = _table([("what", "entry", "expected", "found"), *_first(rows)])
    raise UserError("\n".join([head, *table, remedy]))


def _first(rows: list[Row]) -> list[Row]:
    """The first few rows of each kind, so that one long kind does not hide the others."""
    seen: dict[str, int] = {}
    shown = []
    for row in rows:
        seen[row[0]] = seen.get(row[0], 0) + 1
        if seen[row[0]] <= _SHOWN:
            shown.append(row)
    return shown + [(kind, f"… and {count - _SHOWN} more", "", "") for kind, count in seen.items() if count > _SHOWN]


def _table(rows: list[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def fitted(value: Tensor, like: Tensor) -> Tensor:
    """`value` in the shape of `like` where the two are the same weights of the same operation, else `value` itself.

    A 1x1x1 convolution of a vector is a linear layer; a 2-D convolution is a 3-D one over one frame; a linear layer of
    a flattened map is a convolution as large as the map.
    """
    same = (
        value.shape == (*like.shape, 1, 1, 1)
        or (value.ndim == 4 and like.ndim == 5 and like.shape == (*value.shape[:2], 1, *value.shape[2:]))
        or (value.ndim == 2 and like.ndim == 5 and value.shape == (like.shape[0], like[0].numel()))
    )
    return value.reshape(like.shape) if same else value


def _head(width: int, head: Head, state: Mapping[str, Tensor]) -> nn.Module:
    if not head.mlp:
        return nn.Linear(width, _rows(state, f"{head.prefix}.weight"))
    middle, out = (_rows(state, f"{head.prefix}.{layer}.weight") for layer in (0, 2))
    return nn.Sequential(nn.Linear(width, middle), nn.ReLU(), nn.Linear(middle, out))


def _rows(state: Mapping[str, Tensor], key: str) -> int:
    """Outputs of a linear layer; 1 where it is missing, which the report then says."""
    return state[key].shape[0] if key in state and state[key].ndim == 2 else 1


def _describe(name: str | None, options: Mapping[str, Any]) -> str:
    return " ".join([name or "this backbone", *(f"{k}={v}" for k, v in options.items() if k != "convention")])


def _json(name: str, description: Mapping[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, InputConvention):
            return value.tree()
        raise UserError(f"an option of backbone {name} is {value!r}; only JSON values can be stored with weights")

    return json.dumps(description, default=plain)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    remedy = "weights are written by vidprep train and trainer.models.weights.save_weights"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a safetensors file, or a damaged one ({error}); {remedy}. "
            "A PyTorch checkpoint of a reference network becomes one with vidprep convert"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}; {remedy}") from error
    if FORMAT not in metadata:
        raise UserError(f"{path} is a safetensors file of another program ({len(tensors)} tensors); {remedy}")
    description: dict[str, Any] = json.loads(metadata[FORMAT])
    if description["version"] > VERSION:
        raise UserError(
            f"{path} has weights format {description['version']}; this version reads up to {VERSION}: update vidprep"
        )
    return description, tensors
