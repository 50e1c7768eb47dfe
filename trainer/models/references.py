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

from trainer.models.base import BGR_255, GREY_45, IMAGENET, InputConvention

Renames: TypeAlias = tuple[tuple[str, str], ...]
PREFIXES = ("module.",)  # nn.DataParallel


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a reference puts on the pooled features; widths are read off the weights.

    Args:
        prefix: of its keys in the reference.
        mlp: linear, ReLU, linear (keys PREFIX.0 and PREFIX.2) instead of one linear layer.
        normalised: the output has length 1.
    """

    prefix: str
    mlp: bool = False
    normalised: bool = False


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where an output comes from.

    Args:
        head: name of a head, or "pooled" (the features) or "map_shape" (the shape of the last map).
        view: which view of a clip of several, (B,V,3,T,H,W); None: the only one, or all.
    """

    head: str
    view: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One reference network.

    Args:
        backbone: key of `BACKBONES`.
        options: the builder's.
        convention: the pixels it was trained on.
        heads: name → head.
        outputs: output name → where it comes from; by default each head's output by its name.
        renames: (pattern, replacement) of re.sub, applied in turn, from the reference's trunk keys to ours.
        unused: patterns of keys that the reference stores but that no output needs.
    """

    backbone: str
    options: Mapping[str, Any] = field(default_factory=dict)
    convention: InputConvention
    heads: Mapping[str, Head]
    outputs: Mapping[str, Output] = field(default_factory=dict)
    renames: Renames = ()
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", self.outputs or {name: Output(head=name) for name in self.heads})

    def rename(self, key: str) -> str:
        """The name in `trainer.models.weights.ReferenceModel` of a key of the reference."""
        for name, head in self.heads.items():
            if key.startswith(f"{head.prefix}."):
                return f"heads.{name}.{key.removeprefix(f'{head.prefix}.')}"
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

S3DG_RSP: Renames = (
    (r"^feature\.sepConv1\.", "stem."),
    (r"^feature\.basicConv3d\.", "conv_2b."),
    (r"^feature\.sep_conv2\.", "conv_2c."),
    (r"^feature\.sepInc_(\w\w)\.branch(\d)\.", r"mixed_\1.branches.\2."),
    (r"\.sep_conv\.0\.", ".spatial."),
    (r"\.sep_conv\.1\.", ".temporal."),
    (r"\.excitation\.", ".gate.fc."),
    (r"\.conv3d\.", ".conv."),
)

LINEAR = {"logits": Head(prefix="linear")}
FC = {"logits": Head(prefix="fc")}
STATISTICS = {"motion": Head(prefix="motion_linear"), "appearance": Head(prefix="app_linear")}

POOLED = {"pooled": Output(head="pooled"), "map_shape": Output(head="map_shape")}
RSPNET = {
    "appearance": Head(prefix="fc1.2", normalised=True),
    "motion": Head(prefix="fc2.2", normalised=True),
}
RSPNET_OUTPUTS = {name: Output(head=name) for name in RSPNET} | POOLED
# The backbone's own classifier, of one class, that nothing uses.
RSPNET_UNUSED = (r"^encoder\.(linear|fc)\.",)
ENCODER: Renames = ((r"^encoder\.", ""),)


def _rspnet(backbone: str, renames: Renames = ()) -> Reference:
    """A backbone in RSPNet's pretraining wrapper (`moco/split_wrapper.py`)."""
    return Reference(
        backbone=backbone,
        convention=IMAGENET,
        heads=RSPNET,
        outputs=RSPNET_OUTPUTS,
        renames=ENCODER + renames,
        unused=RSPNET_UNUSED,
    )


# Views: two RGB clips, two still ones, two of frame differences. Both clips of a kind share a head.
CONCEPT_VIEWS = {"fvv": (0, 1), "fvs": (0, 1), "fvd": (0, 1), "fsv": (2, 3), "fdv": (4, 5)}
CONCEPTS = Reference(
    backbone="r21d-tv",
    options={"blocks": (1, 1, 1, 1)},
    convention=IMAGENET,
    heads={name: Head(prefix=name, mlp=True) for name in CONCEPT_VIEWS},
    outputs=POOLED
    | {
        f"instance_{2 * i + j}": Output(head=head, view=view)
        for i, (head, views) in enumerate(CONCEPT_VIEWS.items())
        for j, view in enumerate(views)
    },
    renames=((r"^backbone\.", ""),),
    # Concept heads, prototypes, their queue, and torchvision's classifier.
    unused=(r"^(fv|fs|fd|gv|gs|gd|lit|prototype|prototype_s|prototype_d)\.", r"^queue$", r"^backbone\.fc\."),
)

REFERENCES: dict[str, Reference] = {
    "pace-c3d": Reference(backbone="c3d-bn", convention=BGR_255, heads=LINEAR),
    "pace-r3d": Reference(backbone="r3d-vcop", convention=BGR_255, heads=LINEAR, renames=VCOP),
    "pace-r21d": Reference(backbone="r21d-vcop", convention=BGR_255, heads=LINEAR, renames=VCOP),
    "pace-s3dg": Reference(backbone="s3dg-pace", convention=BGR_255, heads=FC, renames=S3DG_PACE),
    "statistics-c3d": Reference(backbone="c3d-bn", convention=BGR_255, heads=STATISTICS),
    "statistics-r3d": Reference(backbone="r3d-vcop", convention=BGR_255, heads=STATISTICS, renames=VCOP),
    "statistics-r21d": Reference(backbone="r21d-vcop", convention=BGR_255, heads=STATISTICS, renames=VCOP),
    "rspnet-c3d": _rspnet("c3d-bn"),
    "rspnet-resnet18": _rspnet("resnet3d-hara-18"),
    "rspnet-r2plus1d-vcop": _rspnet("r21d-vcop", VCOP),
    "rspnet-s3dg": _rspnet("s3dg-rsp", S3DG_RSP),
    "rspnet-finetune-s3dg": Reference(
        backbone="s3dg-rsp", convention=IMAGENET, heads=FC, renames=ENCODER + S3DG_RSP, unused=RSPNET_UNUSED
    ),
    "cpd-visual-r50": Reference(
        backbone="cpd-r50",
        convention=GREY_45,
        heads={"embedding": Head(prefix="vis_emb", normalised=True)},
        outputs={"pooled": Output(head="pooled"), "embedding": Output(head="embedding")},
        renames=((r"^visual_encoder\.", ""),),
    ),
    "cpd-finetune-r50": Reference(backbone="cpd-r50", convention=GREY_45, heads=FC),
    "concepts-r21d": CONCEPTS,
}


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the prefixes that every one of its keys carries."""
    stripped = dict(state)
    for prefix in PREFIXES:
        if stripped and all(key.startswith(prefix) for key in stripped):
            stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped
