"""Video ResNets of torchvision's own blocks (reference/models.md section 5), with its names of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DNoTemporal, Conv3DSimple

from trainer.models.base import IMAGENET, Backbone, Convention, check_base_width
from trainer.models.blocks import init_residual
from trainer.models.resnet import check_blocks

Kind = Literal["r3d", "mc3", "r21d"]
CONVOLUTIONS: dict[str, tuple[Any, Any, Any, Any]] = {
    "r3d": (Conv3DSimple,) * 4,
    "mc3": (Conv3DSimple, Conv3DNoTemporal, Conv3DNoTemporal, Conv3DNoTemporal),
    "r21d": (Conv2Plus1D,) * 4,
}


class VideoResNet(Backbone):
    """torchvision's VideoResNet without its classifier: no pooling after the stem.

    Maps of a 3,16,128,128 clip: stem and layer1 64,16,64,64; layer2 128,8,32,32; layer3 256,4,16,16;
    layer4 512,2,8,8 (mc3: 16 frames throughout). Takes clips of any size.

    Args:
        kind: "r3d" (3x3x3), "mc3" (1x3x3 from the second stage on) or "r21d" ((1,3,3) then (3,1,1), with a middle
            width that both convolutions of a block share).
        blocks: residual blocks in each of the four stages.
        base_width: channels of stem and first stage; 64 is torchvision.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    def __init__(
        self, kind: Kind, *, blocks: Sequence[int], base_width: int, convention: Convention, in_channels: int
    ) -> None:
        super().__init__(width=8 * check_base_width(base_width), convention=convention, in_channels=in_channels)
        check_blocks(blocks)
        self.stem = _stem(kind, in_channels, base_width)
        before = base_width
        for stage, (count, builder) in enumerate(zip(blocks, CONVOLUTIONS[kind], strict=True)):
            width, stride = base_width * 2**stage, 1 if stage == 0 else 2
            skip = None
            if stage:
                conv = nn.Conv3d(before, width, 1, builder.get_downsample_stride(stride), bias=False)
                skip = nn.Sequential(conv, nn.BatchNorm3d(width))
            first = BasicBlock(before, width, builder, stride, skip)
            self.add_module(
                f"layer{stage + 1}",
                nn.Sequential(first, *(BasicBlock(width, width, builder) for _ in range(count - 1))),
            )
            before = width
        init_residual(self)

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        maps = {"stem": self.stem(clip_BCTHW)}
        x = maps["stem"]
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = maps[name] = getattr(self, name)(x)
        return maps


def _stem(kind: Kind, cin: int, width: int) -> nn.Sequential:
    if kind != "r21d":
        conv = nn.Conv3d(cin, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        return nn.Sequential(conv, nn.BatchNorm3d(width), nn.ReLU(inplace=True))
    middle = max(1, 45 * width // 64)
    return nn.Sequential(
        nn.Conv3d(cin, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def r21d_tv(
    *,
    blocks: Sequence[int] = (1, 1, 1, 1),
    base_width: int = 64,
    convention: Convention = IMAGENET,
    in_channels: int = 3,
) -> VideoResNet:
    """torchvision's R(2+1)D with one block a stage, SVC's "r2plus1d_18"; the true R(2+1)D-18 has `blocks` (2,2,2,2)."""
    return VideoResNet("r21d", blocks=blocks, base_width=base_width, convention=convention, in_channels=in_channels)


def r3d_tv18(*, base_width: int = 64, convention: Convention = IMAGENET, in_channels: int = 3) -> VideoResNet:
    """torchvision's R3D-18, which RSPNet calls torchvision-resnet18."""
    return VideoResNet(
        "r3d", blocks=(2, 2, 2, 2), base_width=base_width, convention=convention, in_channels=in_channels
    )


def mc3_18(*, base_width: int = 64, convention: Convention = IMAGENET, in_channels: int = 3) -> VideoResNet:
    """torchvision's MC3-18: convolutions in time in the first stage only."""
    return VideoResNet(
        "mc3", blocks=(2, 2, 2, 2), base_width=base_width, convention=convention, in_channels=in_channels
    )
