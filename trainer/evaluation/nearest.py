"""Nearest-neighbour search: Hit@k of query videos in gallery videos.

The clip-order-prediction protocol that pace prediction and RSPNet report (reference/evaluation.md section 5):
a query hits at k when at least one of its k nearest gallery videos, by cosine similarity, has its class;
averaged over queries.

Letters: Q queries, G gallery videos, D features, K the largest k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.errors import UserError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TOP_K = (1, 5, 10, 20, 50)
_CHUNK = 1024  # queries whose similarities are held at once: 1 GB for a gallery of 240,000


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Result of `retrieve`.

    Attributes:
        hits: k → share of queries that hit, in [0, 1]; None where k exceeds the gallery, since Hit@k would
            then say only which classes the gallery has.
        chance: the same for neighbours drawn at random: mean over queries of 1 − C(G − n, k) / C(G, k), where n
            gallery videos have the query's class.
        per_class: Hit@1 of each query class present, by class number.
        neighbours: (Q, min(K, G)) int64, gallery rows by falling similarity; ties go to the lower row.
        similarity: (Q, min(K, G)) float32, cosines of `neighbours`.
        queries, gallery: how many of each.
    """

    hits: dict[int, float | None]
    chance: dict[int, float | None]
    per_class: dict[int, float]
    neighbours: IntArray
    similarity: FloatArray
    queries: int
    gallery: int


def retrieve(
    queries_QD: FloatArray,
    query_labels: IntArray,
    gallery_GD: FloatArray,
    gallery_labels: IntArray,
    *,
    ks: Sequence[int] = TOP_K,
    center: bool = False,
) -> Retrieval:
    """Search every query in the whole gallery.

    Args:
        queries_QD, gallery_GD: one feature vector per video; no normalisation is expected.
        query_labels, gallery_labels: class numbers of one common class table, all >= 0.
        ks: for which k to report Hit@k.
        center: subtract from each set its own mean before normalising (CoCLR's variant).

    Raises:
        UserError: an empty set, unequal lengths, an unlabelled video, a k below 1, or a feature that is not
            finite.
    """
    if not ks or min(ks) < 1:
        raise UserError(f"k is {list(ks)}; every k must be at least 1")
    queries = _unit(queries_QD, query_labels, "query", center=center)
    gallery = _unit(gallery_GD, gallery_labels, "gallery", center=center)
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(f"query features have {queries.shape[1]} numbers, gallery ones {gallery.shape[1]}")
    depth = min(max(ks), len(gallery))
    found = [_nearest(queries[at : at + _CHUNK] @ gallery.T, depth) for at in range(0, len(queries), _CHUNK)]
    neighbours = np.concatenate([rows for rows, _ in found])
    right = gallery_labels[neighbours] == query_labels[:, None]
    same_class = np.bincount(gallery_labels, minlength=int(query_labels.max()) + 1)[query_labels]
    return Retrieval(
        hits={k: float(right[:, :k].any(axis=1).mean()) if k <= len(gallery) else None for k in ks},
        chance={k: _chance(same_class, len(gallery), k) if k <= len(gallery) else None for k in ks},
        per_class={int(c): float(right[query_labels == c, 0].mean()) for c in np.unique(query_labels)},
        neighbours=neighbours,
        similarity=np.concatenate([cosines for _, cosines in found]),
        queries=len(queries),
        gallery=len(gallery),
    )


def _chance(same_class: IntArray, gallery: int, k: int) -> float:
    drawn = np.arange(k)
    miss = np.maximum(0, gallery - same_class[:, None] - drawn) / (gallery - drawn)
    return float((1 - miss.prod(axis=1)).mean())


def _unit(features: FloatArray, labels: IntArray, name: str, *, center: bool) -> FloatArray:
    if len(features) == 0:
        raise UserError(f"there is no {name} video; choose another split")
    if features.ndim != 2 or labels.shape != (len(features),):
        raise UserError(f"{name} features of shape {features.shape} do not fit {labels.shape} labels")
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        raise UserError(
            f"{unlabelled} of {len(labels)} {name} videos have no label; give them one with vidprep annotate "
            "or a split without them"
        )
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(axis=1)).sum())
        raise UserError(f"the features of {bad} {name} videos are not finite: broken weights, most likely")
    if center:
        features = features - features.mean(axis=0)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    # A feature of zeros has no direction: it stays zero, is similar to nothing, and is still counted.
    return np.asarray(features / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def _nearest(similarity: FloatArray, depth: int) -> tuple[IntArray, FloatArray]:
    """Columns of the `depth` largest values of each row in falling order, and those values."""
    total = similarity.shape[1]
    if depth < total:
        candidates = np.sort(np.argpartition(-similarity, depth - 1, axis=1)[:, :depth], axis=1)
    else:
        candidates = np.broadcast_to(np.arange(total), similarity.shape)
    values = np.take_along_axis(similarity, candidates, axis=1)
    by_rank = np.argsort(-values, axis=1, kind="stable")
    rows = np.take_along_axis(candidates, by_rank, axis=1).astype(np.int64)
    return rows, np.take_along_axis(values, by_rank, axis=1)
