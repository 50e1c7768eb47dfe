"""Residual networks named as 2-D ResNets are: conv1, bn1, layer1..4 (reference/models.md sections 6, 7, 9, 10).

Hara's 3-D ResNets, CPD's, CoCLR's, TSM and the single pathway networks of SlowFast differ in kernels and strides in
time, in the shortcut and in the pooling, and in nothing else. `Layout` says all of that; `ResNet` builds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from trainer.models.base import Backbone, Convention, check_base_width

Triple: TypeAlias = tuple[int, int, int]
Shortcut = Literal["A", "A-detached", "B"]
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Depth → blocks in each of the four stages; from 50 on, blocks are bottlenecks."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All that makes one of these networks different from the others. Triples are (T,H,W).

    Args:
        depth: 10, 18, 34 (two convolutions a block) or 50 (three, the last four times as wide).
        stem, stem_stride: kernel and stride of the first convolution.
        pool, pool_stride: of the max pooling after it.
        first: for each stage the kernels in time of its blocks' first convolutions, repeated as often as needed.
        second: kernel in time of every block's second convolution.
        time_stride: stride in time of stages 2 to 4; in space it is 2.
        middle_pool: frames that are max-pooled into one after the first stage.
        shortcut: where a block changes the shape. "A": subsampled and padded with zero channels; "A-detached": that,
            but without gradient; "B": 1x1x1 convolution and BN.
        shift: every block's residual branch sees an eighth of the channels one frame later and an eighth one earlier.
        zero_last: the last BN of each block starts at 0.
    """

    depth: int
    stem: Triple
    stem_stride: Triple = (1, 2, 2)
    pool: Triple = (1, 3, 3)
    pool_stride: Triple = (1, 2, 2)
    first: tuple[tuple[int, ...], ...]
    second: int = 1
    time_stride: int = 1
    middle_pool: int = 1
    shortcut: Shortcut = "B"
    shift: bool = False
    zero_last: bool = False

    def __post_init__(self) -> None:
        if self.shortcut not in get_args(Shortcut):
            raise UserError(f"backbone.shortcut is {self.shortcut!r}; allowed: {', '.join(get_args(Shortcut))}")

    @property
    def expansion(self) -> int:
        """Width of a block's output in units of its inner width."""
        return 4 if self.depth >= 50 else 1


class PadShortcut(nn.Module):
    """Shortcut A: every n-th position, and zeros for the channels that are missing. It has no parameters."""

    def __init__(self, cout: int, stride: Triple, *, detached: bool) -> None:
        super().__init__()
        self.cout, self.stride, self.detached = cout, stride, detached

    def forward(self, x: Tensor) -> Tensor:
        t, h, w = self.stride
        x = x.detach() if self.detached else x
        return functional.pad(x[:, :, ::t, ::h, ::w], (0, 0, 0, 0, 0, 0, 0, self.cout - x.shape[1]))


def shift_in_time(x_BCTHW: Tensor) -> Tensor:
    """The first eighth of the channels from the next frame, the second from the one before, zeros beyond the ends.

    Source: temporal shift module, arXiv 1811.08383; RSPNet `models/tsm/temporal_shift.py`.
    """
    fold = x_BCTHW.shape[1] // 8
    following = functional.pad(x_BCTHW[:, :fold, 1:], (0, 0, 0, 0, 0, 1))
    before = functional.pad(x_BCTHW[:, fold : 2 * fold, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([following, before, x_BCTHW[:, 2 * fold :]], dim=1)


class Block(nn.Module):
    """relu(shortcut(x) + branch(x)), the branch being two or three convolutions with BN."""

    def __init__(self, cin: int, width: int, stride: Triple, time: int, layout: Layout) -> None:
        super().__init__()
        cout, second = width * layout.expansion, layout.second
        one: Triple = (1, 1, 1)
        convs: list[tuple[int, int, Triple, Triple]] = [
            (cin, width, (time, 1, 1), one),
            (width, width, (second, 3, 3), stride),
            (width, cout, one, one),
        ]
        if layout.expansion == 1:
            convs = [(cin, width, (time, 3, 3), stride), (width, cout, (second, 3, 3), one)]
        self.convs = len(convs)
        for i, (before, after, kernel, step) in enumerate(convs, start=1):
            self.add_module(f"conv{i}", conv(before, after, kernel, step))
            self.add_module(f"bn{i}", nn.BatchNorm3d(after))
        self.shift = layout.shift
        self.downsample: nn.Module | None = None
        if stride != (1, 1, 1) or cin != cout:
            self.downsample = shortcut(cin, cout, stride, layout.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = shift_in_time(x) if self.shift else x
        for i in range(1, self.convs + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = functional.relu(y, inplace=True) if i < self.convs else y
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


def conv(cin: int, cout: int, kernel: Triple, stride: Triple) -> nn.Conv3d:
    """A convolution without bias; padding keeps the size at stride 1."""
    return nn.Conv3d(cin, cout, kernel, stride, (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2), bias=False)


def shortcut(cin: int, cout: int, stride: Triple, kind: Shortcut) -> nn.Module:
    """The shortcut of a block that changes the shape."""
    if kind == "B":
        return nn.Sequential(conv(cin, cout, (1, 1, 1), stride), nn.BatchNorm3d(cout))
    return PadShortcut(cout, stride, detached=kind == "A-detached")


def stage(cin: int, width: int, number: int, layout: Layout) -> nn.Sequential:
    """Stage `number`, 0 to 3, with inner width `width`."""
    stride = (1, 1, 1) if number == 0 else (layout.time_stride, 2, 2)
    times = layout.first[number]
    blocks = []
    for i in range(BLOCKS[layout.depth][number]):
        blocks.append(Block(cin, width, stride if i == 0 else (1, 1, 1), times[i % len(times)], layout))
        cin = width * layout.expansion
    return nn.Sequential(*blocks)


def init_residual(module: nn.Module, *, zero_last: bool = False) -> None:
    """Kaiming normal, fan-out, and no bias for convolutions; BN 1 and 0.

    With `zero_last` the last BN of each block has 0 and 0, so that it starts as its shortcut.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm3d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    if zero_last:
        for part in module.modules():
            if isinstance(part, Block):
                nn.init.zeros_(getattr(part, f"bn{part.convs}").weight)


class ResNet(Backbone):
    """A residual network of a `Layout`: maps stem, layer1, …, layer4. Takes clips of any size.

    Args:
        layout: kernels, strides, shortcut.
        base_width: channels of the stem, and inner width of the first stage; 64 is the reference.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    def __init__(self, layout: Layout, *, base_width: int, convention: Convention, in_channels: int) -> None:
        width = 8 * layout.expansion * check_base_width(base_width)
        super().__init__(width=width, convention=convention, in_channels=in_channels)
        self.layout = layout
        self.minimum = (layout.middle_pool, 1, 1)
        self.conv1 = conv(in_channels, base_width, layout.stem, layout.stem_stride)
        self.bn1 = nn.BatchNorm3d(base_width)
        cin = base_width
        for number in range(4):
            self.add_module(f"layer{number + 1}", stage(cin, base_width * 2**number, number, layout))
            cin = base_width * 2**number * layout.expansion
        init_residual(self, zero_last=layout.zero_last)

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        maps = {"stem": functional.relu(self.bn1(self.conv1(clip_BCTHW)))}
        pool, frames = self.layout.pool, self.layout.middle_pool
        x = functional.max_pool3d(maps["stem"], pool, self.layout.pool_stride, tuple(size // 2 for size in pool))
        for number in range(1, 5):
            x = maps[f"layer{number}"] = getattr(self, f"layer{number}")(x)
            if number == 1 and frames > 1:
                x = functional.max_pool3d(x, (frames, 1, 1))
        return maps
