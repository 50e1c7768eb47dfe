"""Mending the sample table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from shards.check import check_rows
from shards.errors import DataError, UserError
from shards.finalize import planned_rows
from shards.index import keys_digest
from shards.keys import key_hash
from shards.meta import Meta
from shards.samples import SampleRow, SampleTable, build_samples
from shards.storage import MissingError, Storage
from shards.text import to_json

BEFORE = "samples-before-repair.jsonl"


def mend_table(
    storage: Storage, meta: Meta, keys: int, copy: Storage | None, there: Meta | None
) -> list[tuple[str, str]]:
    """Write the table's two files anew where they are damaged; returns (file, how) of each.

    Taken are, in this order: samples.jsonl where it is proved to be whole; the plan, for a table that was never
    annotated; the copy's table, if it is the same one. A samples.jsonl that is replaced stays as
    `samples-before-repair.jsonl`: it may be somebody's edit.

    Args:
        keys: digest of the data set's keys.
    """
    if _is_whole(storage, meta):
        return []
    name = meta.samples_stem
    old = storage.read(f"{name}.jsonl") if storage.exists(f"{name}.jsonl") else None
    new = None if old is None else _from_lines(storage, meta, old, keys)
    how = f"made again from {name}.jsonl"
    if new is None and name == "samples":
        new, how = _compiled(_planned(storage, meta), meta, keys), "made again from the plan"
    if new is None and copy is not None and there is not None:
        new, how = _from_copy(meta, copy, there, keys), f"fetched from {copy.url}"
    if new is None:
        return []
    done = []
    if old is not None and old != new[0]:
        storage.put(BEFORE, old, replace=True)
        done.append((BEFORE, f"what {name}.jsonl was; vidprep annotate takes it, if it is an edit"))
    for file, data in ((f"{name}.jsonl", new[0]), (f"{name}.bin", new[1])):
        if not storage.exists(file) or storage.read(file) != data:
            storage.put(file, data, replace=True)
            done.append((file, how))
    return done


def _is_whole(storage: Storage, meta: Meta) -> bool:
    try:
        return not list(check_rows(storage, meta, SampleTable(storage, meta)))
    except (DataError, ValueError):
        return False


def _from_lines(storage: Storage, meta: Meta, text: bytes, keys: int) -> tuple[bytes, bytes] | None:
    """Compiled from samples.jsonl, if that is proved to be whole: by its name, or by the header of samples.bin."""
    tables = to_json([list(meta.classes), list(meta.splits)]).encode()
    named = meta.samples_stem == f"samples-{hashlib.sha256(text + tables).hexdigest()[:8]}"
    try:
        rows = [SampleRow.of(json.loads(line)) for line in text.split(b"\n") if line]
    except (ValueError, TypeError, AttributeError):
        return None
    new = _compiled(rows, meta, keys)
    if new is None or new[0] != text:
        return None
    try:
        header = storage.read(f"{meta.samples_stem}.bin")[:64]
    except MissingError:
        header = b""
    return new if named or header == new[1][:64] else None


def _planned(storage: Storage, meta: Meta) -> list[SampleRow] | None:
    try:
        return planned_rows(storage, meta)
    except (UserError, DataError):
        return None


def _compiled(rows: Sequence[SampleRow] | None, meta: Meta, keys: int) -> tuple[bytes, bytes] | None:
    if rows is None or keys_digest(np.array([key_hash(row.key) for row in rows], np.uint64)) != keys:
        return None
    if {name for row in rows for name in row.splits} - set(meta.splits):
        return None
    try:
        return build_samples(rows, classes=meta.classes, splits=meta.splits)
    except UserError:
        return None


def _from_copy(meta: Meta, copy: Storage, there: Meta, keys: int) -> tuple[bytes, bytes] | None:
    same = (there.samples_stem, there.classes, there.splits) == (meta.samples_stem, meta.classes, meta.splits)
    if not same or not _is_whole(copy, there):
        return None
    table = SampleTable(copy, there)
    if int(table.header["keys_digest"]) != keys:
        return None
    return copy.read(f"{there.samples_stem}.jsonl"), copy.read(f"{there.samples_stem}.bin")
