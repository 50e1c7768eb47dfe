"""Where captions come from: the sample table, or a text column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shards.dataset import Dataset
from shards.derived import stale_column
from shards.errors import UserError
from shards.mixture import Mixture
from trainer.data.jobs import parts_of

if TYPE_CHECKING:
    from shards.order import IntArray

TABLE = "table"
_SHOWN = 3  # keys in messages

Texts = list[tuple[str, ...]]


def read_captions(dataset: Dataset | Mixture, source: str) -> Texts:
    """Captions of all N samples, each on one line; the same ones from either place where they hold the same.

    Args:
        source: "table", or the name of a text column, which every part of a mixture must have.

    Raises:
        UserError: there is no such column, or it holds no text.
        DataError: its bytes are damaged.
    """
    found: Texts = []
    for part in parts_of(dataset):
        column = None if source == TABLE else source
        opened = part if column is None else part.with_columns((*part.columns, column))
        found += opened.captions(range(len(opened)), column=column)
    return found


def check_captions(dataset: Dataset | Mixture, source: str, captions: Texts, samples: IntArray) -> None:
    """Raises UserError: some of these samples have no caption; names them, and the commands that help."""
    missing = np.array([int(i) for i in samples if not captions[i]], np.int64)
    if not len(missing):
        return
    told, commands, first = [], [], 0
    for part in parts_of(dataset):
        its = missing[(missing >= first) & (missing < first + len(part))] - first
        of = int(np.count_nonzero((samples >= first) & (samples < first + len(part))))
        first += len(part)
        if len(its):
            told.append(f"{len(its)} of {of} samples have no caption, such as {_keys(part, its)} of {part.url}")
            make = "" if source == TABLE else f" and vidprep text {part.url} --column {source}"
            commands.append(f"vidprep annotate {part.url} FILE{make}")
    where = "" if source == TABLE else f" (task.captions={source})"
    raise UserError(
        f"{'; '.join(told)}: the task cpd learns from captions{where}. Add them with {', '.join(commands)}, or leave "
        "these samples out with --keep FILE, a key of the others a line"
    )


def stale_captions(dataset: Dataset | Mixture, source: str) -> tuple[str, ...]:
    """What to tell where a text column holds other captions than the sample table."""
    if source == TABLE:
        return ()
    found = [(part.url, stale_column(part.storage, part.meta, source)) for part in parts_of(dataset)]
    return tuple(f"{url}: {told}" for url, told in found if told is not None)


def _keys(part: Dataset, numbers: IntArray) -> str:
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(part.key(int(i)) for i in numbers[:_SHOWN]) + more
