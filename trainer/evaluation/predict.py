"""Classifying whole videos: scores of evenly spread clips are fused into one prediction per video."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from shards.dataset import Dataset
from shards.errors import UserError
from shards.spec import ClipSpec
from trainer.config import load_recipe
from trainer.engine.checkpoint import BEST, checkpoint_paths, read_checkpoint
from trainer.engine.runs import CHECKPOINTS, write_text
from trainer.evaluation.scores import FloatArray, IntArray, accuracy, match_classes
from trainer.evaluation.views import Progress, mean_over_views, merge_segments
from trainer.models import build_backbone
from trainer.models.base import InputConvention
from trainer.models.weights import load_strict
from trainer.tasks import Classify, build_task

if TYPE_CHECKING:
    from trainer.engine.distributed import Ranks

Fusion = Literal["probabilities", "logits"]
Which = Literal["last", "best"]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Scores of videos.

    Attributes:
        keys: of the videos.
        labels: (n,) int64, in the numbering of `classes`.
        scores: (n,C) float32: mean over all clips of a video of its probabilities (or logits).
        classes: class table of the model.
        clip_top1: share of single clips that are right.
    """

    keys: tuple[str, ...]
    labels: IntArray
    scores: FloatArray
    classes: tuple[str, ...]
    clip_top1: float


def load_classifier(run: str | Path, which: Which = "last") -> Classify:
    """The classifier of a run of the task `classify`, on the CPU, in eval mode, with its own class table.

    Args:
        which: "last": the newest checkpoint. "best": the one that was best in validation, where the run validated.

    Raises:
        UserError: no such checkpoint, or the run is of another task.
    """
    folder = Path(run) / CHECKPOINTS
    paths = [folder / BEST] if which == "best" else checkpoint_paths(folder)
    if not paths or not paths[-1].exists():
        why = "it was trained without train.validation" if which == "best" else "train it first"
        raise UserError(f"{run} has no {which} checkpoint: {why}")
    checkpoint = read_checkpoint(paths[-1])
    recipe = load_recipe(checkpoint.info["recipe"])
    task = build_task(
        recipe.task.name,
        backbone=build_backbone(recipe.backbone.name, **recipe.backbone.options),
        data=recipe.data,
        options=recipe.task.options,
        classes=tuple(checkpoint.info["classes"]),
    )
    if not isinstance(task, Classify):
        raise UserError(f"{run} is a run of the task {recipe.task.name}, which does not classify videos")
    remedy = "The code of task or backbone has changed since."
    load_strict(task, checkpoint.tensors, what=f"{checkpoint.path} does not fit its own recipe", remedy=remedy)
    task.backbone.convention = InputConvention.of(checkpoint.info["convention"])
    return task.eval()


def predict(
    task: Classify,
    dataset: Dataset,
    samples: IntArray,
    spec: ClipSpec,
    *,
    ranks: Ranks,
    fusion: Fusion = "probabilities",
    batch: int = 4,
    workers: int = 2,
    progress: Progress | None = None,
) -> Predictions:
    """Scores of every video among `samples`, labelled ones only.

    Args:
        task: put on the rank's device and into eval mode.
        fusion: what is averaged over clips: "probabilities" (softmax) or "logits" (reference/evaluation.md section 2).
        samples, spec, batch, workers, progress: as for `trainer.evaluation.views.mean_over_views`.

    Raises:
        UserError: unknown fusion, or a class that the task does not know.
    """
    if fusion not in get_args(Fusion):
        raise UserError(f"fusion is {fusion!r}; allowed: {', '.join(get_args(Fusion))}")
    labels = dataset.labels.astype(np.int64)
    # The numbering of the model for every sample; others than `samples` are not looked at.
    matched = np.full(len(labels), -1, np.int64)
    matched[samples] = match_classes(task.classes, dataset.classes, labels[samples], where=dataset.url)
    to_model = np.full(len(dataset.classes) + 1, -1, np.int64)
    to_model[labels[samples]] = matched[samples]
    task.to(ranks.device).eval()
    values = mean_over_views(
        dataset,
        samples,
        spec,
        _scores(task, torch.from_numpy(to_model).to(ranks.device), fusion),
        convention=task.backbone.convention,
        ranks=ranks,
        batch=batch,
        workers=workers,
        progress=progress,
    )
    videos = merge_segments(dataset, samples, values[:, :-1])
    return Predictions(
        keys=videos.keys,
        labels=matched[videos.samples],
        scores=videos.values,
        classes=task.classes,
        clip_top1=float(values[:, -1].mean(dtype=np.float64)),
    )


def _scores(task: Classify, to_model: Tensor, fusion: Fusion) -> Callable[[Tensor, Tensor], Tensor]:
    """(b,C+1): scores, and whether the clip alone is right."""

    def run(clips: Tensor, labels: Tensor) -> Tensor:
        logits = task.logits(clips).float()
        right = logits.argmax(1, keepdim=True) == to_model[labels][:, None]
        return torch.cat([logits.softmax(1) if fusion == "probabilities" else logits, right.float()], dim=1)

    return run


def write_predictions(path: Path, predictions: Predictions) -> None:
    """A CSV line for each video: key, class, predicted class, score of the prediction and of the true class, and the
    true class's rank (1: right).

    Raises:
        StorageError: the file cannot be written.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["key", "label", "predicted", "score", "label_score", "label_rank"])
    order = np.argsort(-predictions.scores, axis=1, kind="stable")
    rows = zip(predictions.keys, predictions.labels.tolist(), predictions.scores, order, strict=True)
    for key, label, scores, ranked in rows:
        rank = int(np.flatnonzero(ranked == label)[0]) + 1
        best = int(ranked[0])
        names = predictions.classes[label], predictions.classes[best]
        writer.writerow([key, *names, f"{scores[best]:.6g}", f"{scores[label]:.6g}", rank])
    write_text(path, out.getvalue())


def summarise(predictions: Predictions) -> dict[str, object]:
    """The numbers of a result file: top1, top5, clip_top1, mean_class, per_class by name, confusion."""
    found = accuracy(predictions.scores, predictions.labels)
    return {
        "top1": found.top1,
        "top5": found.top5,
        "clip_top1": predictions.clip_top1,
        "mean_class": found.mean_class,
        "per_class": {predictions.classes[c]: share for c, share in found.per_class.items()},
        "confusion": found.confusion.tolist(),
    }
