"""How large decoded pictures are stored, and their conversion; `shards.picture` has the pixels."""

from __future__ import annotations

from dataclasses import dataclass

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from shards.errors import UserError
from shards.picture import Image, Orientation, has_known_matrix, orientation, to_rgb

__all__ = ["Converter", "Image", "Orientation", "Resize", "orientation"]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Stored frame size: a short side in pixels, or an exact (height, width). Never enlarges."""

    short_side: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.short_side is None) == (self.size is None):
            raise UserError("give either short_side or size (height, width), not both or neither")
        if min(self.size or (self.short_side or 0,)) < 1:
            raise UserError(f"a stored size of {self.size or self.short_side} is too small; it must be at least 1")

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a video of this size is stored in.

        A side that is smaller than asked stays as it is: enlarging would store bytes without information, and
        readers resize to what they need.
        """
        if self.size is not None:
            return min(height, self.size[0]), min(width, self.size[1])
        side = self.short_side or 0
        if min(height, width) <= side:
            return height, width
        scale = side / min(height, width)
        return max(side, round(height * scale)), max(side, round(width * scale))

    def is_smaller(self, height: int, width: int) -> bool:
        """Whether a video of this size is stored smaller than asked."""
        if self.size is not None:
            return height < self.size[0] or width < self.size[1]
        return min(height, width) < (self.short_side or 0)


class Converter:
    """Converts the pictures of one video, each to the size and orientation of the first."""

    def __init__(self, first: VideoFrame, resize: Resize | None) -> None:
        self.orientation = orientation(first)
        height, width = self.orientation.size(first.height, first.width)
        self.size = (height, width) if resize is None else resize.target(height, width)
        self.is_smaller = resize is not None and resize.is_smaller(height, width)
        self.guessed_matrix: int | None = None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Image:
        """(H,W,3) RGB."""
        if not has_known_matrix(frame):
            self.guessed_matrix = int(frame.colorspace)
        return to_rgb(frame, self.orientation, self.size, self._reformatter)
