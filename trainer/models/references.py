"""The public reference networks: which backbone each is, and how its state dict is named.

A further network is one more entry of `REFERENCES`. Prefixes that released files add are stripped before anything
else (reference/pace.md section 8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from trainer.models.base import BGR_255, InputConvention

Renames: TypeAlias = tuple[tuple[str, str], ...]
PREFIXES = ("module.",)  # nn.DataParallel


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One reference network.

    Args:
        backbone: key of `BACKBONES`.
        options: the builder's.
        convention: the pixels it was trained on.
        heads: output name → prefix of a linear layer on the pooled features; its width is read off the weights.
        renames: (pattern, replacement) of re.sub, applied in turn, from the reference's trunk keys to ours.
        unused: patterns of keys that the reference stores but that no output needs.
    """

    backbone: str
    options: Mapping[str, Any] = field(default_factory=dict)
    convention: InputConvention
    heads: Mapping[str, str]
    renames: Renames = ()
    unused: tuple[str, ...] = ()

    def rename(self, key: str) -> str:
        """The name in `trainer.models.weights.ReferenceModel` of a key of the reference."""
        for output, prefix in self.heads.items():
            if key.startswith(f"{prefix}."):
                return f"heads.{output}.{key.removeprefix(f'{prefix}.')}"
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return f"backbone.{key}"


VCOP: Renames = (
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.bn."),
    *((rf"^conv{stage + 1}\.block1\.", f"layer{stage}.0.") for stage in (1, 2, 3, 4)),
    (r"\.downsample(conv|bn)\.", r".shortcut.\1."),
    (r"\.temporal_spatial_conv\.", "."),
    (r"\.(spatial|temporal)_conv\.", r".\1."),
)

S3DG_PACE: Renames = (
    (r"^conv1\.(conv|bn)1\.", r"stem.\1."),
    (r"^gating\.", "gate."),
    (r"\.gating_b(\d)\.", r".gates.\1."),
    # Separable units: the first convolution is the one in space.
    (r"(conv_2c|conv_b[12]_b)\.(conv|bn)1\.", r"\1.spatial.\2."),
    (r"(conv_2c|conv_b[12]_b)\.(conv|bn)2\.", r"\1.temporal.\2."),
    (r"\.conv_b0\.", ".branches.0."),
    (r"\.conv_b3_b\.", ".branches.3.1."),
    (r"\.conv_b([12])_a\.", r".branches.\1.0."),
    (r"\.conv_b([12])_b\.", r".branches.\1.1."),
    (r"\.(conv|bn)1\.", r".\1."),
)

STATISTICS = {"motion": "motion_linear", "appearance": "app_linear"}

REFERENCES: dict[str, Reference] = {
    "pace-c3d": Reference(backbone="c3d-bn", convention=BGR_255, heads={"logits": "linear"}),
    "pace-r3d": Reference(backbone="r3d-vcop", convention=BGR_255, heads={"logits": "linear"}, renames=VCOP),
    "pace-r21d": Reference(backbone="r21d-vcop", convention=BGR_255, heads={"logits": "linear"}, renames=VCOP),
    "pace-s3dg": Reference(backbone="s3dg-pace", convention=BGR_255, heads={"logits": "fc"}, renames=S3DG_PACE),
    "statistics-c3d": Reference(backbone="c3d-bn", convention=BGR_255, heads=STATISTICS),
    "statistics-r3d": Reference(backbone="r3d-vcop", convention=BGR_255, heads=STATISTICS, renames=VCOP),
    "statistics-r21d": Reference(backbone="r21d-vcop", convention=BGR_255, heads=STATISTICS, renames=VCOP),
}


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the prefixes that every one of its keys carries."""
    stripped = dict(state)
    for prefix in PREFIXES:
        if stripped and all(key.startswith(prefix) for key in stripped):
            stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped
