"""What an operation takes from where: parts of data sets, and whether they go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from shards import captions
from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.derived import source_digests, stale_sources
from shards.errors import UserError
from shards.keys import MAX_KEY_BYTES, is_key, key_hash
from shards.meta import ColumnMeta, Meta
from shards.reader import ColumnReader
from shards.samples import SampleRow
from shards.storage import Storage

MIXED = "mixed"


@dataclass(frozen=True)
class Part:
    """Some samples of a data set.

    Attributes:
        dataset: open with its first column.
        numbers: (n,) ascending sample numbers.
        prefix: put before every key.
    """

    dataset: Dataset
    numbers: npt.NDArray[np.int64]
    prefix: str = ""

    @property
    def storage(self) -> Storage:
        return self.dataset.storage

    @property
    def meta(self) -> Meta:
        return self.dataset.meta

    @property
    def whole(self) -> bool:
        """All samples are taken."""
        return len(self.numbers) == len(self.dataset)

    @cached_property
    def shards(self) -> npt.NDArray[np.int64]:
        """(n,) the shard each of the samples is in."""
        return self.dataset.records["shard"][self.numbers].astype(np.int64)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(n,) bytes of the payloads in the first column."""
        return self.dataset.records["size"][self.numbers].astype(np.int64)

    def rows(self) -> Iterator[SampleRow]:
        """The sample table's rows, with their new keys."""
        for i in self.numbers.tolist():
            row = self.dataset.table.row(i)
            video = None if row.video is None else self.prefix + row.video
            yield replace(row, key=self.prefix + row.key, video=video)

    def reader(self, column: str) -> ColumnReader:
        """A new reader of a column."""
        return ColumnReader(self.storage, column, self.meta.columns[column], self.meta)


def column_order(meta: Meta, names: Sequence[str] | None) -> tuple[str, ...]:
    """Columns of a data set, each after those it was made from.

    Args:
        names: those that are wanted; None for all.

    Raises:
        UserError: the data set has no such column.
    """
    wanted = tuple(meta.columns) if names is None else tuple(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in meta.columns]:
        raise UserError(f"there is no column {unknown[0]!r}; {meta.name} has: {', '.join(meta.columns)}")
    ordered: list[str] = []
    while len(ordered) < len(wanted):
        ready = [
            name
            for name in wanted
            if name not in ordered and all(s in ordered or s not in wanted for s in meta.columns[name].sources)
        ]
        if not ready:
            raise UserError(f"columns {', '.join(wanted)} of {meta.name} were made from each other in a circle")
        ordered += ready
    return tuple(ordered)


def join_columns(
    parts: Sequence[Part], names: Sequence[str] | None, *, producer: str, mixed: bool
) -> dict[str, ColumnMeta]:
    """The columns that the result will have, each after those it was made from; `sources` without digests, which come
    when the columns are written.

    Args:
        names: of the columns; None: those of the first part, which the others must have too.
        producer: what the columns that are not derived are made by from now on.
        mixed: frames of different size, rate or quality may go together.

    Raises:
        UserError: a column is missing, stale, of another kind or made with other parameters somewhere.
    """
    first = parts[0].meta
    order = column_order(first, names)
    columns: dict[str, ColumnMeta] = {}
    for part in parts:
        if names is None and (extra := sorted(set(part.meta.columns) ^ set(order))):
            lacking = part if extra[0] not in part.meta.columns else parts[0]
            raise UserError(
                f"{lacking.dataset.url} has no column {extra[0]!r}, which another of the data sets has; make it there, "
                f"or leave it out with --columns {','.join(sorted(set(order) & set(part.meta.columns)))}"
            )
        column_order(part.meta, order)
    for name in order:
        columns[name] = _join_column(parts, name, order, producer=producer, mixed=mixed)
    return columns


def _join_column(parts: Sequence[Part], name: str, order: Sequence[str], *, producer: str, mixed: bool) -> ColumnMeta:
    first = parts[0].meta.columns[name]
    if COLUMNS[first.kind].foreign:
        raise UserError(
            f"column {name} of {parts[0].dataset.url} is of kind {first.kind}, whose samples lie in tars of another "
            f"tool; make it from those tars again, or leave it out with --columns"
        )
    parameters = dict(first.parameters)
    for part in parts:
        column = part.meta.columns[name]
        if column.kind != first.kind:
            raise UserError(
                f"column {name} is of kind {first.kind} in {parts[0].dataset.url} and {column.kind} in "
                f"{part.dataset.url}; leave it out with --columns"
            )
        if stale := stale_sources(part.storage, part.meta, name):
            raise UserError(
                f"column {name} of {part.dataset.url} is stale: {', '.join(stale)} changed since; make it anew with "
                f"{column.producer}, or leave it out with --columns {','.join(n for n in order if n != name)}"
            )
        if set(column.sources) != set(first.sources):
            raise UserError(
                f"column {name} was made from {', '.join(first.sources) or 'no column'} in {parts[0].dataset.url} and "
                f"from {', '.join(column.sources) or 'no column'} in {part.dataset.url}; leave it out with --columns"
            )
        parameters = _join_parameters(parts[0], part, name, parameters, mixed=mixed)
    return ColumnMeta(
        kind=first.kind,
        folder=name,
        # With a source left out the command that made it cannot make it again.
        producer=first.producer if first.sources and set(first.sources) <= {*order, captions.SOURCE} else producer,
        parameters=parameters,
        sources={source: "" for source in first.sources if source in order or source == captions.SOURCE},
    )


def _join_parameters(first: Part, part: Part, name: str, known: dict[str, Any], *, mixed: bool) -> dict[str, Any]:
    column = part.meta.columns[name]
    found = dict(column.parameters)
    differing = [key for key in {**known, **found} if known.get(key) != found.get(key)]
    differing = [key for key in differing if known.get(key) != MIXED]
    if not differing:
        return known
    key = differing[0]
    text = (
        f"column {name} was made with {key} {first.meta.columns[name].parameters.get(key)} in {first.dataset.url} and "
        f"{found.get(key)} in {part.dataset.url}"
    )
    if COLUMNS[column.kind].planes != 1 or not COLUMNS[column.kind].framed:
        raise UserError(
            f"{text}, so the same numbers mean different things; make one of them anew with {column.producer}, or "
            "leave the column out with --columns"
        )
    if not mixed:
        raise UserError(f"{text}; if frames of both kinds shall stand side by side, give --mixed")
    return {**known, **dict.fromkeys(differing, MIXED)}


def check_keys(parts: Sequence[Part], *, help_: str) -> None:
    """Raises UserError: two samples would have the same key, or a prefix makes a key that is none."""
    hashes = []
    for part in parts:
        if not part.prefix:
            hashes.append(part.dataset.records["key_hash"][part.numbers])
            continue
        keys = [row.key for row in part.rows()]
        if wrong := next((key for key in keys if not is_key(key)), None):
            raise UserError(
                f"{wrong!r} cannot be a key: at most {MAX_KEY_BYTES} bytes, no dots, slashes or white space; choose "
                "another prefix"
            )
        hashes.append(np.array([key_hash(key) for key in keys], np.uint64))
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    suspects = values[counts > 1]
    if not len(suspects):
        return
    seen: dict[str, str] = {}
    clashes: list[tuple[str, str, str]] = []
    for part, its in zip(parts, hashes, strict=True):
        for place in np.flatnonzero(np.isin(its, suspects)).tolist():
            key = part.prefix + part.dataset.key(int(part.numbers[place]))
            if key in seen:
                clashes.append((key, seen[key], part.dataset.url))
            seen[key] = part.dataset.url
    if clashes:
        key, a, b = clashes[0]
        raise UserError(f"{len(clashes)} keys stand in two data sets, the first: {key} in {a} and in {b}; {help_}")


def digests(part: Part, columns: Sequence[str]) -> dict[str, str]:
    """What identifies the contents of a part's columns."""
    return source_digests(part.storage, part.meta, columns)
