"""Which video goes into which shard, fixed before work starts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        roots: where the videos are, in the order in which the lines name them first.
    """

    path: Path
    root: str | None
    videos: int
    classes: tuple[str, ...]
    roots: tuple[str, ...]

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
    roots: dict[str, None] = {}
    count = 0
    for video in read_manifest(path):
        count += 1
        roots[video.root] = None
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
    given = None if root is None else root_now(root)
    return Manifest(
        path=path, root=given, videos=count, classes=table, roots=tuple(roots) if given is None else (given,)
    )


def root_now(root: str | Path) -> str:
    """Folder or URL the videos are in now. Raises UserError: there is no such folder."""
    if "://" in str(root):
        return str(root)
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir() and not (folder.name.endswith(".tar!") and Path(str(folder)[:-1]).is_file()):
        raise UserError(f"--root {folder} is not a folder; give the folder that the manifest's paths start from")
    return str(folder)


def entries(
    videos: Iterable[Video], bounds: Sequence[tuple[int, int]], *, roots: Sequence[str], first: int = 0
) -> Iterator[Entry]:
    """The plan's lines: shard first + i gets the videos bounds[i][0]…bounds[i][1]−1."""
    number = {root: i for i, root in enumerate(roots)}
    waiting = iter(videos)
    for shard, (start, stop) in enumerate(bounds, first):
        for video in islice(waiting, stop - start):
            yield Entry(shard=shard, video=planned(video), root=number[video.root])


def planned(video: Video) -> dict[str, Any]:
    """A video as the plan has it: all that does not depend on where the files are."""
    values = {f.name: getattr(video, f.name) for f in fields(Video) if f.name not in _NOT_PLANNED}
    values["splits"] = list(video.splits)
    values["caption"] = list(video.caption) if isinstance(video.caption, tuple) else video.caption
    return {name: value for name, value in values.items() if value is not None and value != []}


def shards_of(plan: Plan, *, dest: str, roots: Sequence[str] | None = None) -> Iterator[tuple[int, tuple[Video, ...]]]:
    """Shard numbers with their videos, as planned.

    Args:
        roots: where the videos are now, in place of the plan's roots; one stands for all of them.

    Raises:
        UserError: the plan is not one of videos.
    """
    places = plan_roots(plan, dest=dest) if roots is None else tuple(roots)
    if len(places) == 1:
        places *= len(plan.options.get("roots", places))
    for shard, lines in plan.entries():
        yield shard, tuple(_video(line, places) for line in lines)


def plan_roots(plan: Plan, *, dest: str) -> tuple[str, ...]:
    """Where the videos of a plan were when it was made. Raises UserError: it does not say."""
    roots = plan.options.get("roots")
    if not roots:
        raise UserError(
            f"the plan of {dest} does not say where its videos are (vidprep import or an older version wrote it); run "
            "the command that wrote it instead"
        )
    return tuple(roots)


def _video(line: Entry, roots: Sequence[str]) -> Video:
    return video_of(line.video, root=roots[line.root])


def video_of(line: Mapping[str, Any], *, root: str) -> Video:
    """The video of a line of the plan."""
    return Video(**{**line, "splits": tuple(line.get("splits", ())), "root": root})


def roots_now(plan: Plan, manifest: Manifest, *, dest: str) -> tuple[str, ...]:
    """The roots of the manifest's videos in place of the plan's; checks line by line that they are the same videos.

    Shards that were added later are not in the manifest; their roots are the plan's.

    Raises:
        UserError: the manifest is not the one that was planned.
    """
    roots = list(plan.options.get("roots") or manifest.roots[:1])
    found: dict[int, str] = {}
    videos = iter(manifest)
    stop = plan.options.get("appended", [{"first": None}])[0]["first"]
    for entry in plan:
        if entry.shard == stop:
            break
        video = next(videos, None)
        if video is None:
            raise UserError(_other_count(manifest, dest))
        line, now = dict(entry.video), planned(video)
        if line != now:
            what = next(k for k in {**line, **now} if line.get(k) != now.get(k))
            raise UserError(
                f"{manifest.path} is not the manifest {dest} was planned from: {what} of {line['key']} was "
                f"{line.get(what)!r} and is {now.get(what)!r}; labels and splits of a packed data set are changed by "
                "vidprep annotate, other changes need another destination, further videos vidprep plan --append"
            )
        if found.setdefault(entry.root, video.root) != video.root:
            raise UserError(
                f"{manifest.path} has videos in {video.root} and in {found[entry.root]} that were in one folder, "
                f"{roots[entry.root]}, when {dest} was planned; give --root, or the manifest that was planned"
            )
    if next(videos, None) is not None:
        raise UserError(_other_count(manifest, dest))
    return tuple(found.get(i, root) for i, root in enumerate(roots))


def _other_count(manifest: Manifest, dest: str) -> str:
    return (
        f"{manifest.path} lists {manifest.videos} videos, not as many as {dest} was planned from; give the same "
        f"manifest, choose another destination, or add new videos with vidprep plan --append {manifest.path} {dest}"
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
