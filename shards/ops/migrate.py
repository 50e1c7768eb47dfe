"""Bringing data sets of older format versions up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import DataError
from shards.meta import NAME, VERSION, read_meta
from shards.storage import Storage, open_storage
from shards.text import to_json

BEFORE = "dataset-before-migration.json"

Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A change of the format.

    Attributes:
        what: it does, for people.
        needed: whether a data set's dataset.json asks for it.
        apply: writes new files beside the old ones and returns the new dataset.json, which puts them in force.
    """

    what: str
    needed: Callable[[Tree], bool]
    apply: Callable[[Storage, Tree], Tree]


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What `migrate` did: format versions before and after, and the steps."""

    url: str
    before: int
    after: int
    steps: tuple[str, ...]

    def __str__(self) -> str:
        if not self.steps:
            return f"{self.url} is of version {self.before} already; there is nothing to do"
        return f"{self.url} is of version {self.after} now: {'; '.join(self.steps)}"


def migrate(url: str | Path) -> Migration:
    """Bring a data set up to the format version that this vidprep writes; tars are not touched.

    One write of dataset.json puts everything in force; what it was stays as `dataset-before-migration.json`.

    Raises:
        UserError: there is no finished data set.
        DataError: it is damaged, or of a newer version.
        StorageError: it cannot be written.
    """
    storage = open_storage(url)
    text = storage.read(NAME) if storage.exists(NAME) else b""
    tree = _tree(text)
    if tree is None or _version(tree) > VERSION:
        return Migration(url=storage.url, before=read_meta(storage).version, after=VERSION, steps=())
    before, done = _version(tree), []
    for step in STEPS:
        if step.needed(tree):
            tree = step.apply(storage, tree)
            done.append(step.what)
    if done:
        if not storage.exists(BEFORE):
            storage.put(BEFORE, text)
        storage.put(NAME, (to_json(tree, indent=1) + "\n").encode(), replace=True)
    read_meta(storage)
    return Migration(url=storage.url, before=before, after=_version(tree), steps=tuple(done))


def _tree(text: bytes) -> Tree | None:
    try:
        tree = json.loads(text)
    except ValueError:
        return None
    return tree if isinstance(tree, dict) and isinstance(tree.get("version"), int) else None


def _version(tree: Tree) -> int:
    return int(tree["version"])


def _columns(tree: Tree) -> dict[str, Any]:
    columns = tree.get("columns")
    return columns if isinstance(columns, dict) else {}


def _has_one_source(tree: Tree) -> bool:
    return any(isinstance(column, dict) and "source" in column for column in _columns(tree).values())


def _name_sources(storage: Storage, tree: Tree) -> Tree:
    """Before the first release a column had one `source`, a digest without the name of what it was of."""
    columns = {}
    for name, column in _columns(tree).items():
        kept = {key: value for key, value in column.items() if key != "source"}
        if column.get("source"):
            raise DataError(
                f"{storage.url}/{NAME}: column {name} has a source without a name, as unfinished versions wrote; "
                f"remove the column from {NAME} and make it again with {column.get('producer') or 'the same command'}"
            )
        columns[name] = {"sources": {}, **kept}
    return {**tree, "columns": columns}


STEPS: tuple[Step, ...] = (
    Step(what="columns name what they were made from", needed=_has_one_source, apply=_name_sources),
)
"""In the order of versions; a step to version n + 1 is needed where `version` is n, and sets it."""
