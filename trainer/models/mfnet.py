"""MFNet-3D: multi-fibre units (reference/models.md section 10; RSPNet `models/mfnet`)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from trainer.models.base import IMAGENET, Backbone, Convention, check_base_width

Triple = tuple[int, int, int]
UNITS = (3, 4, 6, 3)


class PreConv(nn.Module):
    """BN, ReLU, then a convolution without bias."""

    def __init__(
        self, cin: int, cout: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1), groups: int = 1
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm3d(cin)
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(cin, cout, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(functional.relu(self.bn(x), inplace=True))
        return y


class Unit(nn.Module):
    """A multiplexer mixes the channels, then two convolutions in `groups` fibres; added to the input.

    The first unit of a stage changes the shape: its second convolution is a full 1x1x1 one, and so is its shortcut.
    """

    def __init__(self, cin: int, width: int, groups: int, *, stride: Triple | None = None) -> None:
        super().__init__()
        narrow = max(1, width // 4)
        self.conv_i1, self.conv_i2 = PreConv(cin, narrow), PreConv(narrow, cin)
        self.conv_m1 = PreConv(cin, width, (3, 3, 3), stride or (1, 1, 1), groups)
        first = stride is not None
        self.conv_m2 = PreConv(width, width) if first else PreConv(width, width, (1, 3, 3), groups=groups)
        self.conv_w1 = PreConv(cin, width, stride=stride) if stride is not None else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_m2(self.conv_m1(x + self.conv_i2(self.conv_i1(x))))
        return y + (x if self.conv_w1 is None else self.conv_w1(x))


class MFNet(Backbone):
    """Multi-fibre network: 3x3x3 convolutions in 16 groups, with cheap mixing between them.

    Maps of a 3,16,224,224 clip: conv1 16,16,112,112; conv2 96,8,56,56; conv3 192,8,28,28; conv4 384,8,14,14;
    conv5 768,8,7,7 (after the last BN and ReLU). Xavier initialisation. Takes clips of any size.

    Args:
        base_width: channels of the first stage, 96 in the reference, a multiple of 6: the stem has a sixth of it, and
            so many groups are there.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    def __init__(self, *, base_width: int = 96, convention: Convention = IMAGENET, in_channels: int = 3) -> None:
        if check_base_width(base_width) % 6:
            raise UserError(f"backbone.base_width is {base_width}; MFNet needs a multiple of 6, such as 96")
        super().__init__(width=8 * base_width, convention=convention, in_channels=in_channels)
        stem = base_width // 6
        self.conv1 = nn.Sequential()
        self.conv1.add_module("conv", nn.Conv3d(in_channels, stem, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False))
        self.conv1.add_module("bn", nn.BatchNorm3d(stem))
        before = stem
        for i, count in enumerate(UNITS):
            width, stride = base_width * 2**i, (2, 1, 1) if i == 0 else (1, 2, 2)
            stage = nn.Sequential()
            for j in range(count):
                unit = Unit(before, width, stem, stride=stride) if j == 0 else Unit(width, width, stem)
                stage.add_module(f"B{j + 1:02}", unit)
            self.add_module(f"conv{i + 2}", stage)
            before = width
        self.tail = nn.Sequential()
        self.tail.add_module("bn", nn.BatchNorm3d(before))
        for part in self.modules():
            if isinstance(part, nn.Conv3d):
                nn.init.xavier_uniform_(part.weight)

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        maps = {"conv1": functional.relu(self.conv1(clip_BCTHW))}
        x = functional.max_pool3d(maps["conv1"], (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for name in ("conv2", "conv3", "conv4", "conv5"):
            x = maps[name] = getattr(self, name)(x)
        maps["conv5"] = functional.relu(self.tail(x))
        return maps
