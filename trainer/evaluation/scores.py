"""From the scores of a video's clips to numbers about a test set (reference/evaluation.md section 2.1).

Letters: N videos, V clips per video, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from shards.errors import UserError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Fusion = Literal["probabilities", "logits"]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracies over videos, micro average, in [0, 1].

    Attributes:
        top1, top5: share of videos whose class is the first or among the first five by score; `top5` is None
            with fewer than six classes, where it would always be 1.
        per_class: share of a class's videos that are right, by class number.
        mean_class: mean of `per_class` (macro average).
        confusion: (C, C) int64, rows true class, columns predicted class.
        videos: how many were scored.
    """

    top1: float
    top5: float | None
    per_class: dict[int, float]
    mean_class: float
    confusion: IntArray
    videos: int


def accuracy(scores_NC: FloatArray, labels: IntArray) -> Accuracy:
    """Compare scores with labels (N,), all in [0, C). Ties go to the lower class number.

    Raises:
        UserError: no video, a label outside the class table, or a score that is not finite.
    """
    videos, classes = scores_NC.shape
    if videos == 0:
        raise UserError("there is no video to score; choose another split")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"labels run from {labels.min()} to {labels.max()}; the model knows classes 0 to {classes - 1}")
    if not np.isfinite(scores_NC).all():
        bad = int((~np.isfinite(scores_NC).all(axis=1)).sum())
        raise UserError(f"the scores of {bad} of {videos} videos are not finite; the training has probably diverged")
    ranked = np.argsort(-scores_NC, axis=1, kind="stable")
    predicted = ranked[:, 0]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    totals = confusion.sum(axis=1)
    per_class = {int(c): float(confusion[c, c] / totals[c]) for c in np.flatnonzero(totals)}
    return Accuracy(
        top1=float((predicted == labels).mean()),
        top5=float((ranked[:, :5] == labels[:, None]).any(axis=1).mean()) if classes > 5 else None,
        per_class=per_class,
        mean_class=float(np.mean(list(per_class.values()))),
        confusion=confusion,
        videos=videos,
    )


def match_classes(
    known: tuple[str, ...], data: tuple[str, ...], labels: IntArray, *, where: str, knows: str = "the model"
) -> IntArray:
    """Renumber `labels` (class numbers of the table `data`) into the numbers of the table `known`, by name.

    Only classes that occur in `labels` must be known; −1 stays −1.

    Args:
        where, knows: whose tables `data` and `known` are, for the message.

    Raises:
        UserError: a class that occurs is not in `known`.
    """
    numbers = {name: number for number, name in enumerate(known)}
    # Label −1 indexes the last entry, which is −1.
    table = np.array([numbers.get(name, -2) for name in data] + [-1], dtype=np.int64)
    matched = table[labels]
    unknown = sorted({data[c] for c in np.unique(labels[matched == -2])})
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        some = ", ".join(map(repr, unknown[:5])) + more
        raise UserError(
            f"{where} has classes that {knows} does not know: {some}; it knows {len(known)}: "
            f"{', '.join(known[:8])}{', …' if len(known) > 8 else ''}. Rename them with vidprep annotate, or train on "
            "a data set that has them"
        )
    return matched
