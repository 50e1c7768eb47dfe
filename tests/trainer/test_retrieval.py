"""Retrieval equals a slow literal search."""

from __future__ import annotations

import numpy as np
import pytest

from shards.errors import UserError
from trainer.evaluation.retrieval import TOP_K, retrieve


def literal(queries, query_labels, gallery, gallery_labels, k, *, center=False):
    if center:
        queries, gallery = queries - queries.mean(0), gallery - gallery.mean(0)
    hits = 0
    for query, label in zip(queries.astype(np.float64), query_labels, strict=True):
        cosines = []
        for row, other in enumerate(gallery.astype(np.float64)):
            cosine = query @ other / (np.sqrt(query @ query) * np.sqrt(other @ other))
            cosines.append((-cosine, row))
        hits += any(gallery_labels[row] == label for _, row in sorted(cosines)[:k])
    return hits / len(queries)


def draw(queries, gallery, *, features=12, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, features))
    query_labels, gallery_labels = rng.integers(classes, size=queries), rng.integers(classes, size=gallery)
    query = centres[query_labels] + rng.normal(size=(queries, features)) * 2 + 3
    other = centres[gallery_labels] + rng.normal(size=(gallery, features)) * 2 - 1
    return query.astype(np.float32), query_labels, other.astype(np.float32), gallery_labels


@pytest.mark.parametrize("center", [False, True])
def test_hits_equal_the_literal_search(center):
    data = draw(40, 90)
    result = retrieve(*data, center=center)
    assert result.queries == 40
    assert result.gallery == 90
    for k in TOP_K:
        assert result.hits[k] == pytest.approx(literal(*data, k, center=center), abs=1e-12)


def test_neighbours_are_sorted_and_ties_go_to_the_lower_row():
    gallery = np.array([[0, 1], [2, 0], [1, 0], [1, 1]], np.float32)
    result = retrieve(
        np.array([[3, 0]], np.float32), np.array([0]), gallery, np.array([1, 1, 0, 0]), ks=(1, 2, 3, 4)
    )
    assert result.neighbours.tolist() == [[1, 2, 3, 0]]
    assert np.all(np.diff(result.similarity[0]) <= 0)
    assert result.hits == {1: 0.0, 2: 1.0, 3: 1.0, 4: 1.0}


def test_a_k_beyond_the_gallery_is_reported_as_absent():
    result = retrieve(*draw(10, 12))
    assert result.hits[10] is not None
    assert result.hits[20] is None
    assert result.hits[50] is None
    assert result.neighbours.shape == (10, 12)


def test_chance_is_the_share_of_random_rankings_that_hit():
    _, query_labels, _, gallery_labels = draw(6, 12)
    rng = np.random.default_rng(5)
    noise = [rng.normal(size=(n, 8)).astype(np.float32) for n in (6, 12)]
    chance = retrieve(noise[0], query_labels, noise[1], gallery_labels, ks=(1, 3)).chance
    for k in (1, 3):
        drawn = np.stack([rng.permutation(12)[:k] for _ in range(4000)])
        share = np.mean([(gallery_labels[drawn] == label).any(axis=1).mean() for label in query_labels])
        assert chance[k] == pytest.approx(share, abs=0.02)


def test_chunks_do_not_change_the_result(monkeypatch):
    data = draw(50, 33)
    whole = retrieve(*data)
    monkeypatch.setattr("trainer.evaluation.retrieval._CHUNK", 7)
    assert np.array_equal(whole.neighbours, retrieve(*data).neighbours)


def test_per_class_hits_average_to_hit_at_1():
    data = draw(60, 90)
    result = retrieve(*data)
    counts = np.bincount(data[1])
    total = sum(result.per_class[c] * n for c, n in enumerate(counts) if n)
    assert total / 60 == pytest.approx(result.hits[1])


def test_a_feature_of_zeros_is_counted():
    queries, query_labels, gallery, gallery_labels = draw(5, 9)
    queries[2] = 0
    assert retrieve(queries, query_labels, gallery, gallery_labels).queries == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda q, ql, g, gl: (q, np.where(np.arange(5) == 1, -1, ql), g, gl),
            "1 of 5 query videos have no label",
        ),
        (lambda q, ql, g, gl: (q, ql, g[:0], gl[:0]), "no gallery video"),
        (lambda q, ql, g, gl: (q * np.nan, ql, g, gl), "not finite"),
        (lambda q, ql, g, gl: (q, ql, g[:, :3], gl), "12 numbers"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(UserError, match=message):
        retrieve(*change(*draw(5, 9)))


def test_k_must_be_positive():
    with pytest.raises(UserError, match="at least 1"):
        retrieve(*draw(5, 9), ks=(0, 1))
