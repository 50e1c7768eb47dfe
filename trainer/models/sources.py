"""Where published checkpoints come from: how their keys lead to our backbones, and what may be left out of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainer.models.base import BGR_255, GREY_45, IMAGENET, KINETICS_HARA, KINETICS_TV, InputConvention
from trainer.models.references import CONCEPTS, S3DG_PACE, S3DG_RSP, VCOP, Renames
from trainer.models.slowfast import NONLOCAL

EIGHTEEN = {"blocks": (2, 2, 2, 2)}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A backbone that a checkpoint may turn out to be.

    Args:
        backbone: key of `BACKBONES`.
        options: the builder's.
        renames: (pattern, replacement) of re.sub, applied in turn, from the checkpoint's keys to ours.
        convention: its pixels, where they are not the source's.
    """

    backbone: str
    options: Mapping[str, Any] = field(default_factory=dict)
    renames: Renames = ()
    convention: InputConvention | None = None

    def rename(self, key: str) -> str:
        """Our name of a key."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


@dataclass(frozen=True, kw_only=True)
class Source:
    """A code base whose checkpoints can be converted.

    Args:
        convention: the pixels its networks were trained on.
        trunks: prefixes of the backbone's keys; the first that occurs is taken, "" being all keys.
        left_out: what it is → pattern of whole keys that may be left out, and of nothing else.
        candidates: the backbones it has.
    """

    convention: InputConvention
    trunks: tuple[str, ...] = ("",)
    left_out: Mapping[str, str] = field(default_factory=dict)
    candidates: tuple[Candidate, ...]

    def gap(self, key: str) -> str | None:
        """Why a key may be left out, or None if it may not."""
        return next((what for what, pattern in self.left_out.items() if re.search(pattern, key)), None)


def _hara(*shortcuts: str, **options: Any) -> Iterator[Candidate]:
    for depth in (10, 18, 34, 50):
        for shortcut in shortcuts:
            chosen = {**options, **({"shortcut": shortcut} if shortcut != "B" else {})}
            yield Candidate(backbone=f"resnet3d-hara-{depth}", options=chosen)


def _cpd() -> Iterator[Candidate]:
    for depth in (50, 34, 18, 10):
        yield Candidate(backbone=f"cpd-r{depth}")
        yield Candidate(backbone=f"cpd-r{depth}", options={"shortcut": "B"})


# The second block of a stage, which no published network has.
_VCOP_18: Renames = (
    *((rf"^conv{stage + 1}\.blocks\.0\.", f"layer{stage}.1.") for stage in (1, 2, 3, 4)),
    *VCOP,
)
_VCOP_NETWORKS = (
    Candidate(backbone="c3d-bn"),
    Candidate(backbone="r3d-vcop", renames=VCOP),
    Candidate(backbone="r21d-vcop", renames=VCOP),
    Candidate(backbone="r3d-vcop", options=EIGHTEEN, renames=_VCOP_18),
    Candidate(backbone="r21d-vcop", options=EIGHTEEN, renames=_VCOP_18),
)
_S3D_COCLR: Renames = (
    (r"^Conv_1a\.", "stem."),
    (r"^Conv_2([bc])\.", r"conv_2\1."),
    (r"^Mixed_(\w\w)\.branch0\.0\.", r"mixed_\1.branches.0."),
    (r"^Mixed_(\w\w)\.branch(\d)\.", r"mixed_\1.branches.\2."),
    (r"^Mixed_(\w\w)\.gating_b(\d)\.", r"mixed_\1.gates.\2."),
    (r"\.(conv|bn)1\.", r".spatial.\1."),
    (r"\.(conv|bn)2\.", r".temporal.\1."),
)
_MIXED_TV = (("3b", 5), ("3c", 6), ("4b", 8), ("4c", 9), ("4d", 10), ("4e", 11), ("4f", 12), ("5b", 14), ("5c", 15))
_S3D_TV: Renames = (
    (r"^features\.0\.", "stem."),
    (r"^features\.2\.", "conv_2b."),
    (r"^features\.3\.", "conv_2c."),
    *((rf"^features\.{i}\.branch(\d)\.", rf"mixed_{name}.branches.\1.") for name, i in _MIXED_TV),
    (r"\.0\.(\w+)$", r".conv.\1"),
    (r"\.1\.(\w+)$", r".bn.\1"),
    # Separable units: the stem, the second convolution, and the second unit of the two middle branches.
    (r"^(stem|conv_2c|mixed_\w\w\.branches\.[12]\.1)\.0\.", r"\1.spatial."),
    (r"^(stem|conv_2c|mixed_\w\w\.branches\.[12]\.1)\.1\.", r"\1.temporal."),
)


def _pathway(number: int, ours: str) -> Renames:
    """From PySlowFast's names of a pathway's stem and blocks; ours begin with `ours`."""
    return (
        (rf"^s1\.pathway{number}_stem\.(conv|bn)\.", rf"{ours}\g<1>1."),
        *((rf"^s{stage + 1}\.pathway{number}_res(\d+)\.", rf"{ours}layer{stage}.\1.") for stage in (1, 2, 3, 4)),
    )


# What follows the name of a block: convolutions a, b and c with their BN, and the shortcut.
_BOTTLENECK: Renames = (
    (r"\.branch1\.", ".downsample.0."),
    (r"\.branch1_bn\.", ".downsample.1."),
    *((rf"\.branch2\.{letter}\.", f".conv{i}.") for i, letter in enumerate("abc", start=1)),
    *((rf"\.branch2\.{letter}_bn\.", f".bn{i}.") for i, letter in enumerate("abc", start=1)),
)
_ONE_PATHWAY: Renames = (*_pathway(0, ""), *_BOTTLENECK)
_TWO_PATHWAYS: Renames = (
    *_pathway(0, "slow."),
    *_pathway(1, "fast."),
    *((rf"^s{i + 1}_fuse\.conv_f2s\.", f"laterals.{i}.conv.") for i in range(4)),
    *((rf"^s{i + 1}_fuse\.bn\.", f"laterals.{i}.bn.") for i in range(4)),
    *_BOTTLENECK,
)
# A non-local block and the block before it are one entry of our stage.
_NON_LOCAL: Renames = tuple(
    rename
    for stage, blocks in NONLOCAL.items()
    for i in blocks
    for rename in (
        (rf"^s{stage + 1}\.pathway0_res{i}\.", f"slow.layer{stage}.{i}.0."),
        (rf"^s{stage + 1}\.pathway0_nonlocal{i}\.(?:bn|norm)\.", f"slow.layer{stage}.{i}.1.bn."),
        (rf"^s{stage + 1}\.pathway0_nonlocal{i}\.conv_", f"slow.layer{stage}.{i}.1."),
    )
)


def _pytorchvideo(*blocks: int) -> Renames:
    """From PyTorchVideo's names of the same networks to PySlowFast's; `blocks` are the numbers of the four stages."""
    stages = {0: 1, **{block: i for i, block in enumerate(blocks, start=2)}}
    return (
        (r"^blocks\.(\d)\.multipathway_blocks\.(\d)\.", r"blocks.\1.pathway\2_"),
        (r"^blocks\.(\d)\.multipathway_fusion\.conv_fast_to_slow\.", r"blocks.\1_fuse.conv_f2s."),
        (r"^blocks\.(\d)\.multipathway_fusion\.", r"blocks.\1_fuse."),
        (r"^blocks\.(\d)\.(?=conv\.|norm\.|res_blocks\.)", r"blocks.\1.pathway0_"),
        (r"pathway(\d)_(conv|norm)\.", r"pathway\1_stem.\2."),
        (r"pathway(\d)_res_blocks\.(\d+)\.", r"pathway\1_res\2."),
        (r"\.branch1_conv\.", ".branch1."),
        (r"\.branch2\.conv_([abc])\.", r".branch2.\1."),
        (r"\.branch2\.norm_([abc])\.", r".branch2.\1_bn."),
        (r"([._])norm\.", r"\1bn."),
        *((rf"^blocks\.{block}(?=[._])", f"s{stage}") for block, stage in stages.items()),
    )


_SLOWFAST = (
    *(Candidate(backbone=name, renames=_TWO_PATHWAYS) for name in ("slowfast-r50-4x16", "slowfast-r50-8x8")),
    *(
        Candidate(backbone="slowfast-nln-r50-4x16", options=options, renames=(*_NON_LOCAL, *_TWO_PATHWAYS))
        for options in ({}, {"alpha": 4, "fusion": 7})
    ),
)
_CLASSIFIER = {"classifier": r"^(linear|fc)\."}

SOURCES: dict[str, Source] = {
    "pace": Source(
        convention=BGR_255,
        left_out=_CLASSIFIER,
        candidates=(
            *_VCOP_NETWORKS,
            Candidate(backbone="s3dg-pace", renames=S3DG_PACE),
            Candidate(
                backbone="s3dg-pace",
                options={"stem": "space-to-depth"},
                renames=((r"^conv1\.(conv|bn)1\.", r"stem.unit.\1."), *S3DG_PACE),
            ),
        ),
    ),
    "statistics": Source(
        convention=BGR_255,
        left_out={"heads": r"^(motion_linear|app_linear)\.", **_CLASSIFIER},
        candidates=_VCOP_NETWORKS,
    ),
    "rspnet": Source(
        convention=IMAGENET,
        trunks=("encoder_q.encoder.", "encoder.", ""),
        left_out={
            "key encoder": r"^encoder_k\.",
            "queue": r"^queue(_ptr)?$",
            "heads": r"^(encoder_q\.)?fc[12]\.",
            "classifier": r"^(encoder_q\.encoder\.|encoder\.)?(fc|linear|head\.projection)\.",
        },
        candidates=(
            Candidate(backbone="c3d-bn"),
            *_hara("B"),
            Candidate(backbone="r21d-vcop", renames=VCOP),
            Candidate(backbone="s3dg-rsp", renames=S3DG_RSP),
            Candidate(backbone="s3d-rsp", renames=S3DG_RSP),
            Candidate(backbone="mfnet"),
            Candidate(backbone="r3d-tv-18"),
            *_SLOWFAST,
        ),
    ),
    "cpd": Source(
        convention=GREY_45,
        trunks=("visual_encoder.", ""),
        left_out={
            "text encoder": r"^textual_encoder\.",
            "projections": r"^(vis_emb|text_emb)\.",
            "memory banks": r"^(vis_memory|text_memory|Z_v|Z_t)$",
            "classifier": r"^(visual_encoder\.)?fc\.",
        },
        candidates=tuple(_cpd()),
    ),
    "concepts": Source(
        convention=IMAGENET,
        trunks=("backbone.",),
        left_out={
            "queue": r"^queue$",
            "heads": r"^(f(vv|vs|vd|sv|dv)|fv|fs|fd|gv|gs|gd)\.",
            "prototypes": r"^prototype(_s|_d)?\.",
            "cross attention": r"^lit\.",
            "classifier": r"^backbone\.fc\.",
        },
        candidates=(
            Candidate(backbone=CONCEPTS.backbone, options=CONCEPTS.options),
            Candidate(backbone="r21d-tv", options=EIGHTEEN),
            Candidate(backbone="r3d-tv-18"),
            Candidate(backbone="mc3-18"),
            *_hara("B", pool_time_stride=1),
        ),
    ),
    "coclr": Source(
        convention=IMAGENET,
        trunks=("encoder_q.0.", "backbone.", ""),
        left_out={
            "heads": r"^encoder_q\.[1-9]\.",
            "key encoder": r"^encoder_k\.",
            "sampler": r"^sampler\.",
            "queues": r"^queue",
            "classifier": r"^final_(bn|fc)\.",
            "second names of the same tensors": r"^(encoder_q\.0\.|backbone\.)?block[1-5]\.",
        },
        candidates=(
            Candidate(backbone="s3d-coclr", renames=_S3D_COCLR),
            Candidate(backbone="s3dg-coclr", renames=_S3D_COCLR),
            Candidate(backbone="r2d3d50"),
        ),
    ),
    "kenshohara": Source(
        convention=KINETICS_HARA, left_out={"classifier": r"^fc\."}, candidates=tuple(_hara("B", "A"))
    ),
    "torchvision": Source(
        convention=KINETICS_TV,
        left_out={"classifier": r"^(fc|classifier\.1)\."},
        candidates=(
            Candidate(backbone="r21d-tv", options=EIGHTEEN),
            Candidate(backbone="r3d-tv-18"),
            Candidate(backbone="mc3-18"),
            Candidate(backbone="s3d-coclr", options={"bn_eps": 1e-3, "bn_momentum": 1e-3}, renames=_S3D_TV),
            # The 2-D networks that TSM starts from.
            Candidate(backbone="tsm-r18", convention=IMAGENET),
            Candidate(backbone="tsm-r50", convention=IMAGENET),
        ),
    ),
    "pyslowfast": Source(
        convention=GREY_45,
        left_out={"classifier": r"^(head\.projection|blocks\.[56]\.proj)\."},
        candidates=(
            Candidate(backbone="slow-r50", renames=(*_pytorchvideo(1, 2, 3, 4), *_ONE_PATHWAY)),
            # Pooling of pairs of frames is a block there.
            Candidate(backbone="i3d-r50", renames=(*_pytorchvideo(1, 3, 4, 5), *_ONE_PATHWAY)),
            Candidate(backbone="c2d-r50", renames=(*_pytorchvideo(1, 3, 4, 5), *_ONE_PATHWAY)),
            *(replace(it, renames=(*_pytorchvideo(1, 2, 3, 4), *it.renames)) for it in _SLOWFAST),
        ),
    ),
}
"""Name on the command line → where the checkpoint comes from."""
