"""Split files in the forms that data sets are published with: read into names and sides, form recognised by content."""

from __future__ import annotations

import csv
import glob
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from shards.errors import StorageError, UserError
from vidprep.classes import parse_json, read_text

_HMDB = re.compile(r"(?P<label>.+)_test_split(?P<number>\d+)\.txt")
_HMDB_SIDES = {"0": None, "1": "train", "2": "test"}
_NUMBERS = re.compile(r"(?P<name>\S.*?)(?P<numbers>(?:\s+-?\d+)+)")
_NAME_COLUMNS = ("path", "key", "video", "filename", "name", "clip")
_SPLIT_COLUMNS = ("split", "subset")
_SUBSETS = {"training": "train", "validation": "val", "testing": "test"}


@dataclass(frozen=True, kw_only=True)
class SplitList:
    """What one file says.

    Attributes:
        form: the recognised form, in words.
        sides: split side → names of its videos. The side None: a list of members only, the user names the split.
        unused: entries that the list itself leaves out.
    """

    form: str
    sides: dict[str | None, list[str]]
    unused: int = 0


def read_list(where: str | Path) -> SplitList:
    """Read a split file, a folder of HMDB51's files, or a pattern that fits such files.

    Forms: UCF101 trainlist/testlist and other lists of names, one a line, with or without numbers behind; HMDB51
    `CLASS_test_splitN.txt` (1 train, 2 test, 0 unused); CSV with a column path, key or video, and split, or with
    names only; JSON: a list of names, an object split → names, or `database`/`subset` (CPD, ActivityNet).

    Raises:
        UserError: empty, or none of these forms. StorageError: cannot be read.
    """
    path = Path(where)
    if path.is_dir():
        files = sorted(path.glob("*_test_split*.txt"))
        if not files:
            raise UserError(f"{path} holds no CLASS_test_splitN.txt; a folder of split files is HMDB51's form")
        return _hmdb(files)
    if not path.exists() and any(sign in str(where) for sign in "*?["):
        files = sorted(Path(file) for file in glob.glob(str(where)))  # noqa: PTH207 - patterns may be absolute
        if not files:
            raise StorageError(f"no file fits the pattern {where}")
        if len(files) > 1 or _HMDB.fullmatch(files[0].name):
            return _hmdb(files)
        path = files[0]
    if _HMDB.fullmatch(path.name):
        return _hmdb([path])
    text = read_text(path, what="split file")
    if not text.strip():
        raise UserError(f"the split file {path} is empty")
    return _FORMS.get(path.suffix.lower(), _lines)(text, path)


def _hmdb(files: list[Path]) -> SplitList:
    names = [_HMDB.fullmatch(file.name) for file in files]
    if not all(names):
        wrong = files[names.index(None)]
        raise UserError(f"{wrong.name} is not named CLASS_test_splitN.txt; several files together are HMDB51's form")
    numbers = {match["number"] for match in names if match}
    sides: dict[str | None, list[str]] = {}
    unused = 0
    for file, match in zip(files, names, strict=True):
        assert match is not None
        for number, line in enumerate(read_text(file, what="split file").splitlines(), 1):
            if not line.strip():
                continue
            name, _, code = line.strip().rpartition(" ")
            if code not in _HMDB_SIDES or not name:
                raise UserError(f"{file}:{number}: {line!r} is not a name and 0, 1 or 2 (HMDB51's form)")
            side = _HMDB_SIDES[code]
            if side is None:
                unused += 1
                continue
            # A folder with several splits defines each of them.
            full = side if len(numbers) == 1 else f"{match['number']}-{side}"
            sides.setdefault(full, []).append(f"{match['label']}/{name.strip()}")
    if not sides:
        raise UserError(f"{files[0]} puts no video into train (1) or test (2)")
    which = ", ".join(sorted(numbers))
    return SplitList(form=f"HMDB51 split {which} in {len(files)} files", sides=sides, unused=unused)


def _lines(text: str, path: Path) -> SplitList:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [_NUMBERS.fullmatch(line) for line in lines]
    # `clip 12` may be a name: numbers are cut off only where what is left looks like a file in every line.
    if all(match and ("/" in match["name"] or PurePosixPath(match["name"]).suffix) for match in numbered):
        counts = {len(match["numbers"].split()) for match in numbered if match}
        form = "UCF101 list with class ids" if counts == {1} else "list of names with numbers"
        return SplitList(form=form, sides={None: [match["name"] for match in numbered if match]})
    form = "UCF101 list" if all(re.fullmatch(r"\S+/\S+\.\w+", line) for line in lines) else "list of names"
    return SplitList(form=form, sides={None: lines})


def _csv(text: str, path: Path) -> SplitList:
    first = text.splitlines()[0]
    separator = max(",;\t", key=first.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(map(str.strip, row))]
    header = [cell.strip().lower() for cell in rows[0]]
    name_column = next((header.index(name) for name in _NAME_COLUMNS if name in header), None)
    split_column = next((header.index(name) for name in _SPLIT_COLUMNS if name in header), None)
    if name_column is None:
        if len(header) > 1 or split_column is not None:
            raise UserError(
                f"{path}: no column names the video; the header has {', '.join(header)}, "
                f"allowed: {', '.join(_NAME_COLUMNS)}, and one of {', '.join(_SPLIT_COLUMNS)} for the side"
            )
        return SplitList(form="CSV, one column of names", sides={None: [row[0].strip() for row in rows]})
    del rows[0]
    for number, row in enumerate(rows, 2):
        if len(row) <= max(name_column, split_column or 0):
            raise UserError(f"{path}: row {number} has {len(row)} columns; the header has {len(header)}")
    if split_column is None:
        names = [row[name_column].strip() for row in rows]
        return SplitList(form=f"CSV, names in column {header[name_column]}", sides={None: names})
    sides: dict[str | None, list[str]] = {}
    for row in rows:
        sides.setdefault(row[split_column].strip() or None, []).append(row[name_column].strip())
    unused = len(sides.pop(None, []))
    form = f"CSV, columns {header[name_column]} and {header[split_column]}"
    return SplitList(form=form, sides=sides, unused=unused)


def _json(text: str, path: Path) -> SplitList:
    value = parse_json(text, path)
    if isinstance(value, list) and _all_text(value):
        return SplitList(form="JSON list of names", sides={None: value})
    if isinstance(value, dict) and isinstance(value.get("database"), dict):
        sides: dict[str | None, list[str]] = {}
        for name, entry in value["database"].items():
            if not isinstance(entry, dict) or not isinstance(entry.get("subset"), str):
                raise UserError(f"{path}: entry {name!r} of the database has no subset")
            notes = entry.get("annotations")
            label = notes.get("label") if isinstance(notes, dict) else None
            side = _SUBSETS.get(entry["subset"], entry["subset"])
            sides.setdefault(side, []).append(f"{label}/{name}" if label and "/" not in name else name)
        return SplitList(form="JSON database with subsets (CPD, ActivityNet)", sides=sides)
    if isinstance(value, dict) and all(isinstance(names, list) and _all_text(names) for names in value.values()):
        return SplitList(form="JSON split to names", sides=dict(value))
    raise UserError(
        f"{path}: allowed are a JSON list of names, an object split → names, or an object with a database of "
        "names with subsets"
    )


def _all_text(value: list[Any]) -> bool:
    return all(isinstance(name, str) and name for name in value)


_FORMS: dict[str, Callable[[str, Path], SplitList]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
}
