"""Which video goes into which shard, fixed before work starts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.keys import MAX_KEY_BYTES, segment_key
from shards.plan import Entry, Plan
from vidprep.classes import check_classes, classes_path, read_classes
from vidprep.records import Video, read_manifest

_SEGMENT = re.compile(r"(.+)_s\d{3,}")
# Not part of a sample's identity: where the videos are, and what is measured anyway.
_NOT_PLANNED = frozenset({"root", "fps", "frames"})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that was read through once and found right.

    Attributes:
        path: of the file.
        root: where the videos are now, in place of the roots in the file; None: as the file says.
        videos: how many there are.
        classes: class names in the order of their indices.
    """

    path: Path
    root: str | None
    videos: int
    classes: tuple[str, ...]

    def __iter__(self) -> Iterator[Video]:
        """All videos in order, streamed, with the class table's indices."""
        index = {name: i for i, name in enumerate(self.classes)}
        for video in read_manifest(self.path):
            root = video.root if self.root is None else self.root
            yield replace(video, root=root, label_index=None if video.label is None else index[video.label])

    def at(self, numbers: Sequence[int]) -> list[Video]:
        """The videos with these ascending numbers."""
        wanted = set(numbers)
        return [video for i, video in enumerate(self) if i in wanted]


def read_whole_manifest(
    path: str | Path, *, root: str | Path | None, classes: str | Path | None, segments: bool
) -> Manifest:
    """Read a manifest through and check what concerns all of its lines.

    Args:
        root: folder the videos are in now; None: as the lines say.
        classes: a class table; None: the one beside the manifest where there is one, else the labels themselves.
        segments: videos will be cut, so keys need room for `_s000`.

    Raises:
        UserError: a wrong line, duplicate keys, no video at all, labels that the class table does not have or
            numbers otherwise, indices with holes.
    """
    path = Path(path)
    labels: dict[str, int | None] = {}
    first_line: dict[str, str] = {}
    tails: set[str] = set()
    count = 0
    for video in read_manifest(path):
        count += 1
        if segments:
            _check_room(video.key, path)
            tails.update(match[1] for match in [_SEGMENT.fullmatch(video.key)] if match)
        if video.label is None:
            continue
        if video.label in labels and labels[video.label] != video.label_index:
            raise UserError(
                f"{path}: class {video.label!r} is number {labels[video.label]} for {first_line[video.label]} and "
                f"{video.label_index} for {video.key}; give each class one number, or --classes FILE"
            )
        labels.setdefault(video.label, video.label_index)
        first_line.setdefault(video.label, video.key)
    if not count:
        raise UserError(f"{path} lists no video; vidprep index ROOT -o {path} writes a manifest")
    if tails and (clash := next((v.key for v in read_manifest(path) if v.key in tails), None)) is not None:
        raise UserError(f"{path}: segments of {clash!r} would be named like other videos; change its key")
    beside = classes_path(path)
    file = classes if classes is not None else beside if beside.exists() else None
    table = _derived(labels, path) if file is None else _given(labels, Path(file), path)
    if root is not None and "://" not in str(root):
        root = Path(root).expanduser().absolute()
        if not root.is_dir():
            raise UserError(f"--root {root} is not a folder; give the folder that the manifest's paths start from")
    return Manifest(path=path, root=None if root is None else str(root), videos=count, classes=table)


def entries(manifest: Manifest, bounds: Sequence[tuple[int, int]]) -> Iterator[Entry]:
    """The plan's lines: shard i gets the videos bounds[i][0]…bounds[i][1]−1."""
    videos = iter(manifest)
    for shard, (first, last) in enumerate(bounds):
        for video in islice(videos, last - first):
            yield Entry(shard=shard, video=planned(video))


def planned(video: Video) -> dict[str, Any]:
    """A video as the plan has it: all that does not depend on where the files are."""
    values = {f.name: getattr(video, f.name) for f in fields(Video) if f.name not in _NOT_PLANNED}
    values["splits"] = list(video.splits)
    return {name: value for name, value in values.items() if value is not None and value != []}


def shards_of(plan: Plan, manifest: Manifest, *, dest: str) -> Iterator[tuple[int, tuple[Video, ...]]]:
    """Shard numbers with their videos, checked against the manifest line by line.

    Raises:
        UserError: the manifest is not the one that was planned.
    """
    videos = iter(manifest)
    for shard, lines in plan.shards():
        members = tuple(islice(videos, len(lines)))
        for line, video in zip(lines, members, strict=False):
            if line != planned(video):
                what = next(k for k in {**line, **planned(video)} if line.get(k) != planned(video).get(k))
                raise UserError(
                    f"{manifest.path} is not the manifest {dest} was planned from: {what} of {line['key']} was "
                    f"{line.get(what)!r} and is {planned(video).get(what)!r}; labels and splits of a packed data set "
                    "are changed by vidprep annotate, other changes need another destination"
                )
        if len(members) < len(lines):
            raise UserError(_other_count(manifest, dest))
        yield shard, members
    if next(videos, None) is not None:
        raise UserError(_other_count(manifest, dest))


def _other_count(manifest: Manifest, dest: str) -> str:
    return (
        f"{manifest.path} lists {manifest.videos} videos, not as many as {dest} was planned from; give the same "
        "manifest, or choose another destination"
    )


def _check_room(key: str, path: Path) -> None:
    if len(os.fsencode(segment_key(key, 99_999))) > MAX_KEY_BYTES:
        raise UserError(f"{path}: key {key!r} leaves no room for a segment's number; use at most 93 bytes")


def _given(labels: dict[str, int | None], file: Path, manifest: Path) -> tuple[str, ...]:
    table = read_classes(file)
    number = {name: i for i, name in enumerate(table)}
    for label, index in labels.items():
        if label not in number:
            raise UserError(f"{manifest}: class {label!r} is not in {file} ({len(table)} classes)")
        if index is not None and index != number[label]:
            raise UserError(
                f"{manifest} numbers class {label!r} {index}, {file} numbers it {number[label]}; "
                "write the manifest anew with vidprep index --classes, or leave the numbers out"
            )
    return table


def _derived(labels: dict[str, int | None], manifest: Path) -> tuple[str, ...]:
    if not labels:
        return ()
    if all(index is None for index in labels.values()):
        return check_classes(sorted(labels), where=str(manifest))
    names: dict[int, str] = {}
    for label, index in labels.items():
        if index is None:
            raise UserError(f"{manifest}: class {label!r} has no number while others have; number all or none")
        if index in names:
            raise UserError(f"{manifest}: classes {names[index]!r} and {label!r} both have number {index}")
        names[index] = label
    if holes := sorted(set(range(max(names) + 1)) - set(names)):
        listed = ", ".join(map(str, holes[:5])) + (", …" if len(holes) > 5 else "")
        raise UserError(
            f"{manifest}: no class has number {listed} though numbers go up to {max(names)}; "
            "say what is meant by --classes FILE (one name a line)"
        )
    return check_classes([names[i] for i in range(len(names))], where=str(manifest))
