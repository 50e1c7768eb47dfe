"""What a recipe describes, built: the task around its backbone, and the loader of its batches."""

from __future__ import annotations

from shards.dataset import Dataset
from shards.mixture import Mixture
from shards.order import IntArray
from trainer.config import Recipe
from trainer.data.loader import Loader
from trainer.engine.distributed import Ranks
from trainer.models import build_backbone
from trainer.tasks import Task, build_task


def task_of(recipe: Recipe, dataset: Dataset | Mixture) -> Task:
    """The recipe's task on the CPU, with fresh weights from torch's generator."""
    return build_task(
        recipe.task.name,
        backbone=build_backbone(recipe.backbone.name, **recipe.backbone.options),
        data=recipe.data,
        options=recipe.task.options,
        classes=dataset.classes,
    )


def loader_of(
    recipe: Recipe, dataset: Dataset | Mixture, task: Task, ranks: Ranks, *, samples: IntArray | None = None
) -> Loader:
    """This rank's share of the recipe's batches; `samples` in place of the recipe's selection."""
    data, train = recipe.data, recipe.train
    return Loader(
        dataset,
        task.specs,
        batch=train.batch,
        seed=train.seed,
        repeats=data.repeats,
        shuffle=data.shuffle,
        clips_per_read=data.clips_per_read,
        split=data.split,
        keep=data.keep,
        samples=samples,
        rank=ranks.rank,
        world=ranks.world,
        workers=data.workers,
        threads=data.threads or ranks.share_of_cores(data.workers),
    )


def held_out(dataset: Dataset | Mixture, split: str) -> IntArray:
    """Numbers of the samples of a split to validate on; of a mixture those of the data sets that have it."""
    return dataset.select(split=split) if isinstance(dataset, Dataset) else dataset.select(split=split, every=False)
