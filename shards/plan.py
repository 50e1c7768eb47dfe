"""plan.jsonl: which video goes into which shard, and all options, fixed before work starts.

The first line is `{"plan": 1, "options": {…}}`; then one line a video, `{"shard": 0, "video": {…}}`, shards ascending.
Retried and added videos become further shards at the end; the lines before never change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from shards.errors import DataError, StorageError
from shards.storage import MissingError, Storage
from shards.text import to_json

NAME = "plan.jsonl"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the plan.

    `video` has at least key, label, label_index, splits, group and caption (None or absent where unknown). `root`: the
    place in the option `roots` of the folder or URL its path starts from.
    """

    shard: int
    video: Mapping[str, Any]
    root: int = 0

    def line(self) -> bytes:
        fields: dict[str, Any] = {"shard": self.shard, "video": dict(self.video)}
        if self.root:
            fields["root"] = self.root
        return (to_json(fields) + "\n").encode()


def write_plan(storage: Storage, options: Mapping[str, Any], entries: Iterable[Entry]) -> int:
    """Publish a plan; streams. An existing one is a StorageError.

    Args:
        options: at least name, classes (class names in the order of their indices), size
            (`{"short_side": 128}` or `{"height": 128, "width": 171}`), fps, quality, segment_frames,
            shard_size, estimate.
        entries: shards ascend from 0 without holes.

    Returns:
        How many videos were planned.
    """
    aside = storage.create(NAME)
    try:
        aside.write(_head(options))
        count = 0
        for entry in _ascending(entries, -1):
            aside.write(entry.line())
            count += 1
        aside.publish()
    finally:
        aside.discard()
    return count


def extend_plan(storage: Storage, options: Mapping[str, Any], entries: Iterable[Entry]) -> int:
    """Put further shards at the end of a plan; its present lines stay byte for byte, its options become these.

    Args:
        entries: shards ascend without holes from the first number that the plan does not have.

    Returns:
        How many videos were added.

    Raises:
        StorageError: somebody else changed the plan meanwhile.
    """
    plan = read_plan(storage)
    before = storage.size(NAME)
    last = max((entry.shard for entry in plan), default=-1)
    count = 0
    aside = storage.create(NAME)
    try:
        aside.write(_head(options))
        for line in plan.lines():
            aside.write(line + b"\n")
        for entry in _ascending(entries, last):
            aside.write(entry.line())
            count += 1
        if storage.size(NAME) != before:
            raise StorageError(f"{storage.url}/{NAME} was changed by another process; run the same command again")
        aside.publish(replace=True)
    finally:
        aside.discard()
    return count


def _head(options: Mapping[str, Any]) -> bytes:
    return (to_json({"plan": VERSION, "options": dict(options)}) + "\n").encode()


def _ascending(entries: Iterable[Entry], last: int) -> Iterator[Entry]:
    first = last + 1
    for entry in entries:
        if entry.shard not in (last, last + 1) or entry.shard < first:
            raise ValueError(f"shard {entry.shard} cannot follow shard {last} in a plan")
        last = entry.shard
        yield entry


class Plan:
    """A stored plan; reads lines as they are asked for."""

    def __init__(self, storage: Storage) -> None:
        """Raises: MissingError: there is no plan. DataError: it is not one, or a newer version wrote it."""
        self._storage = storage
        self._where = f"{storage.url}/{NAME}"
        # Mapped, not read: the plan of a large data set has hundreds of megabytes.
        self._data = storage.map(NAME)
        head = self._parse(next(self._lines(), b"{}"), 1)
        if not isinstance(head.get("plan"), int) or not isinstance(head.get("options"), dict):
            raise DataError(f"{self._where} is not a plan; choose an empty destination")
        if head["plan"] > VERSION:
            raise DataError(
                f"{self._where} has format version {head['plan']}; this vidprep reads up to {VERSION}: "
                "pip install -U vidprep"
            )
        self.options: dict[str, Any] = head["options"]

    def __iter__(self) -> Iterator[Entry]:
        """All entries in order."""
        lines = self._lines()
        next(lines)
        for number, line in enumerate(lines, 2):
            fields = self._parse(line, number)
            try:
                yield Entry(shard=int(fields["shard"]), video=dict(fields["video"]), root=int(fields.get("root", 0)))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{self._where}:{number} is not a line of a plan ({error})") from error

    def shards(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Shard numbers, each with its videos in order."""
        for shard, entries in self.entries():
            yield shard, [dict(entry.video) for entry in entries]

    def entries(self) -> Iterator[tuple[int, list[Entry]]]:
        """Shard numbers, each with its lines in order."""
        for shard, entries in groupby(self, key=lambda entry: entry.shard):
            yield shard, list(entries)

    def lines(self) -> Iterator[bytes]:
        """The lines of the videos as they are stored, without their ends."""
        lines = self._lines()
        next(lines)
        yield from lines

    def videos(self, shard: int) -> list[dict[str, Any]]:
        """The videos of one shard; reads the plan up to it."""
        for number, videos in self.shards():
            if number == shard:
                return videos
        raise DataError(f"{self._where} plans no shard {shard}")

    def _lines(self) -> Iterator[bytes]:
        view, start = self._data.data, 0
        block = 1 << 20
        rest = b""
        while start < len(view):
            part = rest + bytes(view[start : start + block])
            start += block
            *lines, rest = part.split(b"\n")
            yield from lines
        if rest:
            yield rest

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise DataError(f"{self._where}:{number} is not JSON ({error}); choose an empty destination") from error
        if not isinstance(fields, dict):
            raise DataError(f"{self._where}:{number} is not a JSON object; choose an empty destination")
        return fields


def read_plan(storage: Storage) -> Plan:
    """Raises: DataError: the destination has no plan, or one that cannot be read."""
    try:
        return Plan(storage)
    except MissingError as error:
        raise DataError(
            f"{storage.url} has no {NAME}, so it is not a packed data set: vidprep pack MANIFEST {storage.url} "
            "writes one"
        ) from error
