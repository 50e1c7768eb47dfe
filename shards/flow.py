"""The flow column's codecs: two grey planes a field (u, then v), each one image.

| codec | plane | value f in pixels | largest error inside the bound |
|---|---|---|---|
| byte | 8 bit JPEG | 128 + round(127·f/bound) | bound/254, and the loss of JPEG |
| release | 8 bit JPEG | round((f + 20)·255/40), the public UCF101 flow release | 20/255, and the loss of JPEG |
| lossless | 16 bit PNG | 32768 + round(64·f), KITTI's step | 1/128 |

`byte` stores no motion as exactly 128; the release's zero lies between 127 and 128. `lossless` is lossless for the
quantised numbers; PNG because every reader knows it, it carries its own checksum, and it needs no further package.

Everything derived from stored flow counts in steps, plane − zero: whole or half numbers, whose sums are exact in
float32 on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np

from shards import jpeg
from shards.errors import DataError, UserError

QUALITY = 95


def default_bound(height: int, width: int) -> float:
    """20 px at a short side of 256, in proportion for other sizes."""
    return 20.0 * min(height, width) / 256


class Codec(Protocol):
    """How flow becomes planes and planes become bytes."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """Key of `shards.columns.COLUMNS`."""
    zero: ClassVar[float]
    """The plane's number for no motion."""

    @property
    def step(self) -> float:
        """Pixels from one number of a plane to the next."""

    @property
    def bound(self) -> float:
        """Longest component in pixels that is not clipped."""

    @property
    def error(self) -> float:
        """Largest difference of a component inside the bound after `quantise` and `restore`."""

    def quantise(self, flow: np.ndarray) -> tuple[np.ndarray, float]:
        """(…,H,W,2) float32 pixels → (…,2,H,W) planes and the share of components that were clipped."""

    def restore(self, planes: np.ndarray) -> np.ndarray:
        """(…,2,H,W) planes → (…,H,W,2) float32 pixels."""

    def encode(self, plane: np.ndarray) -> bytes:
        """One (H,W) plane as an image."""

    def decode(self, data: bytes | memoryview) -> np.ndarray:
        """The (H,W) plane of an image."""


def _to_planes(flow: np.ndarray, zero: float, scale: float, low: int, high: int) -> tuple[np.ndarray, float]:
    if flow.ndim < 3 or flow.shape[-1] != 2 or not np.issubdtype(flow.dtype, np.floating):
        raise UserError(f"flow is {flow.shape} {flow.dtype}: must be (…,H,W,2) floats")
    if not np.isfinite(flow).all():
        raise UserError("flow holds NaN or infinite values: it cannot be stored")
    # float64, so that a rounding threshold does not depend on the order of two float32 operations
    numbers = np.rint(zero + flow.astype(np.float64) * scale)
    clipped = float(np.mean((numbers < low) | (numbers > high))) if numbers.size else 0.0
    numbers = np.moveaxis(np.clip(numbers, low, high), -1, -3)
    return np.ascontiguousarray(numbers, dtype=np.uint8 if high < 256 else np.uint16), clipped


def _to_flow(planes: np.ndarray, zero: float, scale: float) -> np.ndarray:
    flow = (planes.astype(np.float64) - zero) / scale
    return np.ascontiguousarray(np.moveaxis(flow, -3, -1), dtype=np.float32)


class _Jpeg:
    kind: ClassVar[str] = "flow"

    def encode(self, plane: np.ndarray) -> bytes:
        return jpeg.encode(plane, quality=QUALITY)

    def decode(self, data: bytes | memoryview) -> np.ndarray:
        return jpeg.decode(data)


@dataclass(frozen=True)
class Byte(_Jpeg):
    """byte = 128 + round(127·f/bound), clipped to 1..255, so that left and right motion have the same range."""

    bound: float
    name: ClassVar[str] = "byte"
    zero: ClassVar[float] = 128.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise UserError(f"flow bound {self.bound!r}: must be a number of pixels above 0")

    @property
    def step(self) -> float:
        return self.bound / 127

    @property
    def error(self) -> float:
        return self.bound / 254

    def quantise(self, flow: np.ndarray) -> tuple[np.ndarray, float]:
        return _to_planes(flow, self.zero, 127 / self.bound, 1, 255)

    def restore(self, planes: np.ndarray) -> np.ndarray:
        return _to_flow(planes, self.zero, 127 / self.bound)


@dataclass(frozen=True)
class Release(_Jpeg):
    """The public releases' convention (reference/statistics.md section 2); for import and export."""

    name: ClassVar[str] = "release"
    zero: ClassVar[float] = 127.5
    bound: float = 20.0

    def __post_init__(self) -> None:
        if self.bound != 20:
            raise UserError(f"codec release has a fixed bound of 20 px, not {self.bound:g}; use codec byte")

    @property
    def step(self) -> float:
        return 40 / 255

    @property
    def error(self) -> float:
        return 20 / 255

    def quantise(self, flow: np.ndarray) -> tuple[np.ndarray, float]:
        return _to_planes(flow, self.zero, 255 / 40, 0, 255)

    def restore(self, planes: np.ndarray) -> np.ndarray:
        return _to_flow(planes, self.zero, 255 / 40)


@dataclass(frozen=True)
class Lossless:
    """16 bit in steps of 1/64 px, as KITTI's flow files; ±511 px."""

    name: ClassVar[str] = "lossless"
    kind: ClassVar[str] = "flow-lossless"
    zero: ClassVar[float] = 32768.0
    bound: float = 511.0

    def __post_init__(self) -> None:
        if self.bound != 511:
            raise UserError(f"codec lossless has a fixed bound of 511 px, not {self.bound:g}; use codec byte")

    @property
    def step(self) -> float:
        return 1 / 64

    @property
    def error(self) -> float:
        return 1 / 128

    def quantise(self, flow: np.ndarray) -> tuple[np.ndarray, float]:
        return _to_planes(flow, self.zero, 64, 32768 - 511 * 64, 32768 + 511 * 64)

    def restore(self, planes: np.ndarray) -> np.ndarray:
        return _to_flow(planes, self.zero, 64)

    def encode(self, plane: np.ndarray) -> bytes:
        return cv2.imencode(".png", plane, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()

    def decode(self, data: bytes | memoryview) -> np.ndarray:
        plane = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if plane is None or plane.dtype != np.uint16 or plane.ndim != 2:
            raise DataError("not a 16 bit grey PNG: this is no plane of codec lossless; run vidprep check")
        return plane


CODECS: dict[str, type[Byte] | type[Release] | type[Lossless]] = {
    "byte": Byte,
    "release": Release,
    "lossless": Lossless,
}


def make_codec(name: str, height: int, width: int, *, bound: float | None = None) -> Codec:
    """The codec `name` for frames of height x width; `bound` in pixels, for codec byte `default_bound`."""
    if name not in CODECS:
        raise UserError(f"unknown flow codec {name!r}: known are {', '.join(CODECS)}")
    if bound is None and name == Byte.name:
        bound = default_bound(height, width)
    kind: Callable[..., Codec] = CODECS[name]
    return kind() if bound is None else kind(bound=bound)


def codec_of(parameters: Mapping[str, Any], height: int, width: int) -> Codec:
    """The codec of a sample of height x width in a flow column with these parameters.

    Their `bound` is that of a frame with short side 256 where the codec is byte; see `default_bound`.
    """
    name, bound = str(parameters["codec"]), parameters.get("bound")
    if name == Byte.name and bound is not None:
        return Byte(float(bound) * min(height, width) / 256)
    return make_codec(name, height, width)


def resize_flow(flow: np.ndarray, size: tuple[int, int], *, literal: bool = False) -> np.ndarray:
    """Flow fields at another size, bilinear, vectors scaled with the frame.

    flow: (T,H,W,2) float32; size: (height, width). Returns (T,height,width,2) float32. literal: leave vector lengths as
    they are, as the reference code does (reference/statistics.md section 2).
    """
    if flow.ndim != 4 or flow.shape[-1] != 2:
        raise UserError(f"flow has shape {flow.shape}: must be (T,H,W,2)")
    height, width = size
    if min(height, width) < 1:
        raise UserError(f"size {height}x{width}: both sides must be at least 1")
    scale = np.array([1, 1] if literal else [width / flow.shape[2], height / flow.shape[1]], np.float32)
    resized = np.empty((len(flow), height, width, 2), np.float32)
    for field, target in zip(flow, resized, strict=True):
        target[:] = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) * scale
    return resized
