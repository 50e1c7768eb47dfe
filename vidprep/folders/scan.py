"""Finding frame folders: a folder that holds numbered frames is a video."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from shards.errors import StorageError, UserError
from shards.keys import make_key
from vidprep.folders.layouts import LAYOUTS, Layout, numbered, ucf_name
from vidprep.records import Video

_SAMPLES = 1000  # file names looked at to say what a tree holds instead


def find_folders(root: Path, frame: re.Pattern[str], *, skip: Collection[Path] = ()) -> tuple[list[str], list[str]]:
    """Folders below `root` that hold a file named like `frame`, relative to it, in the byte order of their paths.

    What lies inside such a folder is not looked into. Links are followed, hidden folders and `skip` left out.

    Returns:
        The folders, and names of some files in folders that hold no frame.

    Raises:
        UserError: no root. StorageError: a folder cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"{root} {'is not a folder' if root.exists() else 'does not exist'}; give the folder of frames")
    skipped = {os.path.realpath(folder) for folder in skip}
    found: list[str] = []
    others: list[str] = []
    pending: list[tuple[str, frozenset[str]]] = [("", frozenset())]
    while pending:
        inside, above = pending.pop()
        place = os.path.realpath(root / inside)
        if place in above or (inside and place in skipped):
            continue
        folders, files = _entries(root / inside, frame)
        if files is None:
            found.append(inside)
            continue
        others += files[: _SAMPLES - len(others)]
        pending += [(f"{inside}/{name}" if inside else name, above | {place}) for name in folders]
    return sorted(found, key=os.fsencode), others


def _entries(folder: Path, frame: re.Pattern[str]) -> tuple[list[str], list[str] | None]:
    """Folders and files in a folder; None in place of the files when one of them is a frame."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if frame.fullmatch(entry.name) and entry.is_file():
                    return [], None
                if entry.name.startswith("."):
                    continue
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise StorageError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    return folders, files


def read_numbers(folder: Path, name: re.Pattern[str]) -> dict[int, str]:
    """Number → file name of a folder's files named like `name`, ascending.

    Raises:
        ValueError: two files have the same number. StorageError: the folder cannot be read.
    """
    found: dict[int, str] = {}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise StorageError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    for file in names:
        match = name.fullmatch(file)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise ValueError(f"{found[number]} and {file} both have number {number}")
        found[number] = file
    return dict(sorted(found.items()))


def frame_folders(
    root: Path, *, layout: str, skip: Collection[Path] = (), note: Callable[[str], None] = lambda _: None
) -> list[Video]:
    """The catalog of frame trees, for `vidprep.catalog.index`: a video is a folder.

    The class is the folder above; where there is none, that of a UCF101 name (`v_Class_g01_c02`), which also gives
    the group.

    Raises:
        UserError: no frame of this layout. StorageError: a folder cannot be read.
    """
    shape = LAYOUTS[layout]
    paths, others = find_folders(root, numbered(shape.frame), skip=skip)
    if paths == [""]:
        raise UserError(f"{root} is the folder of one video; give a folder above it")
    if not paths:
        raise UserError(_nothing(root, shape, others))
    videos = [_video(path, key, root=str(root.absolute())) for path, key in zip(paths, _keys(paths), strict=True)]
    if unlabelled := sum(video.label is None for video in videos):
        note(f"{unlabelled} of {len(videos)} videos have no class: no folder above them, no UCF101 name")
    return videos


def _video(path: str, key: str, *, root: str) -> Video:
    *folders, name = path.split("/")
    ucf = ucf_name(name)
    label = folders[-1] if folders else ucf[0] if ucf else None
    return Video(
        key=key,
        path=path,
        root=root,
        label=None if label is None else unicodedata.normalize("NFC", label),
        group=None if ucf is None else ucf[1],
    )


def _keys(paths: list[str]) -> list[str]:
    keys = [make_key(path) for path in paths]
    often = {key for key, count in Counter(keys).items() if count > 1}
    return [make_key(p, hashed=True) if key in often else key for p, key in zip(paths, keys, strict=True)]


def _nothing(root: Path, layout: Layout, others: list[str]) -> str:
    fits = [name for name, it in LAYOUTS.items() if any(numbered(it.frame).fullmatch(file) for file in others)]
    if fits:
        help_ = f"its files are named as in --layout {fits[0]}"
    elif others:
        help_ = f"it holds files such as {min(others)}"
    else:
        help_ = "it holds no file"
    return f"no frame of layout {layout.name} ({layout.example}, …) below {root}: {help_}"


class Lookup:
    """Finds the folder that belongs to a video in another tree, also where only letter case differs.

    The public UCF101 lists and trees write both v_HandStandPushups and v_HandstandPushups.
    """

    def __init__(self, root: Path, *, repeated: Collection[str] = ()) -> None:
        """`repeated`: names of videos that stand in several classes, which a tree without classes cannot tell."""
        self._root, self._repeated = root, set(repeated)
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """The folder of this path below the root, or of its last part; None where there is neither."""
        name = path.rpartition("/")[2]
        return self._descend(path) or (None if name in self._repeated else self._descend(name))

    def _descend(self, path: str) -> str | None:
        inside = ""
        for part in path.split("/"):
            listed = self._list(inside)
            actual = part if part in listed else listed.get(f"/{part.casefold()}")
            if actual is None:
                return None
            inside = f"{inside}/{actual}" if inside else actual
        return inside

    def _list(self, inside: str) -> dict[str, str]:
        """Folders by their name, and by `/` and their name in small letters."""
        if inside not in self._listed:
            try:
                names = sorted(entry.name for entry in os.scandir(self._root / inside) if entry.is_dir())
            except OSError as error:
                raise StorageError(
                    f"cannot read the folder {self._root / inside}: {error.strerror or error}"
                ) from error
            self._listed[inside] = {f"/{name.casefold()}": name for name in names} | {name: name for name in names}
        return self._listed[inside]
