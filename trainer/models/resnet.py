"""3-D residual networks of two convolutions a block (reference/models.md sections 3 and 4).

R3D and R(2+1)D differ in one thing: what a convolution is. That is the option `conv` of the one network here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from trainer.models.base import BGR_255, Backbone, Convention, check_base_width

Triple = tuple[int, int, int]
Conv = Callable[[int, int, Triple, Triple], nn.Module]
"""Makes a convolution without bias, "same" padding, from channels in, channels out, kernel and stride (T,H,W)."""


def full_conv(cin: int, cout: int, kernel: Triple, stride: Triple) -> nn.Module:
    """One convolution over time and space."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(cin, cout, kernel, stride, padding, bias=False)


def factorised_conv(cin: int, cout: int, kernel: Triple, stride: Triple) -> nn.Module:
    """A convolution in space, BN, ReLU, then one in time, with about as many parameters as the full one.

    The width between is floor(kt·kh·kw·cin·cout / (kh·kw·cin + kt·cout)), also in the stem and in the 1x1x1
    shortcuts (the reference's; torchvision's R(2+1)D differs in both).
    """
    kt, kh, kw = kernel
    middle = max(1, (kt * kh * kw * cin * cout) // (kh * kw * cin + kt * cout))
    parts: dict[str, nn.Module] = {
        "spatial": full_conv(cin, middle, (1, kh, kw), (1, stride[1], stride[2])),
        "bn": nn.BatchNorm3d(middle),
        "relu": nn.ReLU(inplace=True),
        "temporal": full_conv(middle, cout, (kt, 1, 1), (stride[0], 1, 1)),
    }
    return nn.Sequential(OrderedDict(parts))


def conv_bn(conv: nn.Module, cout: int) -> nn.Module:
    """A convolution and its batch normalisation."""
    return nn.Sequential(OrderedDict([("conv", conv), ("bn", nn.BatchNorm3d(cout))]))


def check_blocks(blocks: Sequence[int]) -> None:
    """Refuse what does not count the blocks of four stages."""
    if not isinstance(blocks, Sequence) or len(blocks) != 4 or not all(isinstance(n, int) and n >= 1 for n in blocks):
        raise UserError(f"backbone.blocks is {blocks!r}; four whole numbers of at least 1, such as [1, 1, 1, 1]")


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))); the shortcut is a 1x1x1 convolution where shapes differ."""

    def __init__(self, cin: int, cout: int, stride: Triple, conv: Conv) -> None:
        super().__init__()
        self.conv1 = conv(cin, cout, (3, 3, 3), stride)
        self.bn1 = nn.BatchNorm3d(cout)
        self.conv2 = conv(cout, cout, (3, 3, 3), (1, 1, 1))
        self.bn2 = nn.BatchNorm3d(cout)
        same = cin == cout and stride == (1, 1, 1)
        self.shortcut = None if same else conv_bn(conv(cin, cout, (1, 1, 1), stride), cout)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet3d(Backbone):
    """A strided stem without pooling, then four stages; stages 2 to 4 halve T, H and W.

    Maps of a 3,16,112,112 clip: stem and layer1 64,16,56,56; layer2 128,8,28,28; layer3 256,4,14,14;
    layer4 512,2,7,7. PyTorch's default initialisation. Takes clips of any size.

    Args:
        conv: `full_conv` or `factorised_conv`.
        blocks: residual blocks in each of the four stages. The papers' networks, quoted there as R3D-18 and
            R(2+1)D-18, have (1,1,1,1) (reference/models.md section 12).
        base_width: channels of stem and first stage; 64 is the reference.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    def __init__(
        self, *, conv: Conv, blocks: Sequence[int], base_width: int, convention: Convention, in_channels: int
    ) -> None:
        super().__init__(width=8 * check_base_width(base_width), convention=convention, in_channels=in_channels)
        check_blocks(blocks)
        self.stem = conv_bn(conv(in_channels, base_width, (3, 7, 7), (1, 2, 2)), base_width)
        before = base_width
        for stage, count in enumerate(blocks):
            width, stride = base_width * 2**stage, (1, 1, 1) if stage == 0 else (2, 2, 2)
            first = BasicBlock(before, width, stride, conv)
            rest = [BasicBlock(width, width, (1, 1, 1), conv) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
            before = width

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        x = functional.relu(self.stem(clip_BCTHW))
        maps = {"stem": x}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = maps[name] = getattr(self, name)(x)
        return maps


def r3d_vcop(
    *,
    blocks: Sequence[int] = (1, 1, 1, 1),
    base_width: int = 64,
    convention: Convention = BGR_255,
    in_channels: int = 3,
) -> ResNet3d:
    """R3D of Pace and STS (`models/r3d.py`): full 3x3x3 convolutions."""
    return ResNet3d(
        conv=full_conv, blocks=blocks, base_width=base_width, convention=convention, in_channels=in_channels
    )


def r21d_vcop(
    *,
    blocks: Sequence[int] = (1, 1, 1, 1),
    base_width: int = 64,
    convention: Convention = BGR_255,
    in_channels: int = 3,
) -> ResNet3d:
    """R(2+1)D of Pace, STS and RSPNet (`models/r21d.py`): every convolution factorised."""
    return ResNet3d(
        conv=factorised_conv, blocks=blocks, base_width=base_width, convention=convention, in_channels=in_channels
    )
