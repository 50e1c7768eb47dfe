"""Which new shard the verdicts on videos go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from shards.ops.parts import Part
from shards.receipts import Verdict, read_receipts


def verdicts_by_shard(parts: Sequence[Part], column: str, shards: npt.NDArray[np.int64]) -> dict[int, list[Verdict]]:
    """The verdicts of a column, by new shard.

    A verdict goes where the first copied sample of its video goes. One on a video that has no sample goes to the shard
    of its old neighbours where all of a data set is copied, and is dropped where a part of it is.

    Args:
        shards: (n,) new shard of every copied sample, all parts one after the other.
    """
    found: dict[int, list[Verdict]] = {}
    first = 0
    for part in parts:
        its = shards[first : first + len(part.numbers)]
        first += len(part.numbers)
        if not len(its):
            continue
        judged = [
            (receipt.shard, verdict)
            for receipt in read_receipts(part.storage, part.meta.columns[column].folder)
            for verdict in receipt.verdicts
        ]
        places = _places(part, {verdict.key for _, verdict in judged})
        for old, verdict in judged:
            place = places.get(verdict.key)
            if place is None:
                if not part.whole:
                    continue
                place = min(int(np.searchsorted(part.shards, old)), len(its) - 1)
            found.setdefault(int(its[place]), []).append(replace(verdict, key=part.prefix + verdict.key))
    return found


def _places(part: Part, keys: set[str]) -> dict[str, int]:
    """Place among the copied samples of the first one of each of these samples or videos."""
    places: dict[str, int] = {}
    if not keys:
        return places
    for place, i in enumerate(part.numbers.tolist()):
        row = part.dataset.table.row(i)
        for key in (row.key, row.video):
            if key in keys and key is not None:
                places.setdefault(key, place)
    return places
