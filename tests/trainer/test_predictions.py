"""Score fusion and accuracies against literal loops; classes are matched by name."""

from __future__ import annotations

import numpy as np
import pytest

from shards.errors import UserError
from trainer.evaluation.scores import accuracy, match_classes


def test_accuracy_equals_the_literal_count():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 8)).astype(np.float32)
    labels = rng.integers(7, size=50)  # class 7 has no video
    result = accuracy(scores, labels)
    top1 = top5 = 0
    confusion = np.zeros((8, 8), int)
    for row, label in zip(scores, labels, strict=True):
        order = sorted(range(8), key=lambda c: -row[c])
        top1 += order[0] == label
        top5 += label in order[:5]
        confusion[label, order[0]] += 1
    assert result.top1 == top1 / 50
    assert result.top5 == top5 / 50
    assert np.array_equal(result.confusion, confusion)
    assert set(result.per_class) == set(labels.tolist())
    assert result.per_class[3] == confusion[3, 3] / confusion[3].sum()
    assert result.mean_class == pytest.approx(np.mean([confusion[c, c] / confusion[c].sum() for c in range(7)]))
    assert result.videos == 50


def test_top5_is_absent_with_five_classes():
    assert accuracy(np.eye(5, dtype=np.float32), np.arange(5)).top5 is None


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((0, 3), np.float32), np.zeros(0, int), "no video"),
        (np.zeros((2, 3), np.float32), np.array([0, -1]), "-1 to 0"),
        (np.zeros((2, 3), np.float32), np.array([0, 3]), "0 to 2"),
        (np.full((2, 3), np.inf, np.float32), np.array([0, 1]), "2 of 2 videos are not finite"),
    ],
)
def test_bad_scores_are_named(scores, labels, message):
    with pytest.raises(UserError, match=message):
        accuracy(scores, labels)


def test_classes_are_matched_by_name():
    matched = match_classes(("run", "jump", "wave"), ("wave", "idle", "run"), np.array([0, 2, -1, 0]), where="x")
    assert matched.tolist() == [2, 0, -1, 2]


def test_unknown_classes_are_refused():
    with pytest.raises(UserError, match="the model does not know: 'idle'"):
        match_classes(("run",), ("idle", "run"), np.array([0, 1]), where="data/x")
