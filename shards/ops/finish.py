"""From copied shards to a data set: the indexes, the sample table and, last and in one step, dataset.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from shards.derived import source_digests
from shards.errors import DataError
from shards.finalize import join, load_shards
from shards.index import build_index
from shards.meta import NAME, ColumnMeta, Meta, read_meta, write_meta
from shards.plan import Plan
from shards.samples import SampleRow, write_samples
from shards.storage import Storage


def finish(storage: Storage, plan: Plan, columns: Mapping[str, ColumnMeta]) -> Meta:
    """Put finished shards in force. Running it again changes nothing; labels given by `vidprep annotate` stay.

    Args:
        plan: of the data set; every line is a sample.
        columns: as they will stand in dataset.json but for the digests of their sources, each after its sources.

    Raises:
        UserError: shards are missing (says how many).
        DataError: shards do not belong together.
    """
    rows = [_row(dict(entry.video)) for entry in plan]
    shards = sum(1 for _ in plan.shards())
    hashes = None
    for name, column in columns.items():
        again = f"run the same {column.producer} command again"
        samples, records = join(load_shards(storage, column.folder, shards, again=again))
        if hashes is not None and not np.array_equal(samples["key_hash"], hashes):
            raise DataError(f"{storage.url}/{column.folder} holds other samples than column {name}; {again}")
        hashes = samples["key_hash"]
        where, index = f"{column.folder}/index.bin", build_index(samples, records)
        if not storage.exists(where) or storage.read(where) != index:
            storage.put(where, index, replace=True)
    if storage.exists(NAME):
        return read_meta(storage)
    meta = Meta(
        name=str(plan.options["name"]),
        columns=dict(columns),
        size=dict(plan.options["size"]),
        classes=tuple(plan.options["classes"]),
        splits=tuple(sorted({name for row in rows for name in row.splits})),
        samples=len(rows),
        shards=shards,
    )
    stem = write_samples(storage, rows, classes=meta.classes, splits=meta.splits, stem="samples")
    settled = {
        name: replace(column, sources=source_digests(storage, meta, tuple(column.sources)))
        for name, column in columns.items()
    }
    meta = replace(meta, columns=settled, samples_stem=stem)
    write_meta(storage, meta)
    return meta


def _row(video: dict[str, object]) -> SampleRow:
    fields = ("key", "label", "splits", "group", "caption", "video")
    return SampleRow.of({name: video[name] for name in fields if name in video})
