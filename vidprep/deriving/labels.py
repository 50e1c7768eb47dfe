"""The statistics column: a table of windows x views with the 27 numbers of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from shards.dataset import Dataset
from shards.errors import UserError
from shards.rng import rng_for
from shards.spec import resized_size
from shards.table import PLACES, TableGeometry, encode_table
from vidprep.deriving.work import BadSample, Made
from vidprep.statistics import APPEARANCE_NAMES, MOTION_NAMES, Variant, appearance_labels, motion_labels
from vidprep.statistics.regions import check_side, check_variant

Flip = Literal["physical", "literal", "none"]

_NUMBERS = len(MOTION_NAMES) + len(APPEARANCE_NAMES)
_STREAM = 1  # of random numbers: not those of training
_FLIP = 0.5


@dataclass(frozen=True, kw_only=True)
class LabelMaker:
    """How a statistics column is made.

    Attributes:
        geometry: window, resize and crop of every clip.
        stride: frames from one window to the next.
        views: crops and flips drawn for every window.
        variant: as in `vidprep.statistics.motion_labels`.
        flip: half of the views are mirrored. "physical": their horizontal flow changes sign; "literal": it does not,
            as in the reference code; "none": no view is mirrored.
        seed: of the views; with the sample's key it decides them.
        rgb, flow: the columns they are computed from.
    """

    geometry: TableGeometry
    stride: int = 8
    views: int = 8
    variant: Variant = "corrected"
    flip: Flip = "physical"
    seed: int = 0
    rgb: str = "rgb"
    flow: str = "flow"
    packages: ClassVar[tuple[str, ...]] = ("numpy", "numba", "opencv-contrib-python-headless", "simplejpeg")

    def __post_init__(self) -> None:
        check_variant(self.variant)
        check_side(self.geometry.crop, self.geometry.crop)
        if self.geometry.window < 2:
            raise UserError(f"window is {self.geometry.window}; motion needs at least 2 frames")
        if self.flip not in get_args(Flip):
            raise UserError(f"flip is {self.flip!r}; allowed: {', '.join(get_args(Flip))}")
        for name in ("stride", "views"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def kind(self) -> str:
        return "statistics"

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.rgb, self.flow)

    def parameters(self) -> dict[str, Any]:
        return {
            **self.geometry.tree(),
            "stride": self.stride,
            "views": self.views,
            "variant": self.variant,
            "flip": self.flip,
            "seed": self.seed,
            "numbers": _NUMBERS,
        }

    def make(self, dataset: Dataset, i: int, told: Callable[[int], None]) -> Made:
        record, crop = dataset.record(i, self.rgb), self.geometry.crop
        frames = int(record["frames"])
        starts = self.starts(frames)
        if not starts:
            need = self.geometry.window + (1 if self.variant == "reference" else 0)
            raise BadSample("too-short", f"it has {frames} frames; a window needs {need}")
        if not dataset.has(i, self.flow):
            raise BadSample("no-flow", f"it has no flow in column {self.flow}")
        size = resized_size(self.geometry.resize, int(record["height"]), int(record["width"]))
        if crop > min(size):
            raise BadSample("too-small", f"a crop of {crop} does not fit into its frames of {size[0]}x{size[1]}")
        source = _Window(dataset, i, self, size)
        rows = np.empty((len(starts) * self.views, len(PLACES) + _NUMBERS), np.int32)
        row = iter(rows)
        for start in starts:
            rgb, steps = source.read(start)
            for view in range(self.views):
                place = self._view(int(record["key_hash"]), start, view, size)
                next(row)[:] = (start, *place, *self.numbers(rgb, steps, place))
            told(start + self.geometry.window)
        return Made(payload=encode_table(rows))

    def numbers(
        self, rgb: npt.NDArray[np.uint8], steps: npt.NDArray[np.float32], place: tuple[int, int, int]
    ) -> npt.NDArray[np.int64]:
        """(27,) numbers of one view.

        Args:
            rgb: (T,H,W,3) resized frames of the window.
            steps: (T−1,H,W,2) or (T,H,W,2), its flow in steps of the stored planes, resized in the same way. Whole
                and half numbers, so that their sums are exact; the labels do not depend on the unit.
            place: top, left, flip.
        """
        top, left, flip = place
        box = (slice(None), slice(top, top + self.geometry.crop), slice(left, left + self.geometry.crop))
        clip, flow = rgb[box], steps[box]
        if flip:
            clip, flow = clip[:, :, ::-1], flow[:, :, ::-1]
            if self.flip == "physical":
                flow = flow * np.array([-1, 1], np.float32)
        motion = motion_labels(flow, variant=self.variant, frames=self.geometry.window, quantum=1.0)
        return np.concatenate([motion, appearance_labels(clip, variant=self.variant)])

    def starts(self, frames: int) -> range:
        """First frames of the windows of a video."""
        # The reference sums a field that leads out of the window, so its last window ends one frame earlier.
        last = frames - self.geometry.window - (1 if self.variant == "reference" else 0)
        return range(0, last + 1, self.stride)

    def _view(self, key_hash: int, start: int, view: int, size: tuple[int, int]) -> tuple[int, int, int]:
        """Top, left and flip of a view; depends on the sample's key, not on its number."""
        u = rng_for(self.seed, start, key_hash, view, _STREAM).random(3)
        top, left = (int(u[k] * (size[k] - self.geometry.crop + 1)) for k in (0, 1))
        return top, left, int(self.flip != "none" and u[2] < _FLIP)


class _Window:
    """The resized frames and flow of a sample's windows; what two windows share is decoded once."""

    def __init__(self, dataset: Dataset, i: int, maker: LabelMaker, size: tuple[int, int]) -> None:
        self._dataset, self._i, self._maker, self._size = dataset, i, maker, size
        self._codec = dataset.codec(i, column=maker.flow)
        self._rgb: dict[int, npt.NDArray[np.uint8]] = {}
        self._steps: dict[int, npt.NDArray[np.float32]] = {}

    def read(self, start: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """(T,H,W,3) frames and (T−1 or T,H,W,2) flow in steps of the window from `start`."""
        window, maker = self._maker.geometry.window, self._maker
        shown = range(start, start + window)
        fields = range(start, start + window - (0 if maker.variant == "reference" else 1))
        new = [n for n in shown if n not in self._rgb]
        for n, frame in zip(new, self._dataset.frames(self._i, new, column=maker.rgb), strict=True):
            self._rgb[n] = self._resized(frame)
        new = [n for n in fields if n not in self._steps]
        for n, planes in zip(new, self._dataset.flow_planes(self._i, new, column=maker.flow), strict=True):
            # Resized as stored, as the loader does, so that training on the flow column sees the same.
            pair = np.stack([self._resized(plane) for plane in planes], axis=-1)
            self._steps[n] = pair.astype(np.float32) - np.float32(self._codec.zero)
        for kept in (self._rgb, self._steps):
            for n in [n for n in kept if n < start]:
                del kept[n]
        return np.stack([self._rgb[n] for n in shown]), np.stack([self._steps[n] for n in fields])

    def _resized(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if image.shape[:2] == self._size:
            return image
        return np.asarray(cv2.resize(image, self._size[::-1], interpolation=cv2.INTER_LINEAR))
