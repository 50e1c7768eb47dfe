"""What a task gets: a batch of clips, not yet flipped or coloured, with everything that is known about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import methodcaller
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.spec import JitterPlan


@dataclass(frozen=True, kw_only=True)
class ColourChanges:
    """The colour changes of a batch, sorted for batched work on a device.

    Attributes:
        frame: (n,) int64 places in the flattened (B,V,T), one for every change of a frame.
        factor: (n,) float32.
        groups: (change, start, stop) in the order of application, host numbers: frame[start:stop] get this change
            (0 brightness, 1 contrast, 2 saturation, 3 hue) at once. No frame occurs twice in a group.
    """

    frame: Tensor
    factor: Tensor
    groups: tuple[tuple[int, int, int], ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ColourChanges:
        """The changes on a device; `non_blocking` as for `Batch.to`."""
        return replace(
            self,
            frame=_moved(self.frame, device, non_blocking=non_blocking),
            factor=_moved(self.factor, device, non_blocking=non_blocking),
        )

    @classmethod
    def of(cls, plan: JitterPlan) -> ColourChanges:
        """Changes of a plan with leading shape (B,V,T), without those that change nothing."""
        order, factors = plan.order.reshape(-1, 4), plan.factors.reshape(-1, 4)
        frame = np.flatnonzero(plan.apply)
        kind = order[frame]  # (frames, stage)
        factor = np.take_along_axis(factors[frame], kind.astype(np.intp), axis=1)
        slot = (np.arange(4, dtype=np.uint8) * 4 + kind).T.reshape(-1)  # stage * 4 + kind
        factor, frame = factor.T.reshape(-1), np.tile(frame, 4)
        real = np.flatnonzero(factor != np.where(slot % 4 == 3, 0.0, 1.0))
        real = real[np.argsort(slot[real], kind="stable")]
        ends = np.cumsum(np.bincount(slot[real], minlength=16)).tolist()
        groups = [(s % 4, start, stop) for s, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True))]
        return cls(
            frame=torch.from_numpy(frame[real]),
            factor=torch.from_numpy(np.ascontiguousarray(factor[real])),
            groups=tuple(g for g in groups if g[1] < g[2]),
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B videos of one rank, V clips each, T frames a clip.

    Attributes:
        step: number of the batch.
        clips: (B,V,T,H,W,3) uint8 RGB, resized and cropped, neither flipped nor coloured: `augment` does that. Where
            the spec's column is flow: (B,V,T,H,W,2), planes u and v as stored (codec lossless: int16 around 0).
        sample: (B,) int64 numbers in the data set.
        label: (B,) int64 class indices, −1 for none.
        stride: (B,V) int64 index of each clip's stride in the spec's `strides`.
        frames: (B,V,T) int64 stored frame numbers.
        flip: (B,V) bool.
        jitter: colour changes as drawn, arrays (B,V,T,…) that stay on the host, or None.
        changes: the same, ready for `augment`.
        flow: (B,V,T,H,W,2) flow beside the clips, in the same way, or None: entry t leads from the clip's frame t to
            the stored frame after it; at the end of a video the last field once more.
        flow_step: (B,2) float32, where there is flow: pixels of the shown frame per step of a plane, for u and v.
        flow_zero: the planes' number for no motion.
        targets: (B,V,K) int64 numbers of the clips' table rows, or None.
        draws: (B,V,N) float64 uniform in [0, 1), numbers for the task's own choices that stay on the host; or None.
        steps_per_epoch: batches that make an epoch; infinite where there are none.
        more: where the loader has several specs, what the others show of the same videos.
    """

    step: int
    clips: Tensor
    sample: Tensor
    label: Tensor
    stride: Tensor
    frames: Tensor
    flip: Tensor
    jitter: JitterPlan | None = None
    changes: ColourChanges | None = None
    flow: Tensor | None = None
    flow_step: Tensor | None = None
    flow_zero: float = 0.0
    targets: Tensor | None = None
    draws: npt.NDArray[np.float64] | None = None
    steps_per_epoch: float = math.inf
    more: tuple[Batch, ...] = ()

    @property
    def epoch(self) -> float:
        """Epochs that are done before this batch."""
        return self.step / self.steps_per_epoch

    @classmethod
    def of(
        cls,
        step: int,
        arrays: Sequence[Mapping[str, npt.NDArray[Any]]],
        labels: npt.NDArray[np.integer],
        rows: int,
        *,
        flow_zeros: Sequence[float],
        steps_per_epoch: float = math.inf,
    ) -> Batch:
        """The first `rows` rows of a filled slot; tensors share its memory.

        Args:
            arrays: of each spec.
            labels: (N,) of the whole data set.
            flow_zeros: for each spec, the planes' number for no motion.
            steps_per_epoch: batches that make an epoch.
        """
        first, *more = (
            cls._of(step, fields, labels, rows, zero, steps_per_epoch)
            for fields, zero in zip(arrays, flow_zeros, strict=True)
        )
        return replace(first, more=tuple(more)) if more else first

    @classmethod
    def _of(
        cls,
        step: int,
        arrays: Mapping[str, npt.NDArray[Any]],
        labels: npt.NDArray[np.integer],
        rows: int,
        flow_zero: float,
        steps_per_epoch: float,
    ) -> Batch:
        part = {name: array[:rows] for name, array in arrays.items()}
        jitter = None
        if "apply" in part:
            # Small, and of the host: copied, so that keeping a plan does not keep a slot.
            jitter = JitterPlan(**{name: part[name].copy() for name in ("apply", "factors", "order")})
        tensors: dict[str, Any] = {
            name: torch.from_numpy(part[name]) for name in ("flow", "flow_step", "targets") if name in part
        }
        return cls(
            step=step,
            clips=torch.from_numpy(part["clips"]),
            sample=torch.from_numpy(part["sample"]),
            stride=torch.from_numpy(part["stride"]),
            frames=torch.from_numpy(part["frames"]),
            flip=torch.from_numpy(part["flip"]),
            label=torch.from_numpy(labels[part["sample"]].astype(np.int64)),
            jitter=jitter,
            changes=None if jitter is None else ColourChanges.of(jitter),
            flow_zero=flow_zero,
            steps_per_epoch=steps_per_epoch,
            draws=part["draws"].copy() if "draws" in part else None,
            **tensors,
        )

    def __len__(self) -> int:
        return len(self.sample)

    def first_clips(self, count: int, *, draws: int = 0) -> Batch:
        """The first `count` of the V clips of every video, with the first `draws` of the N numbers for each; the clips
        themselves share this batch's memory."""
        own = None if self.draws is None or not draws else self.draws[:, :count, :draws]
        if count == self.clips.shape[1]:
            return replace(self, draws=own)
        tensors: dict[str, Any] = {
            name: part[:, :count]
            for name in ("clips", "stride", "frames", "flip", "flow", "targets")
            if (part := getattr(self, name)) is not None
        }
        jitter = self.jitter
        if jitter is not None:
            jitter = JitterPlan(
                apply=jitter.apply[:, :count], factors=jitter.factors[:, :count], order=jitter.order[:, :count]
            )
            tensors["changes"] = ColourChanges.of(jitter).to(self.clips.device, non_blocking=True)
        return replace(self, jitter=jitter, draws=own, **tensors)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch on a device. `non_blocking` copies through pinned memory, which torch's host allocator keeps
        until the copy is done; the batch itself may be dropped at once."""

        tensors: dict[str, Any] = {
            f.name: _moved(t, device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(t := getattr(self, f.name), Tensor)
        }
        if self.changes is not None:
            tensors["changes"] = self.changes.to(device, non_blocking=non_blocking)
        more = tuple(batch.to(device, non_blocking=non_blocking) for batch in self.more)
        return replace(self, more=more, **tensors)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the batch."""
        yield from (t for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor))
        if self.changes is not None:
            yield from (self.changes.frame, self.changes.factor)
        for batch in self.more:
            yield from batch.tensors()


def _moved(tensor: Tensor, device: torch.device | str, *, non_blocking: bool) -> Tensor:
    if non_blocking and torch.device(device).type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def upload(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """Batches on a device; on CUDA copied on a side stream, so that copies overlap the steps before.

    The current stream waits for the copy of a batch before it is yielded; the host waits for nothing.
    """
    target = torch.device(device)
    if target.type != "cuda":
        yield from map(methodcaller("to", target), batches)  # unlike a loop, keeps no batch while the next is made
        return
    stream = torch.cuda.Stream(target)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = batch.to(target, non_blocking=True)
        current = torch.cuda.current_stream(target)
        current.wait_stream(stream)
        for tensor in moved.tensors():
            # Allocated on the side stream, used on the current one: not to be reused before that use is over.
            tensor.record_stream(current)
        parts = [moved]
        del batch, moved
        yield parts.pop()
