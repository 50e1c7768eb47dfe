"""S3D-G as the pace reference builds it (reference/models.md section 8, column Pace)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.base import BGR_255, Backbone, Convention, check_base_width

# Inception block → widths of (branch 0; branch 1 first, second; branch 2 first, second; branch 3) at base width 64.
MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}


class ConvUnit(nn.Module):
    """Convolution without bias, BN, ReLU."""

    def __init__(self, cin: int, cout: int, kernel: tuple[int, int, int] = (1, 1, 1), stride: int = 1) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(cin, cout, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


def separable_unit(cin: int, cout: int) -> nn.Module:
    """A unit over space, (1,3,3), then one over time, (3,1,1)."""
    units = [("spatial", ConvUnit(cin, cout, (1, 3, 3))), ("temporal", ConvUnit(cout, cout, (3, 1, 1)))]
    return nn.Sequential(OrderedDict(units))


class Gate(nn.Module):
    """Channels weighted by a sigmoid of a linear map of their own means: the G of S3D-G."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.fc(x.mean((2, 3, 4))).sigmoid()
        return x * weights[:, :, None, None, None]


class Inception(nn.Module):
    """Four branches, each gated, side by side."""

    def __init__(self, cin: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = widths
        self.width = b0 + b1b + b2b + b3
        self.branches = nn.ModuleList(
            [
                ConvUnit(cin, b0),
                nn.Sequential(ConvUnit(cin, b1a), separable_unit(b1a, b1b)),
                nn.Sequential(ConvUnit(cin, b2a), separable_unit(b2a, b2b)),
                nn.Sequential(nn.MaxPool3d(3, 1, 1), ConvUnit(cin, b3)),
            ]
        )
        self.gates = nn.ModuleList([Gate(width) for width in (b0, b1b, b2b, b3)])

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.branches, self.gates, strict=True)
        return torch.cat([gate(branch(x)) for branch, gate in pairs], dim=1)


def pool_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Max pooling as the reference imitates TensorFlow's SAME: k − s zeros an axis, the odd one at the end, then
    ceil mode. Zeros equal −inf padding because every input is non-negative (ReLU, or a gate on one)."""
    pads = [k - s for k, s in zip(kernel, stride, strict=True)]
    around = [side for pad in reversed(pads) for side in (pad // 2, pad - pad // 2)]
    return functional.max_pool3d(functional.pad(x, around), kernel, stride, ceil_mode=True)


class S3DG(Backbone):
    """Separable Inception with gates after the second convolution and on all four branches of every block.

    Maps of a 3,64,224,224 clip: stem 64,32,112,112; conv2 192,32,56,56; mixed3 480,32,28,28; mixed4 832,16,14,14;
    mixed5 1024,8,7,7. PyTorch's default initialisation. Takes clips of any size.

    Args:
        base_width: channels of the stem; 64 is the reference. All widths scale with it, rounded down, at least 1.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    def __init__(self, *, base_width: int = 64, convention: Convention = BGR_255, in_channels: int = 3) -> None:
        def scaled(width: int) -> int:
            return max(1, width * check_base_width(base_width) // 64)

        blocks: dict[str, Inception] = {}
        channels = scaled(192)
        for name, widths in MIXED.items():
            blocks[name] = Inception(channels, tuple(scaled(width) for width in widths))
            channels = blocks[name].width
        super().__init__(width=channels, convention=convention, in_channels=in_channels)
        self.stem = ConvUnit(in_channels, scaled(64), (3, 7, 7), 2)
        self.conv_2b = ConvUnit(scaled(64), scaled(64))
        self.conv_2c = separable_unit(scaled(64), scaled(192))
        self.gate = Gate(scaled(192))
        for name, block in blocks.items():
            self.add_module(name, block)

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        x = self.stem(clip_BCTHW)
        maps = {"stem": x}
        x = self.conv_2c(self.conv_2b(pool_same(x, (1, 3, 3), (1, 2, 2))))
        maps["conv2"] = x = self.gate(x)
        x = pool_same(x, (1, 3, 3), (1, 2, 2))
        maps["mixed3"] = x = self._mixed("3", x)
        x = pool_same(x, (3, 3, 3), (2, 2, 2))
        maps["mixed4"] = x = self._mixed("4", x)
        x = pool_same(x, (2, 2, 2), (2, 2, 2))
        maps["mixed5"] = self._mixed("5", x)
        return maps

    def _mixed(self, stage: str, x: Tensor) -> Tensor:
        for name in MIXED:
            if name.startswith(f"mixed_{stage}"):
                x = getattr(self, name)(x)
        return x
