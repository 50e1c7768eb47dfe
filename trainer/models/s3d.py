"""S3D and S3D-G as Pace, RSPNet and CoCLR build them: three different networks (reference/models.md section 8)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from trainer.models.base import BGR_255, IMAGENET, Backbone, Convention, check_base_width

Triple = tuple[int, int, int]
Stem = Literal["joint", "space-to-depth", "separable", "separable-odd-frames-lost"]
Gates = Literal["none", "branches", "branches+conv2", "separable"]
Pooling = Literal["tf-same", "symmetric"]
Init = Literal["default", "normal"]

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

    def __init__(self, cin: int, cout: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(cin, cout, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class DepthStem(nn.Module):
    """Each 2x2x2 block of pixels becomes one position of eight times the channels; then a (2,4,4) convolution.

    Padding is TensorFlow's SAME: of the padded result the first position of each axis is dropped.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.unit = ConvUnit(8 * cin, cout, (2, 4, 4))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        size = tuple(x_BCTHW.shape[2:])
        if any(length % 2 for length in size):
            raise UserError(
                f"backbone.stem=space-to-depth needs an even number of frames, rows and columns; got "
                f"{' x '.join(map(str, size))}. Set data.frames and data.crop"
            )
        t, h, w = (length // 2 for length in size)
        pairs = x_BCTHW.reshape(*x_BCTHW.shape[:2], t, 2, h, 2, w, 2)
        y: Tensor = self.unit(pairs.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4))
        return y[:, :, 1:, 1:, 1:]


def separable_unit(
    cin: int, cout: int, size: int = 3, *, space: Triple = (1, 1, 1), time: Triple = (1, 1, 1), gated: bool = False
) -> nn.Module:
    """A unit over space, (1,size,size), then one over time, (size,1,1), with strides `space` and `time`."""
    units: list[tuple[str, nn.Module]] = [
        ("spatial", ConvUnit(cin, cout, (1, size, size), space)),
        ("temporal", ConvUnit(cout, cout, (size, 1, 1), time)),
    ]
    return nn.Sequential(OrderedDict([*units, *([("gate", Gate(cout))] if gated else [])]))


class Gate(nn.Module):
    """Channels weighted by a sigmoid of a linear map of their own means: the G of S3D-G."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.fc(x.mean((2, 3, 4))).sigmoid()
        return x * weights[:, :, None, None, None]


class Inception(nn.Module):
    """Four branches side by side, with gates where `gates` puts them."""

    def __init__(self, cin: int, widths: tuple[int, ...], gates: Gates) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = widths
        self.width, gated = b0 + b1b + b2b + b3, gates == "separable"
        self.branches = nn.ModuleList(
            [
                ConvUnit(cin, b0),
                nn.Sequential(ConvUnit(cin, b1a), separable_unit(b1a, b1b, gated=gated)),
                nn.Sequential(ConvUnit(cin, b2a), separable_unit(b2a, b2b, gated=gated)),
                nn.Sequential(nn.MaxPool3d(3, 1, 1), ConvUnit(cin, b3)),
            ]
        )
        at_branches = gates.startswith("branches")
        self.gates = nn.ModuleList([Gate(width) for width in (b0, b1b, b2b, b3)]) if at_branches else None

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        if self.gates is not None:
            parts = [gate(part) for gate, part in zip(self.gates, parts, strict=True)]
        return torch.cat(parts, dim=1)


def pool_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Max pooling as Pace imitates TensorFlow's SAME: k − s zeros an axis, the odd one at the end, then ceil mode.

    Zeros equal −inf padding because every input is non-negative (ReLU, or a gate on one).
    """
    pads = [k - s for k, s in zip(kernel, stride, strict=True)]
    around = [side for pad in reversed(pads) for side in (pad // 2, pad - pad // 2)]
    return functional.max_pool3d(functional.pad(x, around), kernel, stride, ceil_mode=True)


class S3D(Backbone):
    """Separable Inception; with gates S3D-G.

    Maps of a 3,64,224,224 clip: stem 64,32,112,112; conv2 192,32,56,56; mixed3 480,32,28,28; mixed4 832,16,14,14;
    mixed5 1024,8,7,7. `PRESETS` has the options of the published networks.

    Args:
        stem: "joint" is a (3,7,7) convolution; "space-to-depth" rearranges pixels first; "separable" is (1,7,7), then
            (7,1,1) with the stride in time; "separable-odd-frames-lost" has that stride in the first, so that every
            other frame is never looked at (reference/rspnet.md section 12.3).
        gates: "separable": in every separable unit; "branches": on all four branches of each block; "branches+conv2":
            and after the second convolution.
        pooling: "symmetric", or "tf-same", which pads at the end and rounds up.
        bn_eps, bn_momentum: of batch normalisation; momentum as PyTorch means it.
        init: PyTorch's, or "normal" with deviation 0.01 for convolutions.
        base_width: channels of the stem; 64 is the reference. All widths scale with it, rounded down, at least 1.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    def __init__(
        self,
        *,
        stem: Stem,
        gates: Gates,
        pooling: Pooling,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
        init: Init = "default",
        base_width: int = 64,
        convention: Convention = IMAGENET,
        in_channels: int = 3,
    ) -> None:
        options = {"stem": (stem, Stem), "gates": (gates, Gates), "pooling": (pooling, Pooling), "init": (init, Init)}
        for name, (value, kind) in options.items():
            if value not in get_args(kind):
                raise UserError(f"backbone.{name} is {value!r}; allowed: {', '.join(get_args(kind))}")

        def scaled(width: int) -> int:
            return max(1, width * check_base_width(base_width) // 64)

        blocks: dict[str, Inception] = {}
        channels = scaled(192)
        for name, widths in MIXED.items():
            blocks[name] = Inception(channels, tuple(scaled(width) for width in widths), gates)
            channels = blocks[name].width
        super().__init__(width=channels, convention=convention, in_channels=in_channels)
        self.pooling = pooling
        if pooling == "symmetric":
            self.minimum = (5, 17, 17)  # leaves two positions an axis for the last pooling, which rounds down
        elif stem == "space-to-depth":
            self.minimum = (2, 2, 2)
        if stem == "separable":
            # Over 5 to 7 frames torch on a CPU (oneDNN; 2.11 and 2.15 were tried) makes wrong weight gradients of this
            # stem's 7 x 1 x 1 kernel with stride 2, where it does not end the process.
            self.minimum = (max(8, self.minimum[0]), *self.minimum[1:])
        self.stem = _stem(stem, in_channels, scaled(64), gated=gates == "separable")
        self.conv_2b = ConvUnit(scaled(64), scaled(64))
        self.conv_2c = separable_unit(scaled(64), scaled(192), gated=gates == "separable")
        self.gate = Gate(scaled(192)) if gates == "branches+conv2" else None
        for name, block in blocks.items():
            self.add_module(name, block)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm3d):
                part.eps, part.momentum = bn_eps, bn_momentum
            elif isinstance(part, nn.Conv3d) and init == "normal":
                nn.init.normal_(part.weight, std=0.01)

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        x = self.stem(clip_BCTHW)
        maps = {"stem": x}
        x = self.conv_2c(self.conv_2b(self._pool(x, (1, 3, 3), (1, 2, 2))))
        maps["conv2"] = x = x if self.gate is None else self.gate(x)
        x = self._pool(x, (1, 3, 3), (1, 2, 2))
        maps["mixed3"] = x = self._mixed("3", x)
        x = self._pool(x, (3, 3, 3), (2, 2, 2))
        maps["mixed4"] = x = self._mixed("4", x)
        x = self._pool(x, (2, 2, 2), (2, 2, 2))
        maps["mixed5"] = self._mixed("5", x)
        return maps

    def _pool(self, x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
        if self.pooling == "tf-same":
            return pool_same(x, kernel, stride)
        padding = tuple((size - 1) // 2 for size in kernel)  # 1 for 3, 0 for 1 and 2
        return functional.max_pool3d(x, kernel, stride, padding)

    def _mixed(self, stage: str, x: Tensor) -> Tensor:
        for name in MIXED:
            if name.startswith(f"mixed_{stage}"):
                x = getattr(self, name)(x)
        return x


def _stem(stem: Stem, cin: int, cout: int, *, gated: bool) -> nn.Module:
    if stem == "joint":
        return ConvUnit(cin, cout, (3, 7, 7), (2, 2, 2))
    if stem == "space-to-depth":
        return DepthStem(cin, cout)
    if stem == "separable":
        return separable_unit(cin, cout, 7, space=(1, 2, 2), time=(2, 1, 1), gated=gated)
    return separable_unit(cin, cout, 7, space=(2, 2, 2), gated=gated)


PRESETS: dict[str, dict[str, Any]] = {
    "s3dg-pace": {"stem": "joint", "gates": "branches+conv2", "pooling": "tf-same", "convention": BGR_255},
    "s3d-pace": {"stem": "joint", "gates": "none", "pooling": "tf-same", "convention": BGR_255},
    "s3dg-rsp": {
        "stem": "separable-odd-frames-lost",
        "gates": "separable",
        "pooling": "symmetric",
        "bn_eps": 1e-3,
        "bn_momentum": 1e-3,
    },
    "s3d-rsp": {
        "stem": "separable-odd-frames-lost",
        "gates": "none",
        "pooling": "symmetric",
        "bn_eps": 1e-3,
        "bn_momentum": 1e-3,
    },
    "s3dg-coclr": {"stem": "separable", "gates": "branches", "pooling": "symmetric", "init": "normal"},
    "s3d-coclr": {"stem": "separable", "gates": "none", "pooling": "symmetric", "init": "normal"},
}
"""Id → options; each may be changed. From Pace `models/s3d_g.py`, RSPNet `models/s3dg.py`, CoCLR `backbone/s3dg.py`."""
