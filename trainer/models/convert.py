"""Published checkpoints as weights files of ours: which backbone it is, if all of it is there, what pixels it wants."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.errors import UserError
from trainer.models import build_backbone
from trainer.models.base import Backbone, Convention, InputConvention
from trainer.models.pickles import read_state
from trainer.models.references import strip_prefixes
from trainer.models.sources import SOURCES, Candidate, Source
from trainer.models.weights import fitted, load_strict, save_weights

COUNTER = "num_batches_tracked"
"""The one kind of entry that may be missing: PyTorch before 0.4.1 did not store it, and only averaging over all batches
since the start needs it."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted.

    Attributes:
        backbone: with the weights, in eval mode.
        matched, values: entries of the checkpoint that were taken over, and their numbers.
        left_out: what → number of entries that are no part of a backbone.
        filled: counters of batches that the checkpoint does not have, set to 0.
        trunk: prefix of the entries that were taken.
    """

    backbone: Backbone
    matched: int
    values: int
    left_out: Mapping[str, int]
    filled: int
    trunk: str

    def lines(self) -> list[str]:
        """The report."""
        name, options = self.backbone.id, {k: v for k, v in self.backbone.options.items() if k != "convention"}
        made = " ".join([str(name), *(f"{key}={value}" for key, value in options.items())])
        where = f" under {self.trunk}" if self.trunk else ""
        lines = [f"backbone    {made}", f"matched     {self.matched} entries{where}, {self.values:,} values"]
        lines.append("missing     " + (f"{self.filled} counters of batches, set to 0" if self.filled else "none"))
        lines.append("unexpected  none")
        left = ", ".join(f"{count} of the {what}" for what, count in self.left_out.items())
        lines.append(f"left out    {left or 'nothing'}")
        convention = self.backbone.convention
        numbers = " ".join(
            f"{name} {' '.join(f'{v:g}' for v in getattr(convention, name))}" for name in ("mean", "std")
        )
        lines.append(f"pixels      {convention.channels.upper()} of 0..{convention.scale:g}, {numbers}")
        return lines


def convert(
    checkpoint: str | Path, source: str, output: str | Path, *, convention: Convention | None = None
) -> Conversion:
    """Write a checkpoint of a reference as a weights file of ours.

    Args:
        checkpoint: a PyTorch or safetensors file.
        source: key of `SOURCES`.
        output: file to write; one that is there is replaced.
        convention: how pixels must be given, if it is not how `source` gives them.

    Raises:
        UserError: unknown source, a file that is no checkpoint, or entries that are missing, unexpected or of another
            shape, in a table that compares with the backbone that comes nearest.
        StorageError: a file cannot be read or written.
    """
    if Path(output).resolve() == Path(checkpoint).resolve():
        raise UserError(f"{output} is the checkpoint itself, which is not overwritten; write to another file")
    conversion = convert_state(read_state(Path(checkpoint)), source, what=str(checkpoint), convention=convention)
    save_weights(output, conversion.backbone)
    return conversion


def convert_state(
    state: Mapping[str, Tensor], source: str, *, what: str = "the state dict", convention: Convention | None = None
) -> Conversion:
    """As `convert`, of a state dict, without writing."""
    if source not in SOURCES:
        raise UserError(f"unknown source {source!r}; allowed: {', '.join(SOURCES)}")
    origin = SOURCES[source]
    trunk, found, left_out = _split(strip_prefixes(state), origin)
    candidate, channels = _nearest(found, origin)
    pixels = InputConvention.of(convention or candidate.convention or origin.convention)
    options: dict[str, Any] = {**candidate.options, **({"in_channels": channels} if channels != 3 else {})}
    backbone = build_backbone(candidate.backbone, **options, convention=pixels.tree())
    expected = backbone.state_dict()
    ours = _renamed(found, candidate, expected)
    absent = [key for key in expected if key not in ours and key.endswith(COUNTER)]
    ours |= {key: torch.zeros_like(expected[key]) for key in absent}
    made = " ".join([candidate.backbone, *(f"{key}={value}" for key, value in options.items())])
    try:
        load_strict(
            backbone, ours, what=f"{what} is none of the networks of {source}; the nearest is {made}", remedy=""
        )
    except UserError as error:
        raise UserError(f"{str(error).rstrip()}\n{_remedy(state, source)}") from None
    wrong = sum(int((~tensor.isfinite()).sum()) for tensor in ours.values())
    if wrong:
        raise UserError(f"{what}: {wrong:,} of its values are NaN or infinite: its training failed; take another one")
    return Conversion(
        backbone=backbone.eval(),
        matched=len(expected) - len(absent),
        values=sum(tensor.numel() for tensor in expected.values()),
        left_out=left_out,
        filled=len(absent),
        trunk=trunk,
    )


def _split(state: Mapping[str, Tensor], origin: Source) -> tuple[str, dict[str, Tensor], Counter[str]]:
    """The prefix of the backbone, its entries without it, and how many of what are left out.

    An entry that is neither stays in with its whole name, and is unexpected later.
    """
    trunk = next((prefix for prefix in origin.trunks if any(key.startswith(prefix) for key in state)), "")
    found: dict[str, Tensor] = {}
    left_out: Counter[str] = Counter()
    for key, value in state.items():
        gap = origin.gap(key)
        if gap is not None:
            left_out[gap] += 1
        else:
            found[key.removeprefix(trunk)] = value
    return trunk, found, left_out


def _nearest(found: Mapping[str, Tensor], origin: Source) -> tuple[Candidate, int]:
    """The candidate, and the number of channels of its clips, with the fewest differences."""
    best = min(origin.candidates, key=lambda candidate: _differences(found, candidate, 3))
    return min(((best, 3), (best, 2)), key=lambda choice: _differences(found, *choice))


def _differences(found: Mapping[str, Tensor], candidate: Candidate, channels: int) -> int:
    """How many entries one of the two has and the other has not."""
    expected = _expected(candidate.backbone, tuple(candidate.options.items()), channels)
    ours = _renamed(found, candidate, expected)
    same = len([key for key in ours if key in expected and expected[key].shape == ours[key].shape])
    needed = len([key for key in expected if key in ours or not key.endswith(COUNTER)])
    return needed + len(ours) - 2 * same


@functools.cache
def _expected(backbone: str, options: tuple[tuple[str, Any], ...], channels: int) -> Mapping[str, Tensor]:
    """Entries of a backbone, without values."""
    with torch.device("meta"):
        return build_backbone(backbone, **dict(options), in_channels=channels).state_dict()


def _remedy(state: Mapping[str, Tensor], source: str) -> str:
    """Whose checkpoint it is, if not that of `source`."""
    fitting = []
    for name, origin in SOURCES.items():
        _, found, _ = _split(strip_prefixes(state), origin)
        if name != source and _differences(found, *_nearest(found, origin)) == 0:
            fitting.append(name)
    if fitting:
        return (
            f"It fits --from {' or --from '.join(fitting)}. Name the code it comes from: that decides about its pixels"
        )
    return f"Is it a checkpoint of {source}, whole? vidprep convert --from takes: {', '.join(SOURCES)}"


def _renamed(found: Mapping[str, Tensor], candidate: Candidate, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for key, value in found.items():
        name = candidate.rename(key)
        # A key that is not the network's, or whose place is taken, keeps its own name and is reported.
        known = name in expected and name not in ours
        ours[name if known else key] = fitted(value, expected[name]) if known else value
    return ours
