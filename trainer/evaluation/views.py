"""Running a network over evenly spread clips of every video, each video exactly once, over any number of processes.

Letters: n samples, V views (clips) per sample, K numbers per sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.dataset import Dataset
from shards.errors import UserError
from shards.spec import ClipSpec
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.data.batch import upload
from trainer.data.loader import once
from trainer.models.base import InputConvention

if TYPE_CHECKING:
    from trainer.engine.distributed import Ranks

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
PerView = Callable[[Tensor, Tensor], Tensor]
"""Maps normalised clips (b,3,T,H,W) and the labels (b,) of their videos to numbers (b,K)."""
Progress = Callable[[int, int], None]
"""Told how many samples of how many are done."""

VIEWS = 10
_CLIPS_AT_ONCE = 32


def view_spec(data: DataConfig, *, views: int = VIEWS) -> ClipSpec:
    """V clips spread over the whole video, both ends included, centre crop, neither flip nor jitter: deterministic.

    Frames, size and frame rate are those of `data` (reference/evaluation.md sections 2 and 2.1).

    Raises:
        UserError: fewer than one view.
    """
    if views < 1:
        raise UserError(f"views is {views}; at least 1 clip per video is needed")
    return replace(data.spec(clips=views), sampling="uniform", crop_at="center", flip=0.0, jitter=None)


@dataclass(frozen=True, kw_only=True)
class Videos:
    """Numbers for every video of a selection; segments of one video are merged (mean over all their clips).

    Attributes:
        keys: key of the video.
        samples: (n,) int64, its (first) sample.
        labels: (n,) int64, class numbers of the data set, −1 for none.
        groups: (n,) int64, group numbers of the data set, −1 for none.
        values: (n,K) float32.
    """

    keys: tuple[str, ...]
    samples: IntArray
    labels: IntArray
    groups: IntArray
    values: FloatArray

    def __len__(self) -> int:
        return len(self.keys)


def mean_over_views(
    dataset: Dataset,
    samples: IntArray,
    spec: ClipSpec,
    function: PerView,
    *,
    convention: InputConvention,
    ranks: Ranks,
    batch: int = 4,
    workers: int = 2,
    progress: Progress | None = None,
) -> FloatArray:
    """Mean over the views of each sample: (n,K) float32 in the order of `samples`, the same on every rank.

    Args:
        samples: (n,) ascending sample numbers, each once.
        spec: as `view_spec` makes it.
        function: called under inference_mode with at most 32 clips at a time, on the rank's device.
        batch: samples per loader step of one rank; never changes a result beyond rounding.

    Raises:
        UserError, DataError: as the loader meets them.
    """
    mine: list[IntArray] = []
    values: list[FloatArray] = []
    done = 0
    batches = once(
        dataset, spec, samples, batch=batch * ranks.world, rank=ranks.rank, world=ranks.world, workers=workers
    )
    with torch.inference_mode():
        for part in upload(batches, ranks.device):
            clips = augment(part, convention).flatten(0, 1)
            labels = part.label.repeat_interleave(spec.clips)
            starts = range(0, len(clips), _CLIPS_AT_ONCE)
            parts = [function(clips[at : at + _CLIPS_AT_ONCE], labels[at : at + _CLIPS_AT_ONCE]) for at in starts]
            by_view = torch.cat(parts).float().reshape(len(part), spec.clips, -1)
            values.append(by_view.mean(1).cpu().numpy())
            mine.append(part.sample.cpu().numpy())
            done = min(len(samples), done + len(part) * ranks.world)
            if progress is not None and ranks.is_main:
                progress(done, len(samples))
    empty = np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    local = (np.concatenate(mine), np.concatenate(values)) if mine else empty
    return _by_place(samples, ranks.gather(local))


def _by_place(samples: IntArray, parts: list[tuple[IntArray, FloatArray]]) -> FloatArray:
    """Rows of all ranks in the order of `samples`; a sample that is missing or came twice is a bug."""
    numbers = np.concatenate([part[0] for part in parts])
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], samples):
        raise RuntimeError(f"{len(samples)} samples were to be evaluated once each; {len(numbers)} came")
    rows = np.concatenate([part[1] for part in parts if len(part[0])])
    return np.asarray(rows[order], dtype=np.float32)


def merge_segments(dataset: Dataset, samples: IntArray, values_nK: FloatArray) -> Videos:
    """From samples to videos: segments of a video (`vidprep pack --segment-frames`) are averaged."""
    places: dict[str, list[int]] = {}
    for place, number in enumerate(samples.tolist()):
        row = dataset.table.row(number)
        places.setdefault(row.video or row.key, []).append(place)
    first = samples[[rows[0] for rows in places.values()]]
    merged = values_nK
    if len(places) < len(samples):
        merged = np.stack([values_nK[rows].mean(axis=0) for rows in places.values()])
    return Videos(
        keys=tuple(places),
        samples=first,
        labels=dataset.labels[first].astype(np.int64),
        groups=dataset.groups[first],
        values=merged,
    )
