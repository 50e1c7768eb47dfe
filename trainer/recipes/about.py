"""What a recipe file tells about itself besides the values of the run: where it is from, how its data are prepared,
what was published. Torch-free; nothing here changes a run.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from trainer.recipes.files import Tree
from trainer.strict import Strict

_METHOD = ("paper", "code", "prepare", "gpus", "samples")
"""What a file that `extends` another one of the same task takes over; the rest is of one network and its settings."""


class Published(Strict):
    """A published result of the network that a recipe trains.

    Args:
        dataset: that was tested on.
        metric: what was done with the pretrained network.
        top: k of top-k accuracies.
        value: in per cent, one for each of `top`.
        source: where the number was read.
        when: what else has to be known, such as other epochs than the recipe's.
    """

    dataset: str
    metric: Literal["fine-tuning", "linear probe", "retrieval"]
    top: tuple[int, ...] = (1,)
    value: tuple[float, ...]
    source: str
    when: str = ""

    @field_validator("top", "value", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _pairs(self) -> Published:
        if len(self.top) != len(self.value) or not self.top:
            raise ValueError(
                f"top has {len(self.top)} numbers and value {len(self.value)}; one value for each is needed"
            )
        if not all(0 <= value <= 100 for value in self.value):
            raise ValueError(f"value is {list(self.value)}; per cents, 0 to 100, are needed")
        return self


class About(Strict):
    """The section `about` of a recipe file. All of it may be left out.

    A file that `extends` another one of the same task takes over paper, code, prepare, gpus and samples; the rest is
    of the file's own network and settings.

    Args:
        paper: that the method comes from.
        code: repository and commit of the reference.
        command: its command or configuration file that this recipe is.
        prepare: commands that make the data set that the recipe trains on.
        run: commands that use the recipe, where that is not `vidprep train`.
        literal: commands that come nearest to the reference, errors included.
        gpus: that the batch is shared out to, in the reference where that is known; `memory_gb` is of one of them.
        samples: videos of the training set in the reference, where memory depends on it.
        memory_gb: estimate of `trainer.engine.memory` for the recipe's batch on so many GPUs, 10⁹ bytes.
        published: results, the one to be shown first at the beginning.
        notes: further sentences.
    """

    paper: str = ""
    code: str = ""
    command: str = ""
    prepare: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    literal: tuple[str, ...] = ()
    gpus: int = Field(default=1, ge=1)
    samples: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    def commands(self, name: str) -> tuple[str, ...]:
        """Commands that use the recipe of that name."""
        many = f" --gpus {self.gpus}" if self.gpus > 1 else ""
        return self.run or (f"vidprep train {name} --data DATA --split train{many}",)


def inherited(about: Tree) -> Tree:
    """What a file that extends another one takes over of its section."""
    return {key: value for key, value in about.items() if key in _METHOD}
