"""What a recipe describes, built: the task around its backbone, and the loader of its batches."""

from __future__ import annotations

from shards.dataset import Dataset
from shards.order import IntArray
from trainer.config import Recipe
from trainer.data.loader import Loader
from trainer.engine.distributed import Ranks
from trainer.models import build_backbone
from trainer.tasks import Task, build_task


def task_of(recipe: Recipe, dataset: Dataset) -> Task:
    """The recipe's task on the CPU, with fresh weights from torch's generator."""
    return build_task(
        recipe.task.name,
        backbone=build_backbone(recipe.backbone.name, **recipe.backbone.options),
        data=recipe.data,
        options=recipe.task.options,
        classes=dataset.classes,
    )


def loader_of(recipe: Recipe, dataset: Dataset, task: Task, ranks: Ranks, *, samples: IntArray | None = None) -> Loader:
    """This rank's share of the recipe's batches; `samples` in place of the recipe's selection."""
    data, train = recipe.data, recipe.train
    return Loader(
        dataset,
        task.spec,
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
