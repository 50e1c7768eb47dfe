"""Which tars are meant: paths and URLs with patterns, and folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from shards.errors import UserError
from shards.foreign import split_url
from shards.storage import open_storage

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 1_000_000


def find_tars(urls: Sequence[str | Path]) -> list[str]:
    """Paths and URLs of tars, each once, in the order given; within a folder or pattern by name.

    Args:
        urls: `a/000000.tar`, `a/{000000..000099}.tar`, `a/*.tar`, or a folder `a`, whose `*.tar` are taken.

    Raises:
        UserError: a pattern or folder without tar. StorageError: a folder cannot be listed.
    """
    found: list[str] = []
    for url in urls:
        text = str(url)
        for one in _ranges(text):
            found += _listed(_absolute(one))
    if not found:
        raise UserError("no tar is given; name tars, patterns such as 'DIR/{000000..000099}.tar', or folders")
    return list(dict.fromkeys(found))


def _absolute(url: str) -> str:
    return url if "://" in url else str(Path(url).expanduser().absolute())


def _ranges(url: str) -> Iterator[str]:
    match = _RANGE.search(url)
    if match is None:
        yield url
        return
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= _MOST:
        raise UserError(f"{url}: {match[0]} must ascend, and stand for at most {_MOST:,} numbers")
    width = len(match[1]) if match[1].startswith("0") else 0
    for number in range(first, last + 1):
        yield from _ranges(f"{url[: match.start()]}{number:0{width}d}{url[match.end() :]}")


def _listed(url: str) -> list[str]:
    folder, name = split_url(url.rstrip("/"))
    if any(sign in folder for sign in "*?["):
        raise UserError(f"{url}: patterns are understood in the last part only; name the folders")
    if any(sign in name for sign in "*?["):
        names = [it for it in open_storage(folder).list("") if fnmatchcase(it, name)]
        if not names:
            raise UserError(f"nothing in {folder} is named like {name}")
        return [f"{folder.rstrip('/')}/{it}" for it in names]
    if name.endswith(".tar"):
        return [url]
    if name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        raise UserError(f"{url} is compressed: places in it cannot be reached; decompress it first")
    names = [it for it in open_storage(url).list("") if it.endswith(".tar")]
    if not names:
        raise UserError(f"{url} is no tar by its name, and no folder that holds any *.tar")
    return [f"{url.rstrip('/')}/{it}" for it in names]
