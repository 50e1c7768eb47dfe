"""What a task wants to see of a video (ClipSpec), and exactly what one item shows (ClipPlan).

Letters: V clips per video, T frames per clip. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from shards.colours import Jitter, JitterPlan, draw_colours
from shards.cuts import area_cut, largest_cut
from shards.errors import UserError
from shards.order import permute
from shards.rates import at_rate, check_rates
from shards.table import ClipTable

__all__ = ["ClipPlan", "ClipSpec", "Jitter", "JitterPlan", "VideoFacts", "dealt_rows", "resized_size"]

WhenShort = Literal["window", "restart", "loop", "clamp"]
Sampling = Literal["random", "uniform"]
CropAt = Literal["random", "center"]

_DEAL = (0, 0, 0, 1)  # a stream of permutations apart from those of orders


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a plan depends on. `times_us` (frames,) int64: microseconds since the first frame."""

    frames: int
    height: int
    width: int
    times_us: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """Exactly what one item shows.

    Attributes:
        frames: (V,T) int64, stored frame numbers.
        stride: (V,) int64, index of each clip's stride in the spec's `strides`.
        size: (height, width) the frames are resized to before cropping.
        crop: (V,4) int64: top, left, height, width in the resized frame. Where the spec has an `area`, the cut is
            resized to the spec's crop.
        flip: (V,) bool, mirrored left to right.
        jitter: colour changes, or None.
        targets: (V,K) int32, with a clip table: the numbers of the rows that were drawn.
        draws: (V,N) float64 uniform in [0, 1), where the spec asks for numbers of the task's own.
    """

    frames: npt.NDArray[np.int64]
    stride: npt.NDArray[np.int64]
    size: tuple[int, int]
    crop: npt.NDArray[np.int64]
    flip: npt.NDArray[np.bool_]
    jitter: JitterPlan | None
    targets: npt.NDArray[np.int32] | None = None
    draws: npt.NDArray[np.float64] | None = None


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
        cover: a clip's T frames are spread over the whole video instead: frame k shows floor(F/T · (k + o)), o uniform
            in [0, 1), and with sampling="uniform" 0.5 for one clip, v/V for clip v of several (RSPNet on
            Something-Something, reference/rspnet.md section 3.1). Strides and `when_short` have no meaning then.
        stride_rows: rows of V places in `strides`, one of which is drawn for the item, uniformly, in place of a stride
            for each clip; ((0, 0, 1), (1, 1, 0)) lets the third clip have another stride than the first two.
        windows: (V,) numbers. Clips of one number show the same window of the video: they have start, crop, flip and
            colours in common and differ by their stride at most. All starts then leave room for the largest stride,
            so that a place in the video tells nothing about the stride. None: each clip has its own.
        deal: rows of `stride_rows` are dealt out evenly over each batch, in an order that the seed and the batch
            select (`dealt_rows`), in place of a draw for each item.
        fps: resample by timestamps to this rate first; None takes the stored frames.
        resize: exact (height, width), or the short side, or None for the stored size.
        resize_range: (least, most), in place of `resize`: the short side is drawn for each item, any whole number with
            the same chance. Centre crops and sampling="uniform" take the least.
        crop: side of a square or (height, width); None keeps the whole frame, which needs equal sizes in a batch.
        crop_at: "random" or "center".
        area: (least, most) share of the resized frame that a random cut has; the cut is then resized to `crop`
            (torchvision's RandomResizedCrop: ten tries, then the largest cut at the centre). Centre crops and
            sampling="uniform" show the largest cut of the crop's own proportions at the centre.
        aspect: (least, most) width / height of such a cut, log-uniform.
        flip: probability of mirroring a clip.
        jitter: colour jitter, or None.
        column: the column that clips are taken from: an RGB or a flow column.
        flow: a flow column that comes beside the clips, or None.
        table: a table column (`shards.table`), or None. A clip is then what one of the sample's rows says, each with
            the same chance: start, crop and flip, and its numbers are the clip's targets. Needs stride 1, no
            resampling, and the table's own window, resize and crop.
        rates: (lowest, highest) of a real-valued rate in place of `strides`. With F frames the rate r is uniform in
            [lowest, min(highest, F/T)], the start s uniform in 0..floor(F − T·r), and frame k shows s + r·k, rounded
            (half to even). A video of less than T·lowest frames is shown at the lowest rate, and what lies beyond its
            end follows `when_short`; "window" and "restart" then both go on from the clip's first frame.
        draws: N, further numbers in [0, 1) for each clip, of which the task makes choices of its own.
    """

    frames: int
    strides: tuple[int, ...] = (1,)
    clips: int = 1
    sampling: Sampling = "random"
    when_short: WhenShort = "window"
    cover: bool = False
    stride_rows: tuple[tuple[int, ...], ...] | None = None
    windows: tuple[int, ...] | None = None
    deal: bool = False
    fps: float | None = None
    resize: tuple[int, int] | int | None = None
    crop: int | tuple[int, int] | None = None
    crop_at: CropAt = "random"
    area: tuple[float, float] | None = None
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: Jitter | None = None
    column: str = "rgb"
    flow: str | None = None
    table: str | None = None
    rates: tuple[float, float] | None = None
    draws: int = 0
    resize_range: tuple[int, int] | None = None

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
        if self.area is not None:
            self._check_area(self.area)
        if self.resize_range is not None:
            self._check_range(*self.resize_range)
        self._check_rows()
        self._check_rates()

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """(height, width) of the crop, or None."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, the clips' first."""
        return tuple(dict.fromkeys(name for name in (self.column, self.flow, self.table) if name is not None))

    def _check_range(self, least: int, most: int) -> None:
        if not 1 <= least <= most:
            raise UserError(f"resize_range is {least}, {most}; the least and the most short side are needed")
        if self.resize is not None or self.crop is None or self.table is not None:
            raise UserError(
                f"resize_range {least}, {most} takes the place of resize ({self.resize}), needs a crop ({self.crop}), "
                f"and goes with no table ({self.table})"
            )

    def _check_area(self, area: tuple[float, float]) -> None:
        for name, (low, high), top in (("area", area, 1.0), ("aspect", self.aspect, float("inf"))):
            if not 0 < low <= high <= top:
                raise UserError(f"{name} is {low}, {high}; least and most are needed, above 0 and up to {top:g}")
        if self.crop is None:
            raise UserError("area cuts are resized to the crop, and there is none: set data.crop=112")
        if self.table is not None or self.flow is not None:
            raise UserError(
                "area cuts go with RGB clips alone: labels and flow are those of cuts that are not resized; set "
                "data.area=null"
            )

    def _check_rows(self) -> None:
        joint = self.stride_rows is not None or self.windows is not None or self.deal
        if joint and (self.sampling == "uniform" or self.cover or self.table is not None):
            raise UserError("stride_rows, windows and deal are for random clips of a stride, without table or cover")
        if self.cover and (self.table is not None or self.strides != (1,)):
            raise UserError(f"clips that cover a video have no stride and no table; strides are {self.strides}")
        if self.windows is not None and len(self.windows) != self.clips:
            raise UserError(f"windows are {self.windows}; one number is needed for each of {self.clips} clips")
        places = range(len(self.strides))
        rows = () if self.stride_rows is None else self.stride_rows
        if (self.deal and not rows) or any(len(row) != self.clips or not set(row) <= set(places) for row in rows):
            raise UserError(
                f"stride_rows are {self.stride_rows}; rows of {self.clips} places (clips) in the {len(places)} strides "
                "are needed"
            )

    def _check_rates(self) -> None:
        if self.draws < 0 or (self.draws and self.sampling == "uniform"):
            raise UserError(f"draws is {self.draws}; it must be at least 0, and 0 for uniform clips")
        if self.rates is None:
            return
        check_rates(self.rates)
        joint = self.cover or self.windows is not None or self.stride_rows is not None
        if joint or self.strides != (1,) or self.sampling == "uniform" or self.table is not None:
            raise UserError(
                f"rates {self.rates} take the place of strides {self.strides}: they are for random clips of "
                "strides (1,), without table, cover, windows and stride_rows"
            )

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

    def plan(
        self, video: VideoFacts, rng: np.random.Generator, table: ClipTable | None = None, *, row: int | None = None
    ) -> ClipPlan:
        """Draw one item. The same spec, video, generator state, table and row give the same plan.

        Args:
            table: the sample's, where the spec names one.
            row: the item's number among `stride_rows`, where they are dealt; None draws one.
        """
        if (table is None) != (self.table is None):
            raise ValueError(f"the spec names table {self.table!r}; table is {'not ' if table is None else ''}given")
        if table is not None:
            return self._tabled(video, rng, table)
        if video.frames < 1:
            raise UserError("a video without frames cannot be planned; run vidprep check on the data set")
        index = self._resampled(video)
        total = video.frames if index is None else len(index)
        scaled = self.resize_range is not None and self.sampling == "random" and self.crop_at == "random"
        size = self._resized(video, rng.random() if scaled else 0.0)
        if self.sampling == "uniform":
            shown = self._spread(total)
            which, flip = np.zeros(self.clips, np.int64), np.zeros(self.clips, np.bool_)
            crop = np.array([self._box(size, (0.5, 0.5), None)] * self.clips, dtype=np.int64)
            jitter = None
        else:
            # Doubles are the only draws: five a clip, twenty for a cut of some area, then six or seven a jittered
            # frame; cheap, and the same in every NumPy.
            us = self._joined(rng.random((self.clips, 5))).tolist()
            strides = tuple(int(u[0] * len(self.strides)) for u in us)
            if self.stride_rows is not None:
                strides = self.stride_rows[int(us[0][0] * len(self.stride_rows)) if row is None else row]
            tries: list[Any] = [None] * self.clips
            if self.area is not None:
                tries = self._joined(rng.random((self.clips, 10, 2))).tolist()
            clips = [self._draw(total, size, *drawn) for drawn in zip(strides, us, tries, strict=True)]
            shown = np.array([frames for frames, _, _, _ in clips], dtype=np.int64)
            which = np.array([stride for _, stride, _, _ in clips], dtype=np.int64)
            crop = np.array([box for _, _, box, _ in clips], dtype=np.int64)
            flip = np.array([mirrored for _, _, _, mirrored in clips], dtype=np.bool_)
            jitter = self._colours(rng)
        frames = shown if index is None else index[shown]
        return ClipPlan(
            frames=frames, stride=which, size=size, crop=crop, flip=flip, jitter=jitter, draws=self._own_draws(rng)
        )

    def _tabled(self, video: VideoFacts, rng: np.random.Generator, table: ClipTable) -> ClipPlan:
        # As many draws a clip as without table, so that jitter does not depend on there being one.
        u = rng.random((self.clips, 5))[:, 1]
        rows = (u * len(table)).astype(np.intp)
        start, top, left, flip = table.places[rows].astype(np.int64).T
        frames = start[:, None] + np.arange(self.frames)
        size, (h, w) = self._resized(video), self.crop_size or (0, 0)
        self._room(size, (h, w))
        if int(frames.max()) > video.frames:
            raise UserError(f"a row of table {self.table} ends at frame {int(frames.max())} of {video.frames}")
        return ClipPlan(
            # A flow column has one field less than there are frames: a row that ends with them shows the last twice.
            frames=np.minimum(frames, video.frames - 1),
            stride=np.zeros(self.clips, np.int64),
            size=size,
            crop=np.stack([top, left, np.full_like(top, h), np.full_like(top, w)], axis=1),
            flip=flip.astype(np.bool_),
            jitter=self._colours(rng),
            targets=table.values[rows],
            draws=self._own_draws(rng),
        )

    def _own_draws(self, rng: np.random.Generator) -> npt.NDArray[np.float64] | None:
        """The task's; drawn last, so that all else does not depend on how many there are."""
        return rng.random((self.clips, self.draws)) if self.draws else None

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

    def _resized(self, video: VideoFacts, u: float = 0.0) -> tuple[int, int]:
        if self.resize_range is None:
            return resized_size(self.resize, video.height, video.width)
        least, most = self.resize_range
        return resized_size(least + int(u * (most - least + 1)), video.height, video.width)

    def _room(self, size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
        """How far a crop of that shape can move down and to the right."""
        (height, width), (h, w) = size, shape
        if h > height or w > width:
            raise UserError(
                f"a crop of {h}x{w} does not fit into frames of {height}x{width} (height x width); "
                f"set data.resize to at least {h}x{w}, or pack again with vidprep pack --short-side {max(h, w)}"
            )
        return height - h, width - w

    def _spread(self, total: int) -> npt.NDArray[np.int64]:
        """Frame numbers (V,T) in 0..total−1 of evenly spread clips."""
        if self.cover:
            step = total / self.frames
            offsets = np.arange(self.clips) / self.clips if self.clips > 1 else np.array([0.5])
            return np.floor(step * (np.arange(self.frames) + offsets[:, None])).astype(np.int64)
        stride, k = self.strides[0], np.arange(self.frames, dtype=np.int64)
        last = max(0, total - 1 - (self.frames - 1) * stride)
        starts = np.round(np.linspace(0, last, self.clips)) if self.clips > 1 else np.array([last // 2])
        start = starts.astype(np.int64)[:, None]
        if self.when_short in ("window", "restart"):
            return np.asarray(start + stride * (k % ((total - 1) // stride + 1)))
        frames = start + stride * k
        return np.asarray(frames % total if self.when_short == "loop" else np.minimum(frames, total - 1))

    def _colours(self, rng: np.random.Generator) -> JitterPlan | None:
        if self.jitter is None:
            return None
        return draw_colours(self.jitter, self.frames, lambda shape: self._joined(rng.random((self.clips, *shape))))

    def _joined(self, draws_V: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Draws of every clip, those of a window's first clip for all its clips."""
        if self.windows is None:
            return draws_V
        return draws_V[[self.windows.index(number) for number in self.windows]]

    def _draw(
        self, total: int, size: tuple[int, int], which: int, u: Sequence[float], tries: Sequence[Sequence[float]] | None
    ) -> tuple[list[int], int, tuple[int, int, int, int], bool]:
        """Frame numbers, stride index, crop box and flip of one clip, from uniform numbers in [0, 1)."""
        if self.cover:
            step = total / self.frames
            frames = [min(int(step * (k + u[1])), total - 1) for k in range(self.frames)]
        elif self.rates is not None:
            frames = at_rate(total, self.frames, self.rates, self.when_short, u[0], u[1])
        else:
            frames = self._one_clip(total, self.strides[which], u[1])
        place = (0.5, 0.5) if self.crop_at == "center" else (u[2], u[3])
        return frames, which, self._box(size, place, tries if self.crop_at == "random" else None), u[4] < self.flip

    def _box(
        self, size: tuple[int, int], place: tuple[float, float], tries: Sequence[Sequence[float]] | None
    ) -> tuple[int, int, int, int]:
        """Top, left, height, width of a crop at a place (0 to 1, downwards and to the right) of its room."""
        shape = self.crop_size or size
        if self.area is not None:
            cut = None if tries is None else area_cut(size, self.area, self.aspect, tries)
            if cut is None:
                place, ratio = (0.5, 0.5), shape[1] / shape[0]
                low, high = (ratio, ratio) if tries is None else self.aspect
                cut = largest_cut(size, low, high)
            shape = cut
        room = self._room(size, shape)
        if place == (0.5, 0.5):
            return room[0] // 2, room[1] // 2, *shape
        return int(place[0] * (room[0] + 1)), int(place[1] * (room[1] + 1)), *shape

    def _one_clip(self, total: int, stride: int, u: float) -> list[int]:
        # Lists: for the usual 8 to 64 frames they are faster than arrays.
        length = self.frames
        if self.when_short == "window":
            window = min(length, (total - 1) // max(self.strides) + 1)
            start = int(u * (total - (window - 1) * (stride if self.windows is None else max(self.strides))))
            lap = list(range(start, start + window * stride, stride))
            return (lap * (length // window + 1))[:length]
        if self.when_short == "restart":
            lap = list(range(0, total, stride))
            frames = list(range(int(u * total), total, stride))
            return (frames + lap * (length // len(lap) + 1))[:length]
        span = (length - 1) * (stride if self.windows is None else max(self.strides))
        start = int(u * (max(0, total - 1 - span) + 1))
        frames = list(range(start, start + length * stride, stride))
        if self.when_short == "loop":
            return [f % total for f in frames]
        return [min(f, total - 1) for f in frames]


def resized_size(resize: tuple[int, int] | int | None, height: int, width: int) -> tuple[int, int]:
    """(height, width) of a frame of height x width after `resize`: exact, to that short side, or None as it is."""
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return resize
    scale = resize / min(height, width)
    return max(resize, round(height * scale)), max(resize, round(width * scale))


def dealt_rows(spec: ClipSpec, *, seed: int, step: int, batch: int, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Numbers of the `stride_rows` that items start..stop−1 of batch `step` get: each row as often as any other, up to
    one, over the whole batch, in an order that seed and step select."""
    rows = 1 if spec.stride_rows is None else len(spec.stride_rows)
    places = permute(np.arange(start, stop), batch, seed=seed, epoch=step, stream=_DEAL)
    return places * rows // batch
