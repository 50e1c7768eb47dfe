"""Writing what is exported: folders and files are either absent or whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.errors import StorageError


def put_folder(target: Path, files: Iterable[tuple[str, bytes]]) -> tuple[int, int]:
    """Write a folder aside, then rename it: (files, bytes).

    Raises:
        StorageError: it cannot be written.
    """
    aside = target.with_name(f".{target.name}.{os.getpid():x}{secrets.token_hex(4)}.part")
    count = size = 0
    try:
        with writing(target):
            aside.mkdir(parents=True)
        for name, data in files:
            with writing(target):
                (aside / name).write_bytes(data)
            count, size = count + 1, size + len(data)
        with writing(target):
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return count, size


def put_file(target: Path, text: str) -> None:
    """Write a file aside, then rename it. Raises StorageError."""
    aside = target.with_name(f".{target.name}.{os.getpid():x}{secrets.token_hex(4)}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(target)


def remove_leftovers(parents: Iterable[Path]) -> None:
    """Remove what a killed run left unfinished."""
    for parent in sorted(set(parents)):
        for path in parent.glob(".*.part") if parent.is_dir() else ():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns the errors of the file system into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}; mend that and run the same command again, finished "
            "videos are kept"
        ) from error
