"""`vidprep evaluate finetune`: train a classifier on a backbone with the engine, then test it on whole videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.dataset import Dataset, open_dataset
from trainer.engine import RunResult, train
from trainer.engine.distributed import open_ranks
from trainer.evaluation.predict import Fusion, load_classifier, predict, summarise, write_predictions
from trainer.evaluation.subject import (
    FOLDER,
    Init,
    Subject,
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
from trainer.evaluation.views import VIEWS, Progress, view_spec


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """How a fine-tuning ended.

    Attributes:
        training: the engine's result; its `run` is the folder of the fine-tuned network.
        result: the numbers; None when training was stopped before its end.
        path: the JSON file that holds them.
    """

    training: RunResult
    result: dict[str, Any] | None = None
    path: Path | None = None


def evaluate_finetuning(
    source: str | Path,
    data: str | Path,
    *,
    test_data: str | Path | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    val_split: str | None = None,
    init: Init = "pretrained",
    views: int = VIEWS,
    fusion: Fusion = "probabilities",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    max_time: float | str | None = None,
    batch: int = 4,
    command: str | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    progress: Progress | None = None,
) -> Finetuning:
    """Fine-tune all layers on the training split with a fresh linear classifier, then classify the test videos.

    The tested network is the last checkpoint; test videos select nothing. With `val_split`, the checkpoint that was
    best on it is tested as well and reported beside it (reference/evaluation.md section 11.1).

    Args:
        source, init, recipe, overrides, out: as for `trainer.evaluation.subject.resolve`.
        data: data set to train on, and to test on unless `test_data` is given; classes are matched by name.
        train_split: default "train". test_split: default "test", else "val".
        views, fusion, batch: of the test; see `predict`.
        seed: of the recipe's `train.seed`: initial weights, order, clips.
        resume: go on with an interrupted fine-tuning; one that is complete is only tested again.
        max_time: as for `trainer.engine.train`.
        command: the command line, for the record.

    Raises:
        UserError: unknown split or class, splits with common videos, an existing fine-tuning without `resume`, …
    """
    dataset = open_dataset(data)
    test_set = dataset if test_data is None else open_dataset(test_data)
    train_split = choose_split(dataset, train_split, ("train",), option="--train-split")
    test_split = choose_split(test_set, test_split, ("test", "val"), option="--test-split")
    if val_split is not None:
        choose_split(dataset, val_split, (), option="--val-split")
        refuse_overlap(dataset, train_split, val_split)
    for split in (train_split, *([val_split] if val_split is not None else [])):
        if test_set.url == dataset.url:
            refuse_overlap(dataset, split, test_split)
    check_labelled(test_set, test_split)
    training: dict[str, Any] = {} if seed is None else {"seed": seed}
    if val_split is not None:
        training["validation"] = {"split": val_split}
    subject = resolve(
        str(source),
        init=init,
        recipe=recipe,
        overrides=overrides,
        out=out,
        data={"split": train_split},
        train=training,
    )
    dataset, test_set = (it.with_columns((subject.data.column,)) for it in (dataset, test_set))
    variant = ", ".join([*([f"{views} clips"] if views != VIEWS else []), *(["logits"] if fusion == "logits" else [])])
    fresh = "random" if subject.init == "random" else ""
    run = subject.folder / FOLDER / stem("finetune", dataset, train_split, fresh)
    with open_ranks(device) as ranks:
        trained = train(
            subject.recipe,
            dataset.url,
            out=run,
            resume=resume,
            init=subject.weights,
            device=device,
            max_time=max_time,
            on_event=on_event,
        )
        if not trained.finished:
            return Finetuning(training=trained)
        found = {}
        for which in ("last", "best") if val_split is not None else ("last",):
            predictions = predict(
                load_classifier(run, which),
                test_set,
                test_set.select(split=test_split),
                view_spec(subject.data, views=views),
                ranks=ranks,
                fusion=fusion,
                batch=batch,
                workers=subject.data.workers,
                progress=progress,
            )
            found[which] = summarise(predictions)
            file = run / f"predictions-{which}.csv"
            ranks.on_main(lambda file=file, of=predictions: write_predictions(file, of))  # type: ignore[misc]
        described = _describe(subject, dataset, test_set, predictions.classes, found)
        described |= {
            "variant": variant,
            "train_split": train_split,
            "test_split": test_split,
            "val_split": val_split,
            "views": views,
            "fusion": fusion,
            "videos": len(predictions.keys),
            "run": run.name,
            "steps": trained.total,
            "notes": [*left_out(dataset, train_split), *left_out(test_set, test_split)],
        }
        name = stem("finetune", dataset, train_split, fresh, variant)
        full = complete(subject, "finetune", described, device=ranks.device, command=command)
        path = ranks.on_main(lambda: write_result(subject, name, full))
    return Finetuning(training=trained, result=full, path=path)


def _describe(
    subject: Subject, dataset: Dataset, test_set: Dataset, classes: tuple[str, ...], found: dict[str, Any]
) -> dict[str, Any]:
    return {
        "data": describe(test_set),
        "train_data": describe(dataset),
        "recipe": subject.recipe.name,
        "seed": subject.recipe.train.seed,
        "classes": list(classes),
        "chance": 1 / len(classes),
        "results": found,
    }
