"""Deleting what a data set no longer uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.derived import unreferenced
from shards.meta import read_meta
from shards.storage import open_storage


@dataclass(frozen=True, kw_only=True)
class Unused:
    """A folder of shards that dataset.json does not name, and the bytes of its files."""

    name: str
    bytes: int


def prune(url: str | Path, *, delete: bool = False) -> list[Unused]:
    """Column folders of a data set that are not in force: regenerated ones' forerunners, and unfinished ones.

    Args:
        delete: remove them; otherwise they are only listed.

    Raises:
        UserError: there is no finished data set at this place.
        StorageError: something cannot be removed.
    """
    storage = open_storage(url)
    found = []
    for folder in unreferenced(storage, read_meta(storage)):
        names = [f"{folder}/{name}" for name in storage.list(folder)]
        found.append(Unused(name=folder, bytes=sum(map(storage.size, names))))
        if delete:
            # Receipts first: whatever ends this, no shard is left that looks finished.
            for name in sorted(names, key=lambda name: not name.endswith(".json")):
                storage.remove(name)
    return found
