"""C3D with batch normalisation (reference/models.md section 1), the same in Pace, STS and RSPNet."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from trainer.models.base import BGR_255, Backbone, Convention, check_base_width

# Stage → its convolutions and their output width in units of the base width. Names are the reference's keys.
STAGES: dict[str, tuple[tuple[str, int], ...]] = {
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
