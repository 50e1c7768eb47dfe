"""From the indexes of all tars to a data set that the trainer opens."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from shards import captions as texts
from shards.errors import DataError, UserError
from shards.finalize import Finished, common_parameters, join, put_in_force
from shards.foreign import Tars, split_url
from shards.index import ShardIndex, build_index, parse_idx
from shards.meta import ColumnMeta, Meta
from shards.receipts import read_receipt, stem
from shards.samples import SampleRow
from shards.storage import Storage
from vidprep.foreign.shards import FOLDER

PRODUCER = "vidprep index-shards"
_AGAIN = f"run the same {PRODUCER} command again"

Splits = Sequence[tuple[str, str]]
"""(name of a split, pattern of names of tars)."""


def finish(storage: Storage, tars: Tars, *, name: str, splits: Splits, classes: Sequence[str] | None) -> Meta:
    """Write index.bin, the sample table and dataset.json. What was annotated meanwhile stays.

    Raises:
        UserError: no tar has a sample, or a label is not in `classes`.
        DataError: the files of a shard do not belong together.
    """
    shards = [_load(storage, shard) for shard in range(len(tars.names))]
    samples, records = join(shards)
    if not len(samples):
        bad = Counter(it.code for shard in shards for it in shard.receipt.verdicts if it.level == "bad")
        counts = ", ".join(f"{count} {code}" for code, count in bad.most_common()) or "they hold no video and no JPEG"
        raise UserError(
            f"none of the {len(shards)} tars has a usable sample ({counts}); see vidprep index-shards --help"
        )
    rows = [row for shard, it in enumerate(shards) for row in _rows(storage, tars, shard, it.index, splits)]
    rows, names = _labelled(rows, classes)
    parameters = common_parameters(storage, shards, again=_AGAIN)
    column = ColumnMeta(kind=str(parameters["kind"]), folder=FOLDER, producer=PRODUCER, parameters=parameters)
    meta = Meta(
        name=name,
        columns={FOLDER: column},
        size={"short_side": _usual_side(samples)},
        classes=names,
        splits=tuple(sorted({split for row in rows for split in row.splits})),
        samples=len(samples),
        shards=len(shards),
    )
    return put_in_force(storage, meta, build_index(samples, records), rows)


def read_shard(storage: Storage, shard: int) -> ShardIndex:
    """The index of a finished tar. Raises DataError, StorageError."""
    name = f"{stem(FOLDER, shard)}.idx"
    return parse_idx(np.frombuffer(storage.read(name), np.uint8), f"{storage.url}/{name}")


def _load(storage: Storage, shard: int) -> Finished:
    receipt, data = read_receipt(storage, FOLDER, shard), storage.read(f"{stem(FOLDER, shard)}.idx")
    name = f"{storage.url}/{stem(FOLDER, shard)}"
    if hashlib.sha256(data).hexdigest() != receipt.idx_sha256:
        raise DataError(f"{name}.idx is not the one its receipt describes; remove {name}.json and {_AGAIN}")
    return Finished(receipt, parse_idx(np.frombuffer(data, np.uint8), f"{name}.idx"))


def _rows(storage: Storage, tars: Tars, shard: int, index: ShardIndex, splits: Splits) -> Iterator[SampleRow]:
    """The sample table's rows of a tar, from the descriptions."""
    tar, data = split_url(tars.where(shard))[1], storage.read(f"{stem(FOLDER, shard)}.info")
    own = tuple(sorted({name for name, pattern in splits if fnmatchcase(tar, pattern)}))
    for place, key in enumerate(index.all_keys()):
        member = index.members[place]
        start = int(member["info_offset"])
        try:
            info: dict[str, Any] = json.loads(data[start : start + int(member["info_size"])])
            if info["key"] != key:
                raise ValueError(f"it is of {info['key']}")
        except (ValueError, KeyError, TypeError) as error:
            name = f"{storage.url}/{stem(FOLDER, shard)}"
            raise DataError(
                f"{name}.info, sample {key}: its description cannot be understood ({error}); remove {name}.json and "
                f"{_AGAIN}"
            ) from error
        captions = texts.of(info.get("caption"))
        yield SampleRow(key=key, label=info.get("label"), splits=own, group=info.get("group"), captions=captions)


def _labelled(rows: list[SampleRow], classes: Sequence[str] | None) -> tuple[list[SampleRow], tuple[str, ...]]:
    """Rows with class names for labels, and the class table. Numbers are places in `classes` where that is given."""
    labels = {row.label for row in rows if row.label is not None}
    if classes is None:
        numeric = all(label.isascii() and label.isdecimal() for label in labels)
        return rows, tuple(sorted(labels, key=(lambda it: (int(it), it)) if numeric else lambda it: (0, it)))
    name_of = {str(number): name for number, name in enumerate(classes)} | {name: name for name in classes}
    if unknown := sorted(labels - set(name_of)):
        raise UserError(
            f"{len(unknown)} labels are neither names of the {len(classes)} classes nor numbers from 0 to "
            f"{len(classes) - 1}: {', '.join(map(repr, unknown[:5]))}; mend the class list"
        )
    return [row if row.label is None else replace(row, label=name_of[row.label]) for row in rows], tuple(classes)


def _usual_side(samples: npt.NDArray[np.void]) -> int:
    sides, counts = np.unique(np.minimum(samples["height"], samples["width"]), return_counts=True)
    return int(sides[np.argmax(counts)])
