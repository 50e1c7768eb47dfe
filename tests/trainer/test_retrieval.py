"""Retrieval equals a slow literal search."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from shards.dataset import open_dataset
from shards.errors import UserError
from tests.trainer.evaluation_runs import SIZES, TINY, write_tiny_weights
from trainer.api import load_backbone
from trainer.config import DataConfig
from trainer.engine.distributed import Ranks
from trainer.evaluation.features import extract
from trainer.evaluation.nearest import TOP_K, retrieve
from trainer.evaluation.retrieval import evaluate_retrieval
from trainer.evaluation.views import view_spec


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
    result = retrieve(np.array([[3, 0]], np.float32), np.array([0]), gallery, np.array([1, 1, 0, 0]), ks=(1, 2, 3, 4))
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
    monkeypatch.setattr("trainer.evaluation.nearest._CHUNK", 7)
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


def test_retrieval_of_a_packed_data_set_equals_the_literal_one(tiny_dataset, tmp_path):
    url = tiny_dataset(samples=15)
    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    out = tmp_path / "out"
    result, path = evaluate_retrieval(weights, url, overrides=SIZES, ks=(1, 3, 50), views=2, out=out, device="cpu")
    dataset = open_dataset(url)
    test, train = dataset.select(split="test"), dataset.select(split="train")
    backbone = load_backbone(weights)
    spec = view_spec(DataConfig(frames=4, resize=(20, 24), crop=16), views=2)
    ranks = Ranks(0, 1, torch.device("cpu"))
    queries, gallery = (extract(backbone, dataset, s, spec, ranks=ranks, workers=0).values for s in (test, train))
    for k in (1, 3):
        assert result["hits"][str(k)] == literal(queries, dataset.labels[test], gallery, dataset.labels[train], k)
    assert result["hits"]["50"] is None
    assert (result["queries"], result["gallery"]) == (3, 12)
    assert path == out / "evaluation" / "retrieve-tiny-test-2_clips.json"
    written = json.loads(path.read_text())
    assert written["hits"] == result["hits"]
    assert written["init"] == "pretrained"
    assert written["backbone"] == TINY
    assert {"torch", "numpy"} <= set(written["versions"])
    assert "No top 50: the gallery has 12 videos." in written["notes"]
    assert any("come from a source video (group)" in note for note in written["notes"])
    query = written["examples"][0]
    assert query["query"]["key"] in {dataset[int(i)].key for i in test}
    assert len(query["neighbours"]) == 5


def test_random_weights_are_drawn_from_the_seed(tiny_dataset, tmp_path):
    url = tiny_dataset(samples=10)
    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    options = {"overrides": SIZES, "views": 1, "device": "cpu"}

    def cosines(source, folder, **more):
        result, path = evaluate_retrieval(source, url, out=tmp_path / folder, **options, **more)
        return [n["similarity"] for e in result["examples"] for n in e["neighbours"]], path

    own, path = cosines(weights, "a")
    fresh, fresh_path = cosines(weights, "a", init="random", seed=3)
    assert fresh_path.stem == f"{path.stem.removesuffix('-1_clips')}-random-1_clips"
    assert cosines(weights, "b", init="random", seed=3)[0] == fresh
    assert cosines(weights, "b", init="random", seed=4)[0] != fresh != own
    assert cosines(f"random:{TINY}", "c", seed=3)[0] == fresh


def test_classes_of_two_data_sets_are_matched_by_name(tiny_dataset, tmp_path):
    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    query = tiny_dataset(samples=10, classes=("walk", "run"))
    gallery = tiny_dataset(samples=10, classes=("jump", "run", "walk"))
    options = {"overrides": SIZES, "views": 1, "out": tmp_path / "out", "device": "cpu"}
    result, _ = evaluate_retrieval(weights, query, gallery_data=gallery, **options)
    assert set(result["per_class"]) <= {"walk", "run"}
    for example in result["examples"]:
        number = int(example["query"]["key"][-3:])
        assert example["query"]["label"] == ("walk", "run")[number % 2]
        assert all(n["label"] == ("jump", "run", "walk")[int(n["key"][-3:]) % 3] for n in example["neighbours"])
    with pytest.raises(UserError, match="does not know: 'jump'"):
        evaluate_retrieval(weights, gallery, gallery_data=query, **options)


def test_splits_are_checked(tiny_dataset, tmp_path):
    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    url = tiny_dataset(samples=10)
    options = {"overrides": SIZES, "out": tmp_path / "out", "device": "cpu"}
    with pytest.raises(UserError, match=r"no split 'valid'; it has: test, train\. Choose one with --test-split"):
        evaluate_retrieval(weights, url, query_split="valid", **options)
    with pytest.raises(UserError, match="8 samples are in both splits 'train' and 'train'"):
        evaluate_retrieval(weights, url, query_split="train", **options)
    unlabelled = tiny_dataset(samples=10, classes=())
    with pytest.raises(UserError, match="2 of 2 samples of split 'test' have no label"):
        evaluate_retrieval(weights, unlabelled, **options)
    with pytest.raises(UserError, match="no run folder or weights file"):
        evaluate_retrieval(tmp_path / "nothing", url, **options)
