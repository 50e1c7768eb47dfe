"""A forecast of a training run from a recipe, or from what its clips are like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shards.dataset import Dataset
from shards.mixture import Mixture, open_data
from shards.spec import ClipSpec
from trainer.config import load_recipe
from trainer.data.forecast import Forecast, forecast
from trainer.data.shard_use import Cluster


def simulate(
    data: str | Path | Sequence[str | Path],
    cluster: Cluster,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    frames: int = 16,
    strides: tuple[int, ...] = (1,),
    clips: int = 1,
    column: str = "rgb",
    **options: Any,
) -> Forecast:
    """What a training run will read; opens the data and looks at its indexes.

    Args:
        data: as for `shards.mixture.open_data`.
        recipe: its task's clips are counted, and its batch, seed and data options hold; overrides as for
            `trainer.config.load_recipe`. None: clips of `frames`, `strides`, `clips` and `column`.
        options: of `trainer.data.forecast.forecast`; None leaves one to the recipe, or to its default.

    Raises:
        UserError: as `forecast` and `load_recipe`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if recipe is None:
        # How large the crop is makes no difference to what is read; one pixel fits into all frames.
        spec = ClipSpec(column=column, frames=frames, strides=strides, clips=clips, crop=1)
        return forecast(open_data(data, columns=spec.columns), spec, cluster, **{"batch": 32, **given})
    resolved = load_recipe(recipe, overrides)
    names = ("repeats", "split", "keep", "shuffle", "clips_per_read")
    known = {name: getattr(resolved.data, name) for name in names}
    known |= {"batch": resolved.train.batch, "seed": resolved.train.seed}
    opened = open_data(data)
    return forecast(opened, _specs(resolved, opened), cluster, **{**known, **given})


def _specs(recipe: Any, data: Dataset | Mixture) -> tuple[ClipSpec, ...]:
    from trainer.engine.build import task_of  # noqa: PLC0415 (it imports torch)

    return task_of(recipe, data).specs
