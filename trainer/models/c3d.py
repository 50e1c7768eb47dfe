"""C3D (reference/models.md sections 1 and 2).

With batch normalisation and without fully connected layers, as in Pace, STS and RSPNet; and the other way round, as in
the paper of C3D (arXiv 1412.0767) and, smaller, in the TensorFlow code of motion and appearance statistics (MAS).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from trainer.models.base import BGR_255, Backbone, Convention, check_base_width

Stages = Mapping[str, tuple[tuple[str, int], ...]]

# Stage → its convolutions and their output width in units of the base width. Names are the reference's keys.
STAGES: Stages = {
    "conv1": (("1", 1),),
    "conv2": (("2", 2),),
    "conv3": (("3a", 4), ("3b", 4)),
    "conv4": (("4a", 8), ("4b", 8)),
    "conv5": (("5a", 8), ("5b", 8)),
}


class C3D(Backbone):
    """Eight 3x3x3 convolutions, each with bias, BN and ReLU, and max pooling between the five stages.

    Maps of a 3,16,112,112 clip: conv1 64,16,112,112; conv2 128,16,56,56; conv3 256,8,28,28; conv4 512,4,14,14;
    conv5 512,2,7,7. PyTorch's default initialisation.

    Args:
        base_width: channels of the first stage; 64 is the reference.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    minimum = (8, 16, 16)

    def __init__(self, *, base_width: int = 64, convention: Convention = BGR_255, in_channels: int = 3) -> None:
        super().__init__(width=8 * check_base_width(base_width), convention=convention, in_channels=in_channels)
        before = in_channels
        for layers in STAGES.values():
            for name, factor in layers:
                self.add_module(f"conv{name}", nn.Conv3d(before, factor * base_width, 3, padding=1))
                self.add_module(f"bn{name}", nn.BatchNorm3d(factor * base_width))
                before = factor * base_width

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        x, maps = clip_BCTHW, {}
        for stage, layers in STAGES.items():
            if stage != "conv1":
                x = functional.max_pool3d(x, (1, 2, 2) if stage == "conv2" else 2)
            for name, _ in layers:
                x = getattr(self, f"bn{name}")(getattr(self, f"conv{name}")(x))
                x = functional.relu(x, inplace=True)
            maps[stage] = x
        return maps


MAS_STAGES: Stages = {f"conv{i}": ((str(i), factor),) for i, factor in enumerate((1, 2, 4, 4, 4), start=1)}


class C3DFull(Backbone):
    """C3D without batch normalisation, with its fully connected layers fc6 and fc7.

    They are convolutions here, the first as large as the last map of a 16x112x112 clip (1,4,4): the same numbers for
    such clips, and larger ones give more positions, of which the pooled vector is the mean. It is fc7 after ReLU.

    Maps of a 3,16,112,112 clip: conv1 64,16,112,112; conv2 128,16,56,56; conv3 256,8,28,28; conv4 512,4,14,14;
    conv5 512,2,7,7; pool5 512,1,4,4; fc6 and fc7 4096,1,1,1.

    Args:
        small: the network of MAS: one convolution a stage, of widths 64, 128, 256, 256, 256, and fc6 and fc7 of 2048.
            Its pooling rounds up (TensorFlow's SAME), its weights start as there.
        fc: False ends with pool5.
        base_width: channels of the first stage; 64 is the reference. All widths scale with it.
        dropout: share of fc6 and fc7 that is dropped in training; 0.5 in C3D, off in MAS.
        convention: how pixels are given.
        in_channels: 3 for RGB, 2 for flow.
    """

    def __init__(
        self,
        *,
        small: bool = False,
        fc: bool = True,
        base_width: int = 64,
        dropout: float = 0.0,
        convention: Convention = BGR_255,
        in_channels: int = 3,
    ) -> None:
        stages = MAS_STAGES if small else STAGES
        last = list(stages.values())[-1][-1][1] * check_base_width(base_width)
        hidden = (32 if small else 64) * base_width
        super().__init__(width=hidden if fc else last, convention=convention, in_channels=in_channels)
        self.layout, self.small, self.dropout = stages, small, dropout
        self.minimum = (1, 97, 97) if small else (16, 96, 96)
        if not fc:
            self.minimum = (1, 1, 1) if small else (16, 16, 16)
        before = in_channels
        for layers in stages.values():
            for name, factor in layers:
                self.add_module(f"conv{name}", nn.Conv3d(before, factor * base_width, 3, padding=1))
                before = factor * base_width
        self.fc6 = nn.Conv3d(last, hidden, (1, 4, 4)) if fc else None
        self.fc7 = nn.Conv3d(hidden, hidden, 1) if fc else None
        if small:
            self._start_as_mas()

    def _start_as_mas(self) -> None:
        for name, part in self.named_modules():
            if isinstance(part, nn.Conv3d):
                full = name.startswith("fc")
                nn.init.normal_(part.weight, std=0.005 if full else 0.01)
                if part.bias is not None:
                    nn.init.constant_(part.bias, 1.0 if full else 0.0)

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        x, maps = clip_BCTHW, {}
        for stage, layers in self.layout.items():
            if stage != "conv1":
                kernel = (1, 2, 2) if stage == "conv2" else (2, 2, 2)
                x = functional.max_pool3d(x, kernel, ceil_mode=self.small)
            for name, _ in layers:
                x = functional.relu(getattr(self, f"conv{name}")(x), inplace=True)
            maps[stage] = x
        around = (0, 0, 0) if self.small else (0, 1, 1)
        x = maps["pool5"] = functional.max_pool3d(x, 2, padding=around, ceil_mode=self.small)
        for fc in ("fc6", "fc7"):
            if getattr(self, fc) is not None:
                x = functional.relu(getattr(self, fc)(x))
                x = maps[fc] = functional.dropout(x, self.dropout, self.training)
        return maps
