"""What packing was asked for: the options that decide bytes, frozen in the plan."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shards.errors import UserError
from vidprep.resize import Resize


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """Options that decide what a data set's bytes are.

    Attributes:
        name: what reports call the data set.
        resize: stored frame size.
        fps: resample to this rate by timestamps; None keeps every frame at its own time.
        quality: of the JPEGs, 1 to 100.
        shard_size: bytes a shard should have, about.
        segment_frames: cut videos into samples of this many frames; None: one video is one sample.
    """

    name: str
    resize: Resize
    fps: float | None = None
    quality: int = 90
    shard_size: int = 256_000_000
    segment_frames: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise UserError("the data set's name is empty; give --name")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise UserError(f"fps is {self.fps}; it must be above 0, or left out to keep every frame")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality is {self.quality}; allowed are 1 to 100")
        if self.shard_size < 1:
            raise UserError(f"shard size is {self.shard_size} bytes; it must be at least 1")
        if self.segment_frames is not None and self.segment_frames < 1:
            raise UserError(f"segment_frames is {self.segment_frames}; it must be at least 1")

    @classmethod
    def of_plan(cls, planned: Mapping[str, Any], *, dest: str) -> PackOptions:
        """The options in a plan. Raises UserError: it is not one of videos."""
        try:
            size = planned["size"]
            exact = (size["height"], size["width"]) if "height" in size else None
            return cls(
                name=planned["name"],
                resize=Resize(size=exact) if exact is not None else Resize(short_side=size["short_side"]),
                fps=planned["fps"],
                quality=planned["quality"],
                shard_size=planned["shard_size"],
                segment_frames=planned["segment_frames"],
            )
        except (KeyError, TypeError) as error:
            raise UserError(
                f"the plan of {dest} is not one of vidprep pack or vidprep plan ({error!r}); run the command that "
                "wrote it instead"
            ) from error

    def parameters(self) -> dict[str, Any]:
        """What a shard's bytes depend on besides the videos."""
        return {
            "size": self.size(),
            "fps": self.fps,
            "quality": self.quality,
            "segment_frames": self.segment_frames,
        }

    def size(self) -> dict[str, int]:
        """As dataset.json has it."""
        if self.resize.size is not None:
            return {"height": self.resize.size[0], "width": self.resize.size[1]}
        return {"short_side": self.resize.short_side or 0}

    def planned(self) -> dict[str, Any]:
        """As the plan has them."""
        return {"name": self.name, **self.parameters(), "shard_size": self.shard_size}


_FLAGS = {
    "name": "--name",
    "fps": "--fps",
    "quality": "--quality",
    "segment_frames": "--segment-frames",
    "shard_size": "--shard-size",
}


def check_same(planned: Mapping[str, Any], options: PackOptions, *, dest: str) -> None:
    """A data set is packed with one set of options.

    Raises:
        UserError: the plan was made with others; names the first difference and the flag that agrees with the plan.
    """
    for field, wanted in options.planned().items():
        before = planned.get(field)
        if before == wanted:
            continue
        flag = _size_flag(before) if field == "size" else f"{_FLAGS[field]} {shlex.quote(str(before))}"
        help_ = f"leave {_FLAGS[field]} out" if field != "size" and before is None else f"give {flag}"
        raise UserError(
            f"{dest} was planned with {field.replace('_', ' ')} {_show(before)}, this command asks for "
            f"{_show(wanted)}; to go on there {help_}, for the other value choose another destination"
        )


def _size_flag(size: Any) -> str:
    if isinstance(size, Mapping) and "short_side" in size:
        return f"--short-side {size['short_side']}"
    return f"--size {size['height']}x{size['width']}" if isinstance(size, Mapping) else "the same size"


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return _size_flag(value).removeprefix("--").replace("-", " ")
    return "unset" if value is None else str(value)
