"""3-D ResNets of Hara et al., of CPD and of CoCLR (reference/models.md sections 6, 7 and 9)."""

from __future__ import annotations

from shards.errors import UserError
from trainer.models.base import GREY_45, IMAGENET, Convention
from trainer.models.blocks import Layout, ResNet, Shortcut

LATE = ((1,), (1,), (3,), (3,))
"""Kernels in time of networks that look at several frames in the last two stages only."""


def hara(
    depth: int,
    *,
    shortcut: Shortcut = "B",
    stem_time: int = 7,
    pool_time_stride: int = 2,
    base_width: int = 64,
    convention: Convention = IMAGENET,
    in_channels: int = 3,
) -> ResNet:
    """3-D ResNet with full 3x3x3 convolutions, as in RSPNet `models/resnet.py` and in the published 3D-ResNets.

    Maps of a 3,16,112,112 clip at depth 18: stem 64,16,56,56; layer1 64,8,28,28; layer2 128,4,14,14; layer3 256,2,7,7;
    layer4 512,1,4,4.

    Args:
        depth: 10, 18, 34 or 50.
        shortcut: "B" in RSPNet; the 18- and 34-layer files of 2017 have "A-detached" (in training; else "A").
        stem_time: kernel in time of the stem.
        pool_time_stride: 2, or 1 (then its kernel in time is 1, too): SVC `r3d.py`.
        base_width, convention, in_channels: as in `ResNet`.
    """
    if pool_time_stride not in (1, 2):
        raise UserError(f"backbone.pool_time_stride is {pool_time_stride!r}; allowed: 2 (RSPNet), 1 (SVC)")
    if stem_time not in (1, 3, 5, 7):
        raise UserError(f"backbone.stem_time is {stem_time!r}; allowed: 1, 3, 5, 7 (the reference)")
    time, second = (3, 3) if depth < 50 else (1, 3)
    layout = Layout(
        depth=depth,
        stem=(stem_time, 7, 7),
        pool=(3 if pool_time_stride == 2 else 1, 3, 3),
        pool_stride=(pool_time_stride, 2, 2),
        first=((time,),) * 4,
        second=second,
        time_stride=2,
        shortcut=shortcut,
    )
    return ResNet(layout, base_width=base_width, convention=convention, in_channels=in_channels)


def cpd(
    depth: int,
    *,
    shortcut: Shortcut = "A",
    base_width: int = 64,
    convention: Convention = GREY_45,
    in_channels: int = 3,
) -> ResNet:
    """ResNet of CPD `models/resnet.py`: convolutions in time in the last two stages, time is never strided.

    Maps of a 3,8,224,224 clip at depth 50: stem 64,8,112,112; layer1 256,8,56,56; layer2 512,8,28,28;
    layer3 1024,8,14,14; layer4 2048,8,7,7.

    Args:
        depth: 10, 18, 34 or 50.
        shortcut: "A-detached" is literally the reference's: no gradient passes its four shape-changing shortcuts
            (reference/cpd.md section 12.2). "A" gives the same features and lets it pass. "B" is the reference's other
            option, repaired: the published one strides time in the shortcut alone and fails.
        base_width, convention, in_channels: as in `ResNet`.
    """
    layout = Layout(depth=depth, stem=(1, 7, 7), first=LATE, shortcut=shortcut)
    return ResNet(layout, base_width=base_width, convention=convention, in_channels=in_channels)


def r2d3d50(*, base_width: int = 64, convention: Convention = IMAGENET, in_channels: int = 3) -> ResNet:
    """CoCLR's R2D3D-50 (`backbone/resnet_2d3d.py`): as CPD's with shortcut B, but the stem halves time.

    Maps of a 3,16,128,128 clip: stem 64,8,64,64; layer1 256,8,32,32; layer2 512,8,16,16; layer3 1024,8,8,8;
    layer4 2048,8,4,4.

    Args:
        base_width, convention, in_channels: as in `ResNet`.
    """
    layout = Layout(depth=50, stem=(5, 7, 7), stem_stride=(2, 2, 2), first=LATE)
    return ResNet(layout, base_width=base_width, convention=convention, in_channels=in_channels)
