"""What samples are called where a folder is a class and a folder in it a video."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shards.dataset import Dataset
from shards.keys import make_key

UNLABELLED = "unlabelled"
_UNSAFE = re.compile(r"[^\w.-]")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A sample and its names.

    Attributes:
        number: in the data set. key: of the sample.
        folder: of its class; video: of itself, in it.
        label: class index, −1 without. frames: how many it has.
        splits: it is in.
    """

    number: int
    key: str
    folder: str
    video: str
    label: int
    frames: int
    splits: tuple[str, ...]

    @property
    def path(self) -> str:
        """CLASS/VIDEO."""
        return f"{self.folder}/{self.video}"


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder name for every class: without white space, commas and slashes, which old lists separate by."""
    names: list[str] = []
    for number, name in enumerate(classes):
        safe = safe_name(name)
        names.append(f"{safe}_{number}" if safe in names or safe == UNLABELLED else safe)
    return names


def safe_name(text: str) -> str:
    """`text` as one part of a path."""
    safe = _UNSAFE.sub("_", text)
    return f"_{safe[1:]}" if safe.startswith(".") else safe or "_"


def name_samples(dataset: Dataset, numbers: Sequence[int], *, flat: bool = False) -> list[Named]:
    """Names of samples: a key that begins with its class, as those of class folders do, goes without.

    Args:
        flat: names of videos are unique in all classes together, for trees without class folders.
    """
    folders = class_folders(dataset.classes)
    rows = [dataset[number] for number in numbers]
    names = [_video(row.key, row.label) for row in rows]
    where = ["" if flat else _folder(folders, row.label_index) for row in rows]
    often = Counter(zip(where, (name.casefold() for name in names), strict=True))
    return [
        Named(
            number=row.number,
            key=row.key,
            folder=_folder(folders, row.label_index),
            video=name if often[place, name.casefold()] == 1 else row.key,
            label=row.label_index,
            frames=row.frames,
            splits=row.splits,
        )
        for row, name, place in zip(rows, names, where, strict=True)
    ]


def _folder(folders: Sequence[str], label: int) -> str:
    return folders[label] if label >= 0 else UNLABELLED


def _video(key: str, label: str | None) -> str:
    prefix = "" if label is None else make_key(f"{label}/x").removesuffix("x")
    return key[len(prefix) :] if prefix and key.startswith(prefix) and len(key) > len(prefix) else key
