"""What a task wants to see of a video (ClipSpec), and exactly what one item shows (ClipPlan).

Letters: V clips per video, T frames per clip. Sizes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from shards.errors import UserError

WhenShort = Literal["window", "restart", "loop", "clamp"]
Sampling = Literal["random", "uniform"]


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
    """

    frames: npt.NDArray[np.int64]
    stride: npt.NDArray[np.int64]
    size: tuple[int, int]
    crop: npt.NDArray[np.int64]
    flip: npt.NDArray[np.bool_]
    jitter: JitterPlan | None


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What a task wants to see of a video.

    Args:
        frames: T, frames per clip.
        strides: the strides (paces) a clip's stride is drawn from, uniformly.
        clips: V, clips per video; each draws its own stride, start, crop, flip and colours.
        sampling: "random" starts, or "uniform": V starts spread evenly over the video, both ends included
            (reference/evaluation.md section 2, inclusive), the first stride, no randomness.
        when_short: what happens when a clip does not fit.
            "window": W = min(T, (F−1)//max(strides)+1), frame k shows s + stride·(k mod W) with s uniform over all
            starts that fit. W does not depend on the drawn stride, so the places of the cuts tell nothing about it.
            "restart": the literal rule of the pace reference (`datasets/ucf101.py`): any start, and on running over
            the end go on from the first frame. The number of cuts tells the stride.
            "loop": (s + stride·k) mod F. "clamp": the last frame is repeated.
        fps: resample by timestamps to this rate first; None takes the stored frames.
        resize: exact (height, width), or the short side, or None for the stored size.
        crop: side of a square or (height, width); None keeps the whole frame, which needs equal sizes in a batch.
        crop_at: "random" or "center".
        flip: probability of mirroring a clip.
        jitter: colour jitter, or None.
    """

    frames: int
    strides: tuple[int, ...] = (1,)
    clips: int = 1
    sampling: Sampling = "random"
    when_short: WhenShort = "window"
    fps: float | None = None
    resize: tuple[int, int] | int | None = None
    crop: int | tuple[int, int] | None = None
    crop_at: Literal["random", "center"] = "random"
    flip: float = 0.5
    jitter: Jitter | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.clips < 1:
            raise UserError(f"a spec needs frames >= 1 and clips >= 1; got {self.frames} and {self.clips}")
        if not self.strides or min(self.strides) < 1:
            raise UserError(f"strides are {self.strides}; every stride must be at least 1")
        if self.when_short not in get_args(WhenShort):
            raise UserError(f"when_short is {self.when_short!r}; allowed: {', '.join(get_args(WhenShort))}")
        if self.sampling not in get_args(Sampling):
            raise UserError(f"sampling is {self.sampling!r}; allowed: {', '.join(get_args(Sampling))}")
        if self.fps is not None and self.fps <= 0:
            raise UserError(f"fps is {self.fps}; it must be above 0, or null for the stored frames")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is {self.flip}; allowed are 0 to 1")

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """(height, width) of the crop, or None."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    def plan(self, video: VideoFacts, rng: np.random.Generator) -> ClipPlan:
        """Draw one item. The same spec, video and generator state give the same plan."""
        if video.frames < 1:
            raise UserError("a video without frames cannot be planned; run vidprep check on the data set")
        index = self._resampled(video)
        shown, stride = self._temporal(len(index), rng)
        size = self._resized(video)
        crop, flip = self._spatial(size, rng)
        return ClipPlan(
            frames=index[shown], stride=stride, size=size, crop=crop, flip=flip, jitter=self._colours(rng)
        )

    def _resampled(self, video: VideoFacts) -> npt.NDArray[np.int64]:
        """Stored frame shown at each tick of `fps`: the last one whose time has come (floor, as RSPNet's sampler)."""
        if self.fps is None:
            return np.arange(video.frames, dtype=np.int64)
        times = video.times_us
        gap = np.median(np.diff(times)) if video.frames > 1 else 1e6 / self.fps
        ticks = np.arange(max(1, int((times[-1] + gap) * self.fps / 1e6 + 1e-6)))
        # Half a microsecond absorbs the rounding of stored times, so that a tick on a frame shows that frame.
        at = ticks * (1e6 / self.fps) + 0.5
        return np.clip(np.searchsorted(times, at, side="right") - 1, 0, video.frames - 1).astype(np.int64)

    def _temporal(
        self, total: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Frame numbers (V,T) in 0..total−1 and stride indices (V,)."""
        if self.sampling == "uniform":
            stride = self.strides[0]
            last = max(0, total - 1 - (self.frames - 1) * stride)
            starts = np.round(np.linspace(0, last, self.clips)) if self.clips > 1 else np.array([last // 2])
            frames = starts.astype(np.int64)[:, None] + stride * np.arange(self.frames)[None]
            frames = frames % total if self.when_short in ("loop", "window") else np.minimum(frames, total - 1)
            return frames, np.zeros(self.clips, np.int64)
        which = rng.integers(len(self.strides), size=self.clips)
        return np.stack([self._one_clip(total, self.strides[w], rng) for w in which]), which

    def _one_clip(self, total: int, stride: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        k = np.arange(self.frames, dtype=np.int64)
        if self.when_short == "window":
            window = min(self.frames, (total - 1) // max(self.strides) + 1)
            start = rng.integers(total - (window - 1) * stride)
            return np.asarray(start + stride * (k % window))
        if self.when_short == "restart":
            start = int(rng.integers(total))
            first = (total - 1 - start) // stride + 1  # frames shown before the first cut
            lap = (total - 1) // stride + 1
            return np.where(k < first, start + stride * k, stride * ((k - first) % lap))
        last = max(0, total - 1 - (self.frames - 1) * stride)
        frames = rng.integers(last + 1) + stride * k
        return np.asarray(frames % total if self.when_short == "loop" else np.minimum(frames, total - 1))

    def _resized(self, video: VideoFacts) -> tuple[int, int]:
        if self.resize is None:
            return video.height, video.width
        if not isinstance(self.resize, int):
            return self.resize
        scale = self.resize / min(video.height, video.width)
        return max(self.resize, round(video.height * scale)), max(self.resize, round(video.width * scale))

    def _spatial(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        height, width = size
        h, w = self.crop_size or size
        if h > height or w > width:
            raise UserError(
                f"a crop of {h}x{w} does not fit into frames of {height}x{width} (height x width); "
                f"set data.resize to at least {h}x{w}, or pack again with vidprep pack --short-side {max(h, w)}"
            )
        if self.crop_at == "center" or self.sampling == "uniform":
            top = np.full(self.clips, (height - h) // 2)
            left = np.full(self.clips, (width - w) // 2)
        else:
            top = rng.integers(height - h + 1, size=self.clips)
            left = rng.integers(width - w + 1, size=self.clips)
        crop = np.stack([top, left, np.full(self.clips, h), np.full(self.clips, w)], axis=1).astype(np.int64)
        if self.sampling == "uniform":
            return crop, np.zeros(self.clips, np.bool_)
        return crop, rng.random(self.clips) < self.flip

    def _colours(self, rng: np.random.Generator) -> JitterPlan | None:
        if self.jitter is None or self.sampling == "uniform":
            return None
        j, shape = self.jitter, (self.clips, self.frames if self.jitter.per_frame else 1)
        strengths = (j.brightness, j.contrast, j.saturation)
        factors = [rng.uniform(max(0.0, 1 - s), 1 + s, shape) for s in strengths]
        factors.append(rng.uniform(-j.hue, j.hue, shape))
        order = rng.permuted(np.broadcast_to(np.arange(4, dtype=np.uint8), (*shape, 4)), axis=-1)
        full = (self.clips, self.frames)
        return JitterPlan(
            apply=np.broadcast_to(rng.random(shape) < j.probability, full),
            factors=np.broadcast_to(np.stack(factors, axis=-1).astype(np.float32), (*full, 4)),
            order=np.broadcast_to(order, (*full, 4)),
        )
