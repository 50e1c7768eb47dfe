"""What a task wants to see of a video (ClipSpec), and exactly what one item shows (ClipPlan).

Letters: V clips per video, T frames per clip. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from shards.errors import UserError
from shards.table import ClipTable

WhenShort = Literal["window", "restart", "loop", "clamp"]
Sampling = Literal["random", "uniform"]
CropAt = Literal["random", "center"]

_ORDERS = np.array(list(permutations(range(4))), dtype=np.uint8)  # (24,4): every order of the four colour changes


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Strengths of colour jitter, with the meaning of torchvision's ColorJitter.

    A frame (or clip) is changed with `probability`; its brightness, contrast and saturation factors are uniform in
    [max(0, 1 − strength), 1 + strength], its hue shift uniform in [−hue, hue], and the four are applied in an
    order drawn uniformly. `per_frame` draws anew for every frame (pace, reference `datasets/ucf101.py`).
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0
    per_frame: bool = False

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise UserError(f"jitter {name} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"jitter hue is {self.hue}; allowed are 0 to 0.5")
        if not 0 <= self.probability <= 1:
            raise UserError(f"jitter probability is {self.probability}; allowed are 0 to 1")


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a plan depends on. `times_us` (frames,) int64: microseconds since the first frame."""

    frames: int
    height: int
    width: int
    times_us: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class JitterPlan:
    """Colour changes of one item: `apply` (V,T) bool, `factors` (V,T,4) float32 in the order brightness, contrast,
    saturation, hue, and `order` (V,T,4) uint8: which of the four comes first, second, …"""

    apply: npt.NDArray[np.bool_]
    factors: npt.NDArray[np.float32]
    order: npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """Exactly what one item shows.

    Attributes:
        frames: (V,T) int64, stored frame numbers.
        stride: (V,) int64, index of each clip's stride in the spec's `strides`.
        size: (height, width) the frames are resized to before cropping.
        crop: (V,4) int64: top, left, height, width in the resized frame.
        flip: (V,) bool, mirrored left to right.
        jitter: colour changes, or None.
        targets: (V,K) int32, with a clip table: the numbers of the rows that were drawn.
    """

    frames: npt.NDArray[np.int64]
    stride: npt.NDArray[np.int64]
    size: tuple[int, int]
    crop: npt.NDArray[np.int64]
    flip: npt.NDArray[np.bool_]
    jitter: JitterPlan | None
    targets: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What a task wants to see of a video.

    Args:
        frames: T, frames per clip.
        strides: the strides (paces) a clip's stride is drawn from, uniformly.
        clips: V, clips per video; each draws its own stride, start, crop, flip and colours.
        sampling: "random" starts, or "uniform": V starts spread evenly over the video, both ends included
            (reference/evaluation.md section 2, inclusive), the first stride, centre crop, no flip, no jitter.
        when_short: what happens when a clip does not fit.
            "window": W = min(T, (F−1)//max(strides)+1), frame k shows s + stride·(k mod W) with s uniform over all
            starts that fit. W does not depend on the drawn stride, so the places of the cuts tell nothing about it.
            "restart": the literal rule of the pace reference (`datasets/ucf101.py`): any start, and on running over
            the end go on from the first frame. The number of cuts tells the stride.
            "loop": (s + stride·k) mod F. "clamp": the last frame is repeated.
            With sampling="uniform", where one stride is in use, "window" and "restart" both go on from the clip's
            first frame.
        fps: resample by timestamps to this rate first; None takes the stored frames.
        resize: exact (height, width), or the short side, or None for the stored size.
        crop: side of a square or (height, width); None keeps the whole frame, which needs equal sizes in a batch.
        crop_at: "random" or "center".
        flip: probability of mirroring a clip.
        jitter: colour jitter, or None.
        column: the column that clips are taken from: an RGB or a flow column.
        flow: a flow column that comes beside the clips, or None.
        table: a table column (`shards.table`), or None. A clip is then what one of the sample's rows says, each with
            the same chance: start, crop and flip, and its numbers are the clip's targets. Needs stride 1, no
            resampling, and the table's own window, resize and crop.
    """

    frames: int
    strides: tuple[int, ...] = (1,)
    clips: int = 1
    sampling: Sampling = "random"
    when_short: WhenShort = "window"
    fps: float | None = None
    resize: tuple[int, int] | int | None = None
    crop: int | tuple[int, int] | None = None
    crop_at: CropAt = "random"
    flip: float = 0.5
    jitter: Jitter | None = None
    column: str = "rgb"
    flow: str | None = None
    table: str | None = None

    def __post_init__(self) -> None:
        if self.table is not None:
            self._check_table()
        if self.frames < 1 or self.clips < 1:
            raise UserError(f"a spec needs frames >= 1 and clips >= 1; got {self.frames} and {self.clips}")
        if not self.strides or min(self.strides) < 1:
            raise UserError(f"strides are {self.strides}; every stride must be at least 1")
        if self.when_short not in get_args(WhenShort):
            raise UserError(f"when_short is {self.when_short!r}; allowed: {', '.join(get_args(WhenShort))}")
        if self.sampling not in get_args(Sampling):
            raise UserError(f"sampling is {self.sampling!r}; allowed: {', '.join(get_args(Sampling))}")
        if self.crop_at not in get_args(CropAt):
            raise UserError(f"crop_at is {self.crop_at!r}; allowed: {', '.join(get_args(CropAt))}")
        if self.fps is not None and self.fps <= 0:
            raise UserError(f"fps is {self.fps}; it must be above 0, or null for the stored frames")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is {self.flip}; allowed are 0 to 1")
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and min((size,) if isinstance(size, int) else size) < 1:
                raise UserError(f"{name} is {size}; sizes must be at least 1 (height x width)")

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """(height, width) of the crop, or None."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, the clips' first."""
        return tuple(dict.fromkeys(name for name in (self.column, self.flow, self.table) if name is not None))

    def _check_table(self) -> None:
        if self.strides != (1,) or self.fps is not None or self.sampling != "random":
            raise UserError(
                f"clips of table {self.table} are windows of stored frames: strides {self.strides}, fps {self.fps} and "
                f"sampling {self.sampling!r} do not go with it; it needs strides (1,), fps null, sampling random"
            )
        if self.crop_size is None or self.crop_size[0] != self.crop_size[1]:
            raise UserError(f"clips of table {self.table} are square crops; crop is {self.crop}: set data.crop=112")

    def shown_size(self, video: VideoFacts) -> tuple[int, int]:
        """(height, width) of this video's clips: the crop, or the whole resized frame."""
        return self.crop_size or self._resized(video)

    def plan(self, video: VideoFacts, rng: np.random.Generator, table: ClipTable | None = None) -> ClipPlan:
        """Draw one item. The same spec, video, generator state and table give the same plan.

        Args:
            table: the sample's, where the spec names one.
        """
        if (table is None) != (self.table is None):
            raise ValueError(f"the spec names table {self.table!r}; table is {'not ' if table is None else ''}given")
        if table is not None:
            return self._tabled(video, rng, table)
        if video.frames < 1:
            raise UserError("a video without frames cannot be planned; run vidprep check on the data set")
        index = self._resampled(video)
        total = video.frames if index is None else len(index)
        size = self._resized(video)
        room = self._room(size)
        if self.sampling == "uniform":
            shown, (h, w) = self._spread(total), self.crop_size or size
            which, flip = np.zeros(self.clips, np.int64), np.zeros(self.clips, np.bool_)
            crop = np.array([(room[0] // 2, room[1] // 2, h, w)] * self.clips, dtype=np.int64)
            jitter = None
        else:
            # Doubles are the only draws: five a clip, then six a jittered frame; cheap, and the same in every NumPy.
            clips = [self._draw(total, size, room, u) for u in rng.random((self.clips, 5)).tolist()]
            shown = np.array([frames for frames, _, _, _ in clips], dtype=np.int64)
            which = np.array([stride for _, stride, _, _ in clips], dtype=np.int64)
            crop = np.array([box for _, _, box, _ in clips], dtype=np.int64)
            flip = np.array([mirrored for _, _, _, mirrored in clips], dtype=np.bool_)
            jitter = None if self.jitter is None else self._colours(self.jitter, rng)
        frames = shown if index is None else index[shown]
        return ClipPlan(frames=frames, stride=which, size=size, crop=crop, flip=flip, jitter=jitter)

    def _tabled(self, video: VideoFacts, rng: np.random.Generator, table: ClipTable) -> ClipPlan:
        # As many draws a clip as without table, so that jitter does not depend on there being one.
        u = rng.random((self.clips, 5))[:, 1]
        rows = (u * len(table)).astype(np.intp)
        start, top, left, flip = table.places[rows].astype(np.int64).T
        frames = start[:, None] + np.arange(self.frames)
        size, (h, w) = self._resized(video), self.crop_size or (0, 0)
        self._room(size)
        if int(frames.max()) > video.frames:
            raise UserError(f"a row of table {self.table} ends at frame {int(frames.max())} of {video.frames}")
        return ClipPlan(
            # A flow column has one field less than there are frames: a row that ends with them shows the last twice.
            frames=np.minimum(frames, video.frames - 1),
            stride=np.zeros(self.clips, np.int64),
            size=size,
            crop=np.stack([top, left, np.full_like(top, h), np.full_like(top, w)], axis=1),
            flip=flip.astype(np.bool_),
            jitter=None if self.jitter is None else self._colours(self.jitter, rng),
            targets=table.values[rows],
        )

    def _resampled(self, video: VideoFacts) -> npt.NDArray[np.int64] | None:
        """Stored frame shown at each tick of `fps`: the last one whose time has come (floor, as RSPNet's sampler)."""
        if self.fps is None:
            return None
        times = video.times_us
        gap = np.median(np.diff(times)) if video.frames > 1 else 1e6 / self.fps
        ticks = np.arange(max(1, int((times[-1] + gap) * self.fps / 1e6 + 1e-6)))
        # Half a microsecond absorbs the rounding of stored times, so that a tick on a frame shows that frame.
        at = ticks * (1e6 / self.fps) + 0.5
        return np.clip(np.searchsorted(times, at, side="right") - 1, 0, video.frames - 1).astype(np.int64)

    def _resized(self, video: VideoFacts) -> tuple[int, int]:
        return resized_size(self.resize, video.height, video.width)

    def _room(self, size: tuple[int, int]) -> tuple[int, int]:
        """How far the crop can move down and to the right."""
        height, width = size
        h, w = self.crop_size or size
        if h > height or w > width:
            raise UserError(
                f"a crop of {h}x{w} does not fit into frames of {height}x{width} (height x width); "
                f"set data.resize to at least {h}x{w}, or pack again with vidprep pack --short-side {max(h, w)}"
            )
        return height - h, width - w

    def _spread(self, total: int) -> npt.NDArray[np.int64]:
        """Frame numbers (V,T) in 0..total−1 of evenly spread clips."""
        stride, k = self.strides[0], np.arange(self.frames, dtype=np.int64)
        last = max(0, total - 1 - (self.frames - 1) * stride)
        starts = np.round(np.linspace(0, last, self.clips)) if self.clips > 1 else np.array([last // 2])
        start = starts.astype(np.int64)[:, None]
        if self.when_short in ("window", "restart"):
            return np.asarray(start + stride * (k % ((total - 1) // stride + 1)))
        frames = start + stride * k
        return np.asarray(frames % total if self.when_short == "loop" else np.minimum(frames, total - 1))

    def _draw(
        self, total: int, size: tuple[int, int], room: tuple[int, int], u: Sequence[float]
    ) -> tuple[list[int], int, tuple[int, int, int, int], bool]:
        """Frame numbers, stride index, crop box and flip of one clip, from five uniform numbers in [0, 1)."""
        which = int(u[0] * len(self.strides))
        frames = self._one_clip(total, self.strides[which], u[1])
        h, w = self.crop_size or size
        if self.crop_at == "center":
            top, left = room[0] // 2, room[1] // 2
        else:
            top, left = int(u[2] * (room[0] + 1)), int(u[3] * (room[1] + 1))
        return frames, which, (top, left, h, w), u[4] < self.flip

    def _one_clip(self, total: int, stride: int, u: float) -> list[int]:
        # Lists: for the usual 8 to 64 frames they are faster than arrays.
        length = self.frames
        if self.when_short == "window":
            window = min(length, (total - 1) // max(self.strides) + 1)
            start = int(u * (total - (window - 1) * stride))
            lap = list(range(start, start + window * stride, stride))
            return (lap * (length // window + 1))[:length]
        if self.when_short == "restart":
            lap = list(range(0, total, stride))
            frames = list(range(int(u * total), total, stride))
            return (frames + lap * (length // len(lap) + 1))[:length]
        start = int(u * (max(0, total - 1 - (length - 1) * stride) + 1))
        frames = list(range(start, start + length * stride, stride))
        if self.when_short == "loop":
            return [f % total for f in frames]
        return [min(f, total - 1) for f in frames]

    def _colours(self, jitter: Jitter, rng: np.random.Generator) -> JitterPlan:
        full = (self.clips, self.frames)
        u = rng.random((self.clips, self.frames if jitter.per_frame else 1, 6))
        low, span = _ranges(jitter)
        factors = (low + span * u[..., :4]).astype(np.float32)
        apply, order = u[..., 4] < jitter.probability, _ORDERS[(u[..., 5] * len(_ORDERS)).astype(np.intp)]
        if not jitter.per_frame:
            apply = np.broadcast_to(apply, full)
            factors, order = np.broadcast_to(factors, (*full, 4)), np.broadcast_to(order, (*full, 4))
        return JitterPlan(apply=apply, factors=factors, order=order)


def resized_size(resize: tuple[int, int] | int | None, height: int, width: int) -> tuple[int, int]:
    """(height, width) of a frame of height x width after `resize`: exact, to that short side, or None as it is."""
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return resize
    scale = resize / min(height, width)
    return max(resize, round(height * scale)), max(resize, round(width * scale))


@lru_cache(maxsize=16)
def _ranges(jitter: Jitter) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest value and width of the range of the four factors."""
    strengths = np.array([jitter.brightness, jitter.contrast, jitter.saturation])
    low = np.append(np.maximum(0, 1 - strengths), -jitter.hue)
    return low, np.append(1 + strengths, jitter.hue) - low
