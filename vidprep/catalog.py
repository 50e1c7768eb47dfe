"""From a folder of videos to a manifest: which videos there are, their classes, groups and splits."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.plugins import load_object
from vidprep.classes import check_classes, classes_path, read_classes, write_classes
from vidprep.folder import folder
from vidprep.records import Video, write_manifest
from vidprep.splits import ListReport, assign_lists, hold_out, shared_groups

# A catalog lists the videos below a root. It is called with the user's options, and with `note`, a function for lines
# about what it found, if it takes one.
Catalog = Callable[..., Iterable[Video]]
CATALOGS: dict[str, Catalog] = {"folder": folder}

# UCF101: v_Archery_g01_c02.avi is clip 2 of source video 1 of its class.
UCF_GROUP = r"(?:^|/)(v_[^/]+_g\d+)_c\d+\.\w+$"


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `index` found.

    Attributes:
        videos: in manifest order.
        classes: names in the order of their indices; empty without labels.
        lists: one report for each split file.
        notes: what was recognised or left out. warnings: what is probably a mistake.
    """

    videos: tuple[Video, ...]
    classes: tuple[str, ...]
    lists: tuple[ListReport, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def split_counts(self) -> dict[str, int]:
        """Split name → number of videos, in alphabetical order."""
        return dict(sorted(Counter(split for video in self.videos for split in video.splits).items()))


def index(
    root: str | Path,
    *,
    format: str = "folder",
    classes: str | Path | None = None,
    split_files: Sequence[tuple[str | None, str | Path]] = (),
    holdout: Sequence[str] = (),
    group: str | None = None,
    strict: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Index:
    """List the videos below `root` with their classes, groups and splits.

    Args:
        root: folder of the data set.
        format: a name in `CATALOGS`, or `file.py:Name` for a catalog of your own.
        classes: file that fixes the class indices (`vidprep.classes.read_classes`). Default: alphabetical.
        split_files: (name or None, file): official or own lists (`vidprep.splits.read_list`).
        holdout: patterns on file name or relative path; what fits is split `test`, all else `train`.
        group: regular expression searched in the relative path; its first group is the video's group. Default: the
            source video of UCF101 names.
        strict: an entry of a list without its video is an error.
        options: further keyword arguments of the catalog.

    Raises:
        UserError: nothing found, unknown classes, lists that fit nothing, and every other mistake a user can mend.
    """
    notes: list[str] = []
    videos = _listed(_catalog(format), Path(root), dict(options or {}), notes)
    videos, table = _number_classes(videos, read_classes(classes) if classes else None, notes)
    videos = _group(videos, group, notes)
    videos, lists = assign_lists(videos, split_files, strict=strict)
    videos = hold_out(videos, holdout) if holdout else videos
    warnings = shared_groups(videos)
    if len(table) == 1 and classes is None:
        warnings.append(f"all videos are of one class, {table[0]!r}: is {root} one folder too high?")
    return Index(videos=tuple(videos), classes=table, lists=tuple(lists), notes=tuple(notes), warnings=tuple(warnings))


def write_index(found: Index, manifest: str | Path) -> None:
    """Write the manifest and, where there are labels, its class table."""
    if found.classes:
        write_classes(classes_path(manifest), found.classes)
    else:
        classes_path(manifest).unlink(missing_ok=True)  # of an earlier run: it would be wrong now
    write_manifest(manifest, found.videos)


def _catalog(name: str) -> Catalog:
    if name in CATALOGS:
        return CATALOGS[name]
    if ":" not in name:
        raise UserError(f"--format {name!r} is unknown; allowed: {', '.join(CATALOGS)}, or file.py:Name")
    catalog = load_object(name)
    if not callable(catalog):
        raise UserError(f"--format {name}: it is no function; a catalog is a function (root, **options) -> videos")
    return catalog  # type: ignore[no-any-return]


def _listed(catalog: Catalog, root: Path, options: dict[str, Any], notes: list[str]) -> list[Video]:
    taken = inspect.signature(catalog).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
    if "note" in taken or open_ended:
        options["note"] = notes.append
    if unknown := [] if open_ended else sorted(set(options) - set(taken)):
        own = [name for name in taken if name not in ("root", "note")]
        raise UserError(f"the catalog has no option {unknown[0]!r}; it has: {', '.join(own) or 'none'}")
    videos = list(catalog(root, **options))
    if wrong := [video for video in videos if not isinstance(video, Video)]:
        raise UserError(f"the catalog gave {wrong[0]!r}; it must give vidprep.records.Video objects")
    if not videos:
        raise UserError(f"no video in {root}")
    seen: dict[str, str] = {}
    for video in videos:
        if video.key in seen:
            raise UserError(f"key {video.key!r} stands for {seen[video.key]} and for {video.path}; make it unique")
        seen[video.key] = video.path
    return videos


def _number_classes(
    videos: list[Video], table: tuple[str, ...] | None, notes: list[str]
) -> tuple[list[Video], tuple[str, ...]]:
    """Give every labelled video its class index: that of `table`, else the catalog's own, else alphabetical."""
    used = sorted({video.label for video in videos if video.label is not None})
    if not used:
        if table:
            raise UserError("--classes was given, but no video has a label: they stand in no class folder")
        return videos, ()
    if table is None:
        table = _own_numbers(videos) or check_classes(used, where="the class folders")
    number = {name: i for i, name in enumerate(table)}
    folded = {name.casefold(): name for name in table}
    spelling = {name: name if name in number else folded.get(name.casefold(), "") for name in used}
    if missing := [name for name in used if not spelling[name]]:
        count = sum(video.label in missing for video in videos)
        listed = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
        raise UserError(
            f"{count} videos are of classes that --classes does not name: {listed}; add them, or move the videos away"
        )
    for name in used:
        if spelling[name] != name:
            notes.append(f"class folder {name} is class {spelling[name]} of the table (letter case differs)")
    if unused := len(table) - len(set(spelling.values())):
        notes.append(f"{unused} of {len(table)} classes have no video here")
    labelled = [
        video
        if video.label is None
        else replace(video, label=spelling[video.label], label_index=number[spelling[video.label]])
        for video in videos
    ]
    return labelled, table


def _own_numbers(videos: list[Video]) -> tuple[str, ...] | None:
    """The table of a catalog that numbers its classes itself; None when it does not."""
    pairs = {(video.label_index, video.label) for video in videos if video.label is not None}
    given = [(i, name) for i, name in sorted(pairs, key=str) if i is not None]
    if not given:
        return None
    table = dict(given)
    if len(given) != len(pairs) or sorted(table) != list(range(len(pairs))):
        raise UserError(
            "the catalog's label_index do not number its classes from 0 without gaps, one index a class; "
            "leave them out (alphabetical order) or give --classes FILE"
        )
    return check_classes([str(table[i]) for i in range(len(table))], where="the catalog")


def _group(videos: list[Video], pattern: str | None, notes: list[str]) -> list[Video]:
    try:
        regex = re.compile(pattern or UCF_GROUP)
    except re.error as error:
        raise UserError(f"--group {pattern!r} is not a regular expression: {error}") from error
    grouped, count = [], 0
    for video in videos:
        match = regex.search(video.path)
        name = (match[1] if regex.groups else match[0]) if match else None
        count += bool(name)
        grouped.append(replace(video, group=name) if name else video)
    if pattern and not count:
        raise UserError(f"--group {pattern!r} fits no path; the first is {videos[0].path!r}")
    if count and count < len(videos) and pattern:
        notes.append(f"--group fits {count} of {len(videos)} videos; the others have no group")
    return grouped
