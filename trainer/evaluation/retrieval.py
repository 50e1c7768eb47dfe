"""`vidprep evaluate retrieve`: how often the nearest training videos of a test video are of its class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.dataset import Dataset, open_dataset
from trainer.engine.distributed import open_ranks
from trainer.evaluation.features import Pooling, extract
from trainer.evaluation.nearest import TOP_K, Retrieval, retrieve
from trainer.evaluation.scores import match_classes
from trainer.evaluation.subject import (
    FOLDER,
    Init,
    check_labelled,
    choose_split,
    complete,
    describe,
    left_out,
    refuse_overlap,
    resolve,
    stem,
    write_result,
)
from trainer.evaluation.views import VIEWS, IntArray, Progress, Videos, view_spec

EXAMPLES, NEIGHBOURS = 8, 5


def evaluate_retrieval(
    source: str | Path,
    data: str | Path,
    *,
    gallery_data: str | Path | None = None,
    query_split: str | None = None,
    gallery_split: str | None = None,
    init: Init = "pretrained",
    views: int = VIEWS,
    pooling: Pooling = "avg",
    center: bool = False,
    ks: Sequence[int] = TOP_K,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    batch: int = 4,
    command: str | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Path]:
    """Nearest-neighbour retrieval (reference/evaluation.md section 5), without any training.

    Every video is the mean feature of `views` clips; queries are the test videos, the gallery all training videos.

    Args:
        source, init, recipe, overrides, out: as for `trainer.evaluation.subject.resolve`.
        data: data set of the queries, and of the gallery unless `gallery_data` is given; classes are matched by name.
        query_split: default "test", else "val". gallery_split: default "train".
        pooling, center: variants; see `extract` and `retrieve`.
        seed: draws the weights with `init="random"`.
        batch: videos at a time and process.
        command: the command line, for the record.

    Returns:
        The result and the JSON file that holds it.

    Raises:
        UserError: unknown split or class, unlabelled videos, splits with common videos, …
    """
    subject = resolve(str(source), init=init, recipe=recipe, overrides=overrides, out=out)
    spec = view_spec(subject.data, views=views)
    dataset = open_dataset(data, columns=spec.columns)
    gallery = dataset if gallery_data is None else open_dataset(gallery_data, columns=spec.columns)
    query_split = choose_split(dataset, query_split, ("test", "val"), option="--test-split")
    gallery_split = choose_split(gallery, gallery_split, ("train",), option="--train-split")
    if gallery.url == dataset.url:
        refuse_overlap(dataset, query_split, gallery_split)
    check_labelled(dataset, query_split)
    check_labelled(gallery, gallery_split)
    with open_ranks(device) as ranks:
        backbone = subject.backbone(seed=seed)
        cache = subject.folder / FOLDER / "features"

        def features(of: Dataset, split: str) -> Videos:
            samples = of.select(split=split)
            return extract(
                backbone,
                of,
                samples,
                spec,
                ranks=ranks,
                pooling=pooling,
                batch=batch,
                workers=subject.data.workers,
                cache=cache,
                progress=progress,
            )

        found, rows = features(dataset, query_split), features(gallery, gallery_split)
        labels = match_classes(
            gallery.classes, dataset.classes, found.labels, where=dataset.url, knows=f"the gallery {gallery.url}"
        )
        result = retrieve(found.values, labels, rows.values, rows.labels, ks=ks, center=center)
        described = {
            **_protocol(dataset, gallery, views=views, pooling=pooling, center=center),
            "query_split": query_split,
            "gallery_split": gallery_split,
            "seed": seed if subject.init == "random" else None,
            **_numbers(result, gallery.classes),
            "notes": [
                *_notes(dataset, found, gallery, rows, result, labels),
                *left_out(dataset, query_split),
                *left_out(gallery, gallery_split),
            ],
            "examples": _examples(dataset, found, gallery, rows, result, labels),
        }
        fresh = "random" if subject.init == "random" else ""
        name = stem("retrieve", dataset, query_split, fresh, described["variant"])
        full = complete(subject, "retrieve", described, device=ranks.device, command=command)
        path = ranks.on_main(lambda: write_result(subject, name, full))
    return full, path


def _protocol(dataset: Dataset, gallery: Dataset, *, views: int, pooling: Pooling, center: bool) -> dict[str, Any]:
    """The settings; `variant` names those that differ from the usual protocol."""
    unusual = {
        f"in {gallery.meta.name}": gallery.url != dataset.url,
        "max pooling": pooling == "max",
        "centred": center,
        f"{views} clips": views != VIEWS,
    }
    return {
        "variant": ", ".join(name for name, used in unusual.items() if used),
        "data": describe(dataset),
        "gallery_data": describe(gallery),
        "views": views,
        "pooling": pooling,
        "center": center,
    }


def _numbers(result: Retrieval, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "queries": result.queries,
        "gallery": result.gallery,
        "hits": {str(k): hit for k, hit in result.hits.items()},
        "chance": {str(k): hit for k, hit in result.chance.items()},
        "per_class": {classes[c]: share for c, share in result.per_class.items()},
    }


def _notes(
    dataset: Dataset, queries: Videos, gallery: Dataset, rows: Videos, result: Retrieval, labels: IntArray
) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    beyond = [k for k, hit in result.hits.items() if hit is None]
    if beyond:
        notes.append(f"No top {', '.join(map(str, beyond))}: the gallery has {result.gallery} videos.")
    if gallery.url == dataset.url:
        shared = np.isin(queries.groups, rows.groups[rows.groups >= 0])
        if shared.any():
            notes.append(
                f"{int(shared.sum())} of {len(queries)} queries come from a source video (group) that is in the "
                "gallery too, so the numbers are too good."
            )
    absent = sorted({gallery.classes[c] for c in np.setdiff1d(labels, rows.labels)})
    if absent:
        notes.append(f"Queries of these classes cannot hit, since the gallery has none: {', '.join(absent)}.")
    return notes


def _examples(
    dataset: Dataset, queries: Videos, gallery: Dataset, rows: Videos, result: Retrieval, labels: IntArray
) -> list[dict[str, Any]]:
    """The first query of each class, then the second ones, …, with their nearest videos."""
    turn = np.zeros(len(labels), np.int64)
    for number in np.unique(labels):
        same = np.flatnonzero(labels == number)
        turn[same] = np.arange(len(same))

    def shown(of: Dataset, videos: Videos, place: int, label: int) -> dict[str, Any]:
        sample = of.key(int(videos.samples[place]))
        return {"key": videos.keys[place], "sample": sample, "label": gallery.classes[label]}

    return [
        {
            "query": shown(dataset, queries, int(q), int(labels[q])),
            "neighbours": [
                {**shown(gallery, rows, int(g), int(rows.labels[g])), "similarity": round(float(cosine), 4)}
                for g, cosine in zip(result.neighbours[q, :NEIGHBOURS], result.similarity[q, :NEIGHBOURS], strict=True)
            ],
        }
        for q in np.lexsort((labels, turn))[:EXAMPLES]
    ]
