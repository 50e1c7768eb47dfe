"""SlowFast, and its single pathway relatives Slow, I3D and C2D (reference/models.md section 10).

From RSPNet `models/slowfast`, a port of PySlowFast: bottlenecks, shortcut B, the last BN of each block starts at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from trainer.models.base import GREY_45, Backbone, Convention, check_base_width
from trainer.models.blocks import Layout, ResNet, conv, init_residual, stage
from trainer.models.resnet3d import LATE

_SLOW = Layout(depth=50, stem=(1, 7, 7), first=LATE, zero_last=True)
_FAST = Layout(depth=50, stem=(5, 7, 7), first=((3,),) * 4, zero_last=True)
_I3D = Layout(depth=50, stem=(5, 7, 7), first=((3,), (3, 1), (3, 1), (1, 3)), middle_pool=2, zero_last=True)
_C2D = Layout(depth=50, stem=(1, 7, 7), first=((1,),) * 4, middle_pool=2, zero_last=True)
NONLOCAL = {2: (1, 3), 3: (1, 3, 5)}
"""Stage → blocks of the slow pathway after which a non-local block comes."""


def slow_r50(*, base_width: int = 64, convention: Convention = GREY_45, in_channels: int = 3) -> ResNet:
    """Slow R50, alike for clips of 8 frames, 8 apart, and of 4 frames, 16 apart.

    Maps of a 3,8,224,224 clip: stem 64,8,112,112; layer1 256,8,56,56; layer2 512,8,28,28; layer3 1024,8,14,14;
    layer4 2048,8,7,7.
    """
    return ResNet(_SLOW, base_width=base_width, convention=convention, in_channels=in_channels)


def i3d_r50(*, base_width: int = 64, convention: Convention = GREY_45, in_channels: int = 3) -> ResNet:
    """I3D R50: convolutions in time in every other block; pairs of frames are pooled after the first stage."""
    return ResNet(_I3D, base_width=base_width, convention=convention, in_channels=in_channels)


def c2d_r50(*, base_width: int = 64, convention: Convention = GREY_45, in_channels: int = 3) -> ResNet:
    """C2D R50: no convolution in time; pairs of frames are pooled after the first stage."""
    return ResNet(_C2D, base_width=base_width, convention=convention, in_channels=in_channels)


class Pathway(nn.Module):
    """One pathway's stem and stages; `lateral` channels of the other one join its own before each stage."""

    def __init__(self, layout: Layout, cin: int, width: int, lateral: int) -> None:
        super().__init__()
        self.conv1 = conv(cin, width, layout.stem, layout.stem_stride)
        self.bn1 = nn.BatchNorm3d(width)
        before = width
        for number in range(4):
            inner = width * 2**number
            self.add_module(f"layer{number + 1}", stage(before + before * lateral // width, inner, number, layout))
            before = inner * layout.expansion

    def stem(self, x: Tensor) -> Tensor:
        """Convolution, BN, ReLU, pooling in space."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def run(self, number: int, x: Tensor) -> Tensor:
        """Stage `number`, 1 to 4."""
        y: Tensor = getattr(self, f"layer{number}")(x)
        return y


class Lateral(nn.Module):
    """From the fast pathway to the slow one: a convolution in time with stride alpha, to twice the channels."""

    def __init__(self, channels: int, kernel: int, alpha: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2 * channels, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False)
        self.bn = nn.BatchNorm3d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class NonLocal(nn.Module):
    """x + bn(weighted sum over all positions), weights being dot products divided by the number of positions.

    Positions that are summed over are pooled two by two in space first. Source: arXiv 1711.07971; RSPNet
    `models/slowfast/nonlocal_helper.py`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.theta, self.phi, self.g = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.out = nn.Conv3d(inner, channels, 1)
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.max_pool3d(x, (1, 2, 2))
        theta_BDP, phi_BDQ, g_BDQ = self.theta(x).flatten(2), self.phi(pooled).flatten(2), self.g(pooled).flatten(2)
        weights_BPQ = theta_BDP.transpose(1, 2) @ phi_BDQ / phi_BDQ.shape[2]
        sums_BDP = g_BDQ @ weights_BPQ.transpose(1, 2)
        y: Tensor = self.bn(self.out(sums_BDP.unflatten(2, x.shape[2:])))
        return x + y


class SlowFast(Backbone):
    """SlowFast R50: a slow pathway that sees every alpha-th frame, and a thin fast one that sees them all.

    A map is the slow pathway's beside the fast one's averaged over alpha frames, so that the mean of the last one is
    the concatenation of both pathways' means. Of a 3,32,224,224 clip with alpha 8: stem 72,4,56,56 (after its pooling);
    layer1 288,4,56,56; layer2 576,4,28,28; layer3 1152,4,14,14; layer4 2304,4,7,7.

    Args:
        alpha: frames of the fast pathway for one of the slow: 8 (4x16) or 4 (8x8). The number of frames must be a
            multiple of it.
        fusion: kernel in time of the lateral convolutions: 5 with alpha 8, 7 with alpha 4.
        non_local: five non-local blocks in the second and third stage of the slow pathway.
        base_width: width of the slow pathway, 64 in the reference, at least 8; the fast one has an eighth.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    def __init__(
        self,
        *,
        alpha: int = 8,
        fusion: int = 5,
        non_local: bool = False,
        base_width: int = 64,
        convention: Convention = GREY_45,
        in_channels: int = 3,
    ) -> None:
        fast = check_base_width(base_width) // 8
        if fast < 1:
            raise UserError(f"backbone.base_width is {base_width}; SlowFast needs at least 8")
        if alpha < 1 or fusion % 2 == 0:
            raise UserError(f"backbone.alpha is {alpha}, backbone.fusion is {fusion}; allowed: from 1, and odd numbers")
        super().__init__(width=32 * (base_width + fast), convention=convention, in_channels=in_channels)
        self.alpha = alpha
        self.minimum = (alpha, 17, 17) if non_local else (alpha, 1, 1)
        self.slow = Pathway(_SLOW, in_channels, base_width, 2 * fast)
        self.fast = Pathway(_FAST, in_channels, fast, 0)
        widths = (fast, 4 * fast, 8 * fast, 16 * fast)
        self.laterals = nn.ModuleList([Lateral(width, fusion, alpha) for width in widths])
        if non_local:
            for number, blocks in NONLOCAL.items():
                layer = getattr(self.slow, f"layer{number}")
                for i in blocks:
                    layer[i] = nn.Sequential(layer[i], NonLocal(base_width * 2 ** (number + 1)))
        init_residual(self, zero_last=True)
        for part in self.modules():
            if isinstance(part, NonLocal):
                nn.init.zeros_(part.bn.weight)

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        frames = clip_BCTHW.shape[2]
        if frames % self.alpha:
            raise UserError(
                f"{self.id or 'SlowFast'} takes a multiple of {self.alpha} frames; got {frames}. Set data.frames"
            )
        chosen = torch.linspace(0, frames - 1, frames // self.alpha, device=clip_BCTHW.device).long()
        slow, fast = self.slow.stem(clip_BCTHW.index_select(2, chosen)), self.fast.stem(clip_BCTHW)
        maps = {"stem": self._beside(slow, fast)}
        for number, lateral in enumerate(self.laterals, start=1):
            slow = self.slow.run(number, torch.cat([slow, lateral(fast)], dim=1))
            fast = self.fast.run(number, fast)
            maps[f"layer{number}"] = self._beside(slow, fast)
        return maps

    def _beside(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat([slow, functional.avg_pool3d(fast, (self.alpha, 1, 1))], dim=1)
