"""Named splits: from lists of names, from patterns; and whether their sides share groups."""

from __future__ import annotations

import fnmatch
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shards.errors import UserError
from vidprep.folder import SUFFIXES
from vidprep.records import Video
from vidprep.split_files import read_list

_SHOWN = 5  # entries listed in messages


@dataclass(frozen=True, kw_only=True)
class ListReport:
    """What became of one split file.

    Attributes:
        source: the file as given. form: how it was read.
        counts: split → videos in it through this file.
        unmatched, ambiguous: names without a video, names that fit several.
        by_case: entries that fit only when letter case is ignored.
        unused: entries that the list itself leaves out.
    """

    source: str
    form: str
    counts: dict[str, int]
    unmatched: tuple[str, ...]
    ambiguous: tuple[str, ...]
    by_case: int
    unused: int

    @property
    def problems(self) -> str:
        """Unmatched and ambiguous entries in words, the first few by name; empty without any."""
        parts = []
        for what, names in (("without a video", self.unmatched), ("that fit several videos", self.ambiguous)):
            if names:
                more = ", …" if len(names) > _SHOWN else ""
                parts.append(f"{len(names)} entries {what}: {', '.join(names[:_SHOWN])}{more}")
        return "; ".join(parts)


def assign_lists(
    videos: Sequence[Video], files: Sequence[tuple[str | None, str | Path]], *, strict: bool = False
) -> tuple[list[Video], list[ListReport]]:
    """Add the splits of list files to videos.

    A file that only lists members defines the split NAME. One that assigns sides defines NAME-train, NAME-test and
    so on, or train, test when no name is given.

    Args:
        files: (NAME or None, file).
        strict: an entry without exactly one video is an error; otherwise only a file in which nothing fits.

    Raises:
        UserError, StorageError: see above, and `vidprep.split_files.read_list`.
    """
    if not files:
        return list(videos), []
    names = _Names(videos)
    splits: list[dict[str, None]] = [dict.fromkeys(video.splits) for video in videos]
    reports = []
    for name, file in files:
        report, members = _assign(names, name, file)
        if not any(report.counts.values()):
            raise UserError(
                f"no entry of {file} fits a video ({report.form}; {report.problems or 'it has none'}). "
                f"Names are compared with paths such as {videos[0].path}"
            )
        if strict and report.problems:
            raise UserError(f"{file}: {report.problems} (--strict)")
        for split, numbers in members.items():
            for number in numbers:
                splits[number][split] = None
        reports.append(report)
    return [replace(video, splits=tuple(s)) for video, s in zip(videos, splits, strict=True)], reports


def _assign(names: _Names, name: str | None, file: str | Path) -> tuple[ListReport, dict[str, set[int]]]:
    listed = read_list(file)
    if name is None and None in listed.sides:
        raise UserError(f"{file} only lists members ({listed.form}): name the split, --split-file NAME={file}")
    members: dict[str, set[int]] = {}
    unmatched: list[str] = []
    ambiguous: list[str] = []
    by_case = 0
    loose = not names.are_classes(entry for entries in listed.sides.values() for entry in entries)
    for side, entries in listed.sides.items():
        split = name if side is None else f"{name}-{side}" if name else side
        assert split is not None
        found = members.setdefault(split, set())
        for entry in entries:
            numbers, folded = names.find(entry, loose=loose)
            if len(numbers) == 1:
                found.add(numbers[0])
                by_case += folded
            else:
                (ambiguous if numbers else unmatched).append(entry)
    report = ListReport(
        source=str(file),
        form=listed.form,
        counts={split: len(numbers) for split, numbers in members.items()},
        unmatched=tuple(unmatched),
        ambiguous=tuple(ambiguous),
        by_case=by_case,
        unused=listed.unused,
    )
    return report, members


class _Names:
    """Finds videos by the names that lists use: relative path or key, then class and stem, then stem."""

    def __init__(self, videos: Sequence[Video]) -> None:
        self._suffixes = SUFFIXES | {posixpath.splitext(video.path)[1].lower() for video in videos} - {""}
        self._labels = {video.label.casefold() for video in videos if video.label is not None}
        self._tables: dict[bool, dict[tuple[str, ...], list[int]]] = {}
        for fold in (False, True):
            table = self._tables[fold] = defaultdict(list)
            for number, video in enumerate(videos):
                for name in dict.fromkeys(self._of_video(video)):
                    table[_folded(name) if fold else name].append(number)

    def are_classes(self, entries: Iterable[str]) -> bool:
        """Whether the folders in a list's entries are classes of the videos."""
        parents = {_normal_entry(entry).rpartition("/")[0].rpartition("/")[2].casefold() for entry in entries}
        return not parents.isdisjoint(self._labels)

    def find(self, entry: str, *, loose: bool) -> tuple[list[int], bool]:
        """Numbers of the videos that fit best, and whether only because letter case was ignored.

        `loose`: an entry's folder need not be the video's class. It must be where folders are classes: the same
        stem in another class is another video.
        """
        wanted = list(self._of_entry(entry, loose=loose))
        for fold in (False, True):
            for name in wanted:
                if numbers := self._tables[fold].get(_folded(name) if fold else name):
                    return numbers, fold
        return [], False

    def _of_video(self, video: Video) -> Iterator[tuple[str, ...]]:
        path = _normal(video.path)
        stem = self._stem(path.rpartition("/")[2])
        yield ("path", path)
        yield ("path", self._stem(path))
        yield ("key", video.key)
        if video.label is not None:
            yield ("label", video.label, stem)
        yield ("stem", stem)

    def _of_entry(self, entry: str, *, loose: bool) -> Iterator[tuple[str, ...]]:
        path = _normal_entry(entry)
        *folders, file = path.split("/")
        yield ("path", path)
        yield ("key", path)
        stems = dict.fromkeys((file, self._stem(file)))  # a stem may end in what looks like a suffix
        if folders:
            yield from (("label", folders[-1], stem) for stem in stems)
        if loose or not folders:
            yield from (("stem", stem) for stem in stems)

    def _stem(self, name: str) -> str:
        stem, suffix = posixpath.splitext(name)
        return stem if suffix.lower() in self._suffixes else name


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _normal_entry(entry: str) -> str:
    return _normal(entry.replace("\\", "/")).removeprefix("./")


def _folded(name: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in name)


def hold_out(videos: Sequence[Video], patterns: Sequence[str]) -> list[Video]:
    """Videos whose file name or relative path fits a pattern (`*`, `?`, `[…]`) get the split test, the others train.

    Raises:
        UserError: a pattern fits nothing, all is held out, or there are splits of these names already.
    """
    if taken := {"train", "test"} & {split for video in videos for split in video.splits}:
        raise UserError(f"--holdout defines train and test, but {min(taken)} is there already; leave out one of them")
    held: set[int] = set()
    for pattern in patterns:
        fits = {
            number
            for number, video in enumerate(videos)
            if any(fnmatch.fnmatchcase(n, pattern) for n in (video.path, video.path.rpartition("/")[2]))
        }
        if not fits:
            raise UserError(f"--holdout {pattern!r} fits no video; it is compared with names such as {videos[0].path}")
        held |= fits
    if len(held) == len(videos):
        raise UserError(f"--holdout {' '.join(patterns)} fits all {len(videos)} videos; nothing is left to train on")
    return [
        replace(video, splits=(*video.splits, "test" if number in held else "train"))
        for number, video in enumerate(videos)
    ]


def shared_groups(videos: Sequence[Video]) -> list[str]:
    """Warnings for pairs NAME-train and NAME-test (or NAME-val) that share videos or groups."""
    members: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        for split in video.splits:
            members[split].add(video.path)
            if video.group is not None:
                groups[split].add(video.group)
    warnings = []
    for train in sorted(split for split in members if split.endswith("train")):
        for other in (train.removesuffix("train") + side for side in ("val", "test")):
            for what, table in (("videos", members), ("groups", groups)):
                if shared := sorted(table[train] & table[other] if other in table else ()):
                    more = ", …" if len(shared) > _SHOWN else ""
                    warnings.append(
                        f"{train} and {other} share {len(shared)} {what}: {', '.join(shared[:_SHOWN])}{more}"
                    )
                    break  # shared videos share their groups
    return warnings
