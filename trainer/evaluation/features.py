"""Features of every video of a split, computed once per network and kept in the run folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from shards.dataset import Dataset
from shards.errors import UserError
from shards.publish import Aside
from shards.spec import ClipSpec
from trainer.evaluation.views import FloatArray, IntArray, Progress, Videos, mean_over_views, merge_segments
from trainer.models.base import Backbone

if TYPE_CHECKING:
    from trainer.engine.distributed import Ranks

Pooling = Literal["avg", "max"]
_FORMAT = "features 1"  # changes whenever the same inputs would give other numbers


def extract(
    backbone: Backbone,
    dataset: Dataset,
    samples: IntArray,
    spec: ClipSpec,
    *,
    ranks: Ranks,
    pooling: Pooling = "avg",
    batch: int = 4,
    workers: int = 2,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Videos:
    """Feature vectors (width of the backbone) of videos: mean over views of the pooled last map.

    Args:
        backbone: put on the rank's device and into eval mode; BatchNorm uses its running statistics.
        samples, spec, batch, workers, progress: as for `trainer.evaluation.views.mean_over_views`.
        pooling: "avg" or "max" of a clip's last map over T, H and W (reference/evaluation.md section 5).
        cache: folder of feature files named by a digest of weights, spec, pooling and stored data; read where the
            file is there, else written.

    Raises:
        UserError: unknown pooling; or as the loader meets it.
    """
    if pooling not in get_args(Pooling):
        raise UserError(f"pooling is {pooling!r}; allowed: {', '.join(get_args(Pooling))}")
    backbone.to(ranks.device).eval()
    file = None if cache is None else cache / f"{_digest(backbone, dataset, samples, spec, pooling)}.npy"

    def compute() -> FloatArray:
        return mean_over_views(
            dataset,
            samples,
            spec,
            _pool(backbone, pooling),
            convention=backbone.convention,
            ranks=ranks,
            batch=batch,
            workers=workers,
            progress=progress,
        )

    values = compute() if file is None else _cached(file, compute, len(samples), ranks)
    return merge_segments(dataset, samples, values)


def _pool(backbone: Backbone, pooling: Pooling) -> Callable[[Tensor, Tensor], Tensor]:
    def average(clips: Tensor, labels: Tensor) -> Tensor:
        pooled: Tensor = backbone(clips).pooled
        return pooled

    def maximum(clips: Tensor, labels: Tensor) -> Tensor:
        last: Tensor = backbone(clips).last
        return last.amax((2, 3, 4))

    return average if pooling == "avg" else maximum


def _cached(file: Path, compute: Callable[[], FloatArray], count: int, ranks: Ranks) -> FloatArray:
    # Rank 0 decides for all: another rank may see a shared folder later than it was written.
    if ranks.on_main(file.is_file):
        values = np.load(file, allow_pickle=False)
        if values.shape[0] == count and values.dtype == np.float32:
            return np.asarray(values)
        raise UserError(f"{file} is not the feature file it should be; remove it")
    values = compute()
    ranks.on_main(lambda: _save(file, values))
    return values


def _save(file: Path, values: FloatArray) -> None:
    content = io.BytesIO()
    np.save(content, values)
    aside = Aside(file)
    try:
        aside.write(content.getvalue())
        aside.publish(replace=True)
    finally:
        aside.discard()


def weights_digest(backbone: Backbone) -> str:
    """16 hex digits of a backbone's make, convention and every weight."""
    digest = hashlib.blake2b(repr((backbone.id, backbone.convention)).encode(), digest_size=8)
    for name, tensor in sorted(backbone.state_dict().items()):
        content = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(content.shape)}{content.dtype}".encode())
        digest.update(content.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(backbone: Backbone, dataset: Dataset, samples: IntArray, spec: ClipSpec, pooling: Pooling) -> str:
    # index.bin has place, size and key of every stored sample; labels are not part of it, nor of the features.
    digest = hashlib.blake2b(digest_size=12)
    for part in (
        _FORMAT,
        weights_digest(backbone),
        pooling,
        repr(sorted(asdict(spec).items())),
        str(dataset.meta.columns),
    ):
        digest.update(f"{part}\n".encode())
    digest.update(samples.tobytes())
    digest.update(np.ascontiguousarray(dataset.records).tobytes())
    return digest.hexdigest()
