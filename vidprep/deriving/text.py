"""The text column: the captions of the sample table, packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from shards import captions
from shards.dataset import Dataset
from vidprep.deriving.work import BadSample, Made


@dataclass(frozen=True, kw_only=True)
class TextMaker:
    """How a text column is made: `KEY.txt` has a sample's captions, one a line.

    A sample without caption has nothing in the column, as one without flow has nothing in a flow column: data sets of
    which a part has captions are usual, and selections of the column leave the others out.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> str:
        return "text"

    @property
    def sources(self) -> tuple[str, ...]:
        return (captions.SOURCE,)

    def parameters(self) -> dict[str, Any]:
        return {"line_breaks": "space"}

    def make(self, dataset: Dataset, i: int, told: Callable[[int], None]) -> Made:
        payload = captions.encode(dataset.table.captions(i))
        if not payload:
            raise BadSample("no-caption", "it has no caption; vidprep annotate DEST FILE gives it one")
        return Made(payload=payload)
