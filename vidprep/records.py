"""The manifest: JSON lines, one `Video` a line, streamed; written by `vidprep index`, editable by hand."""

from __future__ import annotations

import json
import math
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import StorageError, UserError
from shards.keys import MAX_KEY_BYTES, is_key
from shards.text import to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One video of a data set, before it is decoded.

    Attributes:
        key: unique name in the data set: no dots, slashes or white space, at most 100 bytes.
        path: where the file is, relative to `root`, with `/` between folders; `a.tar!b.mp4` is the file b.mp4 in a tar.
        root: absolute folder or URL, or a tar with `!`. May be left out in a manifest line: the manifest's own folder.
        label: class name; `label_index`: its number in the class table.
        splits: named splits the video belongs to.
        group: videos of one group (source video, person) should not stand on both sides of a split.
        caption: free text, or several texts.
        fps, frames: what is known beforehand; packing measures both itself.
        start, end: seconds; the part of the file that is the video. None: from the beginning, to the end.
    """

    key: str
    path: str
    root: str
    label: str | None = None
    label_index: int | None = None
    splits: tuple[str, ...] = ()
    group: str | None = None
    caption: str | Sequence[str] | None = None
    fps: float | None = None
    frames: int | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.caption, list):
            object.__setattr__(self, "caption", tuple(self.caption))
        for name, (fits, wanted) in _FIELDS.items():
            value = getattr(self, name)
            if not fits(value) and not (value is None and name not in _REQUIRED):
                raise UserError(f"{name} is {value!r}; it must be {wanted}")
        if self.label is None and self.label_index is not None:
            raise UserError(f"label_index is {self.label_index} but there is no label; give both or neither")
        if self.end is not None and self.end <= (self.start or 0):
            raise UserError(f"end is {self.end} s, not after start ({self.start or 0} s)")

    @property
    def location(self) -> str:
        """Where the file is: `root` joined with `path`."""
        return f"{self.root.rstrip('/')}/{self.path}" if self.root != "/" else f"/{self.path}"


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and is_key(value)


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not value or "\0" in value or value.startswith("/") or "://" in value:
        return False
    return posixpath.normpath(value).split("/")[0] not in ("..", ".")


def _is_root(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and (value.startswith("/") or "://" in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_caption(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, tuple) and value != () and all(map(_is_text, value)))


def _is_splits(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


# Field → (test, what the error says is allowed). None is allowed besides, except in the required ones.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "key": (_is_key, f"text of at most {MAX_KEY_BYTES} bytes without dots, slashes or white space"),
    "path": (_is_path, "a path relative to the root that stays inside it"),
    "root": (_is_root, "an absolute folder or a URL"),
    "label": (_is_text, "text (a class name)"),
    "label_index": (_is_count, "a whole number from 0"),
    "splits": (_is_splits, "a list of different split names"),
    "group": (_is_text, "text"),
    "caption": (_is_caption, "text, or a list of texts"),
    "fps": (lambda value: _is_seconds(value) and value > 0, "a number above 0 (frames a second)"),
    "frames": (_is_count, "a whole number from 0"),
    "start": (_is_seconds, "a number of seconds from 0"),
    "end": (_is_seconds, "a number of seconds from 0"),
}
_REQUIRED = ("key", "path", "root", "splits")


def read_manifest(path: str | Path) -> Iterator[Video]:
    """Yield the videos of a manifest in its order.

    Streams: of the lines read, only a hash of each key is kept, to find duplicates.

    Raises:
        UserError: a line is not JSON, has an unknown field, a wrong value, or a key for the second time.
            The message starts with `file:line:`.
        StorageError: the file cannot be read.
    """
    path = Path(path)
    seen: set[int] = set()
    for number, line in _lines(path):
        video = _parse(line, path, number)
        digest = hash(video.key)
        if digest in seen and (first := _line_of(video.key, path, number)) is not None:
            raise UserError(
                f"{path}:{number}: key {video.key!r} already stands on line {first}; keys must be unique: "
                "remove one of the lines or change its key"
            )
        seen.add(digest)
        yield video


def write_manifest(path: str | Path, videos: Iterable[Video]) -> int:
    """Write a manifest, atomically (aside, then renamed). Fields that are None or empty are left out.

    Returns:
        How many videos were written.

    Raises:
        StorageError: the file cannot be written.
    """
    path = Path(path)
    count = 0
    aside: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            aside = Path(file.name)
            for video in videos:
                file.write(_format(video))
                count += 1
            file.flush()
            os.fsync(file.fileno())
        _give_usual_mode(aside)
        aside.replace(path)
        aside = None
    except OSError as error:
        raise StorageError(f"cannot write the manifest {path}: {error.strerror or error}") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)
    return count


def _give_usual_mode(path: Path) -> None:
    """NamedTemporaryFile makes files only their owner can read; a manifest is as readable as any new file."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines from 1, blank ones left out."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise StorageError(
            f"cannot read the manifest {path}: {error.strerror or error}; vidprep index ROOT -o {path} writes one"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); a manifest is written by vidprep index") from error


def _parse(line: str, path: Path, number: int) -> Video:
    where = f"{path}:{number}"
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno}); one object a line") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where}: {line.strip()[:60]!r} is not a JSON object; one object a line")
    if unknown := sorted(set(fields) - set(_FIELDS)):
        raise UserError(f"{where}: unknown field {unknown[0]!r}; allowed: {', '.join(_FIELDS)}")
    if missing := [name for name in ("key", "path") if name not in fields]:
        raise UserError(f"{where}: field {missing[0]!r} is missing; a line needs at least key and path")
    if isinstance(fields.get("splits"), list):
        fields["splits"] = tuple(fields["splits"])
    if "root" not in fields:
        fields["root"] = str(path.parent.absolute())
    try:
        return Video(**fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _format(video: Video) -> str:
    values = {name: getattr(video, name) for name in _FIELDS}
    kept = {name: value for name, value in values.items() if value is not None and value != ()}
    return to_json(kept) + "\n"


def _line_of(key: str, path: Path, before: int) -> int | None:
    """The line below `before` that holds `key`; None when only the hashes were equal."""
    for number, line in _lines(path):
        if number >= before:
            break
        if json.loads(line)["key"] == key:
            return number
    return None
