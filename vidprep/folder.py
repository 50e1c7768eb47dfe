"""The catalog of class folders: `ROOT/CLASS/video`, optionally below `train/`, `val/`, `test/`."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from shards.errors import StorageError, UserError
from shards.keys import make_key
from vidprep.records import Video

# What FFmpeg's demuxers are known by. A list, since opening every file to see would take hours on large sets.
_KNOWN = (
    "264 265 3g2 3gp amv apng asf av1 avc avi divx dv evo f4v flv gif gxf h261 h263 h264 h265 hevc ivf m1v m2p m2t "
    "m2ts m2v m4v mj2 mjpeg mjpg mkv mod mov mp4 mpe mpeg mpg mpv mts mxf nsv nut obu ogm ogv ps qt rm rmvb tod ts "
    "vc1 vob webm wmv wtv xvid y4m"
)
SUFFIXES = frozenset(f".{suffix}" for suffix in _KNOWN.split())
_LEVELS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def folder(root: Path, *, suffixes: Iterable[str] = (), note: Callable[[str], None] = lambda _: None) -> list[Video]:
    """Videos in class folders, in the byte order of their paths.

    The first folder below `root` is the class; deeper folders do not matter. Where the first folders are all named
    as splits (train, val, test and their usual variants), they are the splits and the next level is the class. Files
    without a folder have no label. Links are followed; hidden files are left out.

    Args:
        suffixes: further file name endings that are videos.
        note: called with one line for everything found that is no video, and for what was recognised.

    Raises:
        UserError: no root, or no video in it. StorageError: a folder cannot be read.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"{root} {what}; give the folder that holds the class folders")
    known = SUFFIXES | {_suffix(suffix) for suffix in suffixes}
    paths, others = [], Counter[str]()
    for path in _walk(root, others):
        suffix = posixpath.splitext(path)[1].lower()
        if suffix in known:
            paths.append(path)
        else:
            others[suffix or "no suffix"] += 1
    if others:
        note(_describe_others(others))
    if not paths:
        found = f"it has {_describe_others(others)}" if others else "it is empty"
        raise UserError(f"no video in {root}: {found}; give the folder of the class folders, or --suffix .abc")
    paths.sort(key=os.fsencode)
    levels = _split_levels(paths, note)
    keys = _keys(paths)
    return [_video(path, key, root=str(root.absolute()), levels=levels) for path, key in zip(paths, keys, strict=True)]


def _suffix(text: str) -> str:
    if not text.strip(".") or "/" in text:
        raise UserError(f"suffix {text!r} is none; give an ending like .abc")
    return f".{text.lstrip('.').lower()}"


def _walk(root: Path, others: Counter[str]) -> Iterator[str]:
    """Paths of all files relative to root; what cannot be a video is counted in `others`."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        inside, above = pending.pop()
        here = root / inside
        try:
            status = here.stat()
            entries = list(os.scandir(here))
        except OSError as error:
            raise StorageError(f"cannot read the folder {here}: {error.strerror}") from error
        place = (status.st_dev, status.st_ino)
        if place in above:
            others["links that lead back into themselves"] += 1
            continue
        for entry in entries:
            path = f"{inside}{entry.name}"
            if entry.name.startswith("."):
                others["hidden"] += 1
            elif entry.is_dir():
                pending.append((f"{path}/", above | {place}))
            elif entry.is_file():
                yield path
            else:
                others["broken links" if entry.is_symlink() else "special files"] += 1


def _describe_others(others: Counter[str]) -> str:
    kinds = [f"{kind} ({count})" for kind, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))]
    more = f" and {len(kinds) - 8} more kinds" if len(kinds) > 8 else ""
    return f"{sum(others.values())} entries that are no videos: {', '.join(kinds[:8])}{more}"


def _split_levels(paths: list[str], note: Callable[[str], None]) -> dict[str, str]:
    """First folder → split, or {} when the first folders are classes."""
    tops = {top for top, separator, _ in (path.partition("/") for path in paths) if separator}
    levels = {top: _LEVELS[top.lower()] for top in tops if top.lower() in _LEVELS}
    if not levels:
        return {}
    if len(levels) < len(tops):
        inside, beside = sorted(levels), sorted(tops - set(levels))
        note(f"{', '.join(inside)}: taken for a class, not a split, since {beside[0]} stands beside it")
        return {}
    note("splits by folder: " + ", ".join(f"{top}/ is {levels[top]}" for top in sorted(levels)))
    return levels


def _keys(paths: list[str]) -> list[str]:
    """Keys of all paths; files that differ in their suffix only get the hash of their whole name."""
    keys = [make_key(path) for path in paths]
    often = {key for key, count in Counter(keys).items() if count > 1}
    return [make_key(p, hashed=True) if key in often else key for p, key in zip(paths, keys, strict=True)]


def _video(path: str, key: str, *, root: str, levels: dict[str, str]) -> Video:
    *folders, _ = path.split("/")
    split = levels.get(folders[0]) if folders else None
    if split is not None:
        del folders[0]
    # macOS stores decomposed names; labels are compared between machines.
    label = unicodedata.normalize("NFC", folders[0]) if folders else None
    return Video(key=key, path=path, root=root, label=label, splits=(split,) if split else ())
