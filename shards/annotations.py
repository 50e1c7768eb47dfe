"""Reading a file of new labels, splits, groups and captions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import StorageError, UserError

Change = dict[str, Any]

FIELDS = ("label", "splits", "group", "caption")
# A manifest is a file of labels too; what it says about the video itself is passed over.
_OF_MANIFESTS = frozenset({"path", "root", "label_index", "fps", "frames", "start", "end"})


def read_changes(file: Path) -> dict[str, Change]:
    """Key → new values of some of label, splits, group, caption.

    JSON lines (`.jsonl`, `.json`, `.ndjson`): `{"key": "a", "label": "run", "splits": ["train"]}`; null removes a
    value, a field that is not there stays as it is; `caption` may be a list of texts. A manifest will do. CSV (`.csv`)
    or tab-separated (`.tsv`): a header line with `key` and some of the others; an empty cell removes the value; several
    splits are separated by `;`. The result has `captions`, a tuple, in place of `caption`.

    Raises:
        UserError: with `file:line:`, what is wrong and what is allowed.
        StorageError: the file cannot be read.
    """
    kind = file.suffix.lower()
    if kind not in (".jsonl", ".json", ".ndjson", ".csv", ".tsv"):
        raise UserError(
            f"{file}: allowed are .jsonl (one JSON object a line), .csv and .tsv, by extension, and for captions "
            ".json, .csv and .txt as data sets publish them"
        )
    changes: dict[str, Change] = {}
    lines: dict[str, int] = {}
    rows = _json_rows(file) if "json" in kind else _csv_rows(file, "\t" if kind == ".tsv" else ",")
    with reading(file):
        for number, fields in rows:
            where = f"{file}:{number}"
            key = fields.pop("key", None)
            if not isinstance(key, str) or not key:
                raise UserError(f"{where}: key is {key!r}; every line needs the key of a sample")
            if key in lines:
                raise UserError(f"{where}: key {key!r} already stands on line {lines[key]}; remove one of the two")
            lines[key] = number
            changes[key] = _checked(fields, where)
    if not changes:
        raise UserError(f"{file} has no line; give key and some of {', '.join(FIELDS)}")
    return changes


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Says what is wrong with a file of text that is read within.

    Raises:
        UserError: it is not UTF-8, or no table.
        StorageError: it cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{file} is no table ({error}); is a quotation mark left open?") from error


def _json_rows(file: Path) -> Iterator[tuple[int, Change]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{file}:{number}: not JSON ({error.msg}); one object a line") from error
            if not isinstance(fields, dict):
                raise UserError(f"{file}:{number}: {line.strip()[:60]!r} is not an object; one object a line")
            yield number, fields


def _csv_rows(file: Path, delimiter: str) -> Iterator[tuple[int, Change]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, restkey="")
        for fields in reader:
            if "" in fields or None in fields.values():
                raise UserError(f"{file}:{reader.line_num}: the line has not as many cells as the header line")
            row: Change = {name: value or None for name, value in fields.items()}
            if "splits" in row:
                row["splits"] = [part.strip() for part in (row["splits"] or "").split(";") if part.strip()]
            yield reader.line_num, row


def _checked(fields: Change, where: str) -> Change:
    change: Change = {}
    for name, value in fields.items():
        if name in _OF_MANIFESTS:
            continue
        if name not in FIELDS:
            raise UserError(f"{where}: unknown column {name!r}; allowed: key, {', '.join(FIELDS)}")
        if name == "splits":
            names = [value] if isinstance(value, str) else value or []
            if not isinstance(names, list) or not all(isinstance(part, str) and part for part in names):
                raise UserError(f"{where}: splits is {value!r}; it must be a list of names")
            change[name] = tuple(dict.fromkeys(names))
        elif name == "caption":
            change["captions"] = _captions(value, where)
        elif value is not None and (not isinstance(value, str) or not value):
            raise UserError(f"{where}: {name} is {value!r}; it must be text, or null for none")
        else:
            change[name] = value
    return change


def _captions(value: Any, where: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{where}: caption is {value!r}; it must be text, a list of texts, or null for none")
    return tuple(texts)
