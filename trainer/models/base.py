"""What every backbone is: a map from a clip to its stage maps and one pooled vector. Heads never live inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from shards.errors import UserError

Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True, kw_only=True)
class InputConvention:
    """How a backbone wants its pixels; it belongs to the weights and is stored with them.

    A network sees ((pixel / 255) · scale − mean) / std, in the channel order `channels`, for a pixel of 0..255.

    Args:
        channels: "rgb" or "bgr".
        scale: 1.0 for values of 0..1, 255.0 for values of 0..255.
        mean, std: one number a channel, in the order `channels`, in units after scaling.
    """

    channels: Channels = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.channels not in get_args(Channels):
            raise UserError(f"convention: channels is {self.channels!r}; allowed: rgb, bgr")
        if self.scale not in (1.0, 255.0):
            raise UserError(f"convention: scale is {self.scale!r}; allowed: 1.0 (0..1), 255.0 (0..255)")
        for name in ("mean", "std"):
            values = getattr(self, name)
            three = isinstance(values, Sequence) and len(values) == 3
            if not three or (name == "std" and min(values) <= 0):
                raise UserError(f"convention: {name} is {values}; three numbers are needed, std above 0")
            object.__setattr__(self, name, tuple(float(v) for v in values))
        object.__setattr__(self, "scale", float(self.scale))

    @classmethod
    def of(cls, value: InputConvention | Mapping[str, Any]) -> InputConvention:
        """`value` itself, or the convention that a recipe or a weights file describes."""
        if isinstance(value, InputConvention):
            return value
        allowed = ("channels", "scale", "mean", "std")
        if not isinstance(value, Mapping) or not set(value) <= set(allowed):
            raise UserError(f"convention is {value!r}; it is a mapping with the keys {', '.join(allowed)}")
        return cls(**value)

    def tree(self) -> dict[str, Any]:
        """As plain JSON values, which `of` reads."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


BGR_255 = InputConvention(channels="bgr", scale=255.0)
"""Raw BGR of 0..255, as the pace reference reads it with cv2 and feeds it (reference/pace.md section 11.4)."""

IMAGENET = InputConvention(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""RGB with ImageNet's statistics: RSPNet, CoCLR, static and dynamic concepts (reference/evaluation.md section 5)."""

GREY_45 = InputConvention(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
"""RGB, (x − 0.45) / 0.225: CPD (reference/cpd.md section 4) and PySlowFast."""

KINETICS_TV = InputConvention(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989))
"""RGB with Kinetics' statistics, as torchvision's video weights want it."""

KINETICS_HARA = InputConvention(mean=(0.4345, 0.4051, 0.3775), std=(0.2768, 0.2713, 0.2737))
"""RGB with Kinetics' statistics, as the published 3D-ResNets of Hara et al. want it."""

CHANNELS = {3: "RGB", 2: "flow"}
"""What a clip of so many channels is."""

Convention: TypeAlias = InputConvention | Mapping[str, Any]


class Features(NamedTuple):
    """What a backbone makes of clips.

    Attributes:
        maps: stage name → (B,C,T,H,W), from the first stage to the last, after the stage's last activation.
        pooled: (B,D), at least float32: the mean of the last map over T, H and W.
    """

    maps: dict[str, Tensor]
    pooled: Tensor

    @property
    def last(self) -> Tensor:
        """(B,D,T,H,W): the map that `pooled` is the mean of."""
        return next(reversed(self.maps.values()))


class Backbone(nn.Module):
    """Base of all backbones. A subclass sets `width` and defines `stages`.

    Attributes:
        width: D, length of the pooled vector.
        convention: how pixels must be given to it; of RGB only.
        in_channels: C, 3 for RGB or 2 for flow (u and v as `trainer.augment.augment` gives them).
        minimum: smallest clip, (T,H,W), that leaves something at the last stage.
        id, options: what `build_backbone` was called with; stored with the weights.
    """

    width: int
    convention: InputConvention
    in_channels: int
    minimum: tuple[int, int, int] = (1, 1, 1)
    id: str | None = None
    options: Mapping[str, Any]

    def __init__(self, *, width: int, convention: Convention = BGR_255, in_channels: int = 3) -> None:
        super().__init__()
        self.width = width
        self.in_channels = check_in_channels(in_channels)
        self.convention = InputConvention.of(convention)
        self.options = {}

    def stages(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        """Stage name → (B,C,T,H,W), first to last."""
        raise NotImplementedError

    def forward(self, clip_BCTHW: Tensor) -> Features:
        """Features of normalised clips (B,C,T,H,W).

        Raises:
            UserError: not of that shape, or smaller than `minimum`.
        """
        shape = tuple(clip_BCTHW.shape)
        if len(shape) != 5 or shape[1] != self.in_channels:
            remedy = ""
            if len(shape) == 5 and shape[1] in CHANNELS:
                remedy = (
                    f": it was made for {CHANNELS[self.in_channels]} and these are {CHANNELS[shape[1]]}. Set "
                    f"backbone.in_channels={shape[1]}, or data.column to a column of {CHANNELS[self.in_channels]}"
                )
            raise UserError(f"this backbone takes clips of shape (B,{self.in_channels},T,H,W); got {shape}{remedy}")
        if any(size < least for size, least in zip(shape[2:], self.minimum, strict=True)):
            need, got = (" x ".join(map(str, sizes)) for sizes in (self.minimum, shape[2:]))
            raise UserError(
                f"{self.id or type(self).__name__} needs clips of at least {need} (frames x height x width); "
                f"got {got}. Set data.frames and data.crop"
            )
        maps = self.stages(clip_BCTHW)
        last = next(reversed(maps.values()))
        # Half precision would leave 8 bits of a feature that retrieval compares.
        return Features(maps, last.mean((2, 3, 4), dtype=torch.promote_types(last.dtype, torch.float32)))


def check_in_channels(in_channels: int) -> int:
    """`in_channels` when it is that of a kind of clips."""
    if in_channels not in CHANNELS or isinstance(in_channels, bool):
        raise UserError(f"backbone.in_channels is {in_channels!r}; allowed: 3 (RGB), 2 (flow)")
    return in_channels


def check_base_width(base_width: int) -> int:
    """`base_width` when it can scale a network."""
    if not isinstance(base_width, int) or isinstance(base_width, bool) or base_width < 1:
        raise UserError(f"backbone.base_width is {base_width!r}; a whole number of at least 1 is needed")
    return base_width
