"""Decoded picture → upright RGB array of the stored size.

Scaling and colour conversion are one step of swscale: area averaging of the YUV planes, exact rounding, full chroma.
Against converting at full size and cv2.INTER_AREA it is measured (one core, ms a frame, and PSNR in dB against 16-bit
RGB with area averaging in float64): 1920x1080 → 228x128 2.3 and 50.8 against 23.3 and 51.4; 1280x720 2.5 and 51.8
against 13.5 and 49.8; 480x360 → 171x128 1.3 and 47.1 against 3.9 and 49.8; 340x256 → 170x128 0.4 and 50.9 against 0.4
and 45.3. Default swscale flags (bilinear) alias: 33 to 44 dB.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter

from shards.errors import UserError

Image = npt.NDArray[np.uint8]

# swscale's own numbers: PyAV names all of them from version 18 on only, which wants Python 3.11.
_AREA, _ACCURATE_RND = 0x20, 0x40000
_BITEXACT = 0x80000  # asks for the same bytes from every instruction set
_FULL_CHROMA = 0x2000 | 0x4000  # horizontal interpolation, and input
_FLAGS = _AREA | _ACCURATE_RND | _BITEXACT | _FULL_CHROMA
# AVColorSpace values swscale converts: RGB, BT.709, unspecified (taken as BT.601), FCC, BT.470BG, SMPTE 170M,
# SMPTE 240M, BT.2020.
_KNOWN_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})


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


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How a coded picture becomes upright: swap the axes, then mirror left-right and top-bottom."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees clockwise; a mirrored picture is mirrored left-right after that."""
        if self.swap:
            return 90 if self.mirror_x != self.mirrored else 270
        return 180 if self.mirror_y else 0

    @property
    def mirrored(self) -> bool:
        return (self.mirror_x != self.mirror_y) != self.swap

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) when upright; its own inverse."""
        return (width, height) if self.swap else (height, width)

    def apply(self, image: Image) -> Image:
        if self.swap:
            image = image.transpose(1, 0, 2)
        if self.mirror_x:
            image = image[:, ::-1]
        if self.mirror_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


def orientation(frame: VideoFrame) -> Orientation:
    """From the display matrix that phones write (ISO/IEC 14496-12, 8.5.2): x' = a·x + c·y, y' = b·x + d·y, y downwards.

    Angles between quarter turns go to the nearest.
    """
    try:
        side_data: Any = frame.side_data  # the stubs know some kinds only
    except ValueError:
        # PyAV refuses frames with a kind of side data it does not know; it still gives the angle, counterclockwise.
        turns = round(-frame.rotation / 90) % 4
        return Orientation(swap=turns % 2 == 1, mirror_x=turns in (1, 2), mirror_y=turns in (2, 3))
    matrix = next((bytes(data) for data in side_data if data.type is Type.DISPLAYMATRIX), None)
    if matrix is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(swap=True, mirror_x=c < 0, mirror_y=b < 0)
    return Orientation(mirror_x=a < 0, mirror_y=d < 0)


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
        matrix: int | None = None
        if frame.colorspace not in _KNOWN_MATRICES:
            self.guessed_matrix, matrix = int(frame.colorspace), Colorspace.ITU601.value
        height, width = self.orientation.size(*self.size)
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            interpolation=_FLAGS,
            threads=1,
        )
        return self.orientation.apply(np.asarray(rgb.to_ndarray(), np.uint8))
