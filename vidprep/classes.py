"""Class tables: which name has which index."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shards.errors import StorageError, UserError

_NUMBERED = re.compile(r"(\d+)[\s,;]+(\S.*)")


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Read a class table; the place of a name is its index.

    Forms: numbered lines as UCF101's classInd.txt (`1 ApplyEyeMakeup`), one name a line, a JSON list of names, a JSON
    object name → index (Something-Something V2's labels.json, where indices are text). Indices may run from 0 or
    from 1.

    Raises:
        UserError: names or indices are missing, doubled or have gaps. StorageError: the file cannot be read.
    """
    path = Path(path)
    text = read_text(path, what="class table")
    if path.suffix.lower() == ".json":
        return _from_json(parse_json(text, path), path)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        return _ordered([(m[2], int(m[1])) for m in numbered if m], path)
    return check_classes(lines, where=str(path))


def classes_path(manifest: str | Path) -> Path:
    """Where the class table of a manifest is: `<stem>.classes.txt` beside it."""
    return Path(manifest).with_suffix(".classes.txt")


def write_classes(path: str | Path, classes: Sequence[str]) -> None:
    """Write one name a line; `read_classes` gives the same table back."""
    path = Path(path)
    # Names that all look numbered (`2 kicks`) would be read as numbers and names.
    numbered = all(_NUMBERED.fullmatch(name) for name in classes)
    lines = (f"{i} {name}\n" if numbered else f"{name}\n" for i, name in enumerate(classes))
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text("".join(lines), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StorageError(f"cannot write the class table {path}: {error.strerror or error}") from error


def check_classes(names: Iterable[str], *, where: str) -> tuple[str, ...]:
    """Names in Unicode's composed form (NFC: the same on all file systems), one a line, all different."""
    classes = tuple(unicodedata.normalize("NFC", name) for name in names)
    for name in classes:
        if not name or name != name.strip() or len(name.splitlines()) != 1 or _not_utf8(name):
            raise UserError(
                f"{where}: {name!r} cannot be a class name: it must be one line of UTF-8 text "
                "without blanks around it; rename the folder or the entry"
            )
    if not classes:
        raise UserError(f"{where} names no class; allowed: one name a line, numbered lines, or JSON")
    if len(set(classes)) < len(classes):
        doubled = Counter(classes).most_common(1)[0][0]
        raise UserError(f"{where}: class {doubled!r} stands there more than once; names must be unique")
    return classes


def read_text(path: Path, *, what: str) -> str:
    """A whole UTF-8 file, for lists of reasonable length."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StorageError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} {path} is not UTF-8 text: {error}") from error


def parse_json(text: str, path: Path) -> Any:
    """The value of a JSON file; a mistake names file and line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error


def _from_json(value: Any, path: Path) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return check_classes(value, where=str(path))
    if isinstance(value, dict) and all(re.fullmatch(r"\d+", str(index)) for index in value.values()):
        return _ordered([(name, int(index)) for name, index in value.items()], path)
    raise UserError(f"{path}: allowed are a JSON list of names, or an object that maps names to indices")


def _ordered(pairs: list[tuple[str, int]], path: Path) -> tuple[str, ...]:
    pairs = sorted(pairs, key=lambda pair: pair[1])
    given = [index for _, index in pairs]
    first = given[0] if given and given[0] == 1 else 0
    if given != list(range(first, first + len(given))):
        wrong = next(i for i, (a, b) in enumerate(zip(given, range(first, first + len(given)), strict=True)) if a != b)
        raise UserError(
            f"{path}: class indices must run from 0 (or 1) without gaps or repeats; "
            f"{given[wrong]} ({pairs[wrong][0]!r}) stands where {first + wrong} should"
        )
    return check_classes([name for name, _ in pairs], where=str(path))


def _not_utf8(name: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in name)
