"""Further shards at the end of a planned data set: new videos, and those that had no frame and are tried again.

What is finished never changes: samples keep their numbers. Derived columns lack the new shards until they are run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shards.errors import UserError
from shards.plan import Entry, Plan, extend_plan, read_plan
from shards.receipts import read_receipts
from shards.storage import Storage, open_storage
from vidprep.classes import read_classes
from vidprep.packing.options import PackOptions
from vidprep.packing.planning import entries, plan_roots, read_whole_manifest, root_now, video_of
from vidprep.packing.probing import balanced, probe_videos
from vidprep.packing.shards import bad_videos, retried
from vidprep.packing.work import FOLDER
from vidprep.planning import FEW
from vidprep.records import Video, read_manifest
from vidprep.runs import OnEvent, ignore, worker_count

_MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class Appended:
    """What was put at the end of a plan.

    Attributes:
        videos: how many; first, shards: the new shards' first number and their count.
        known: videos of the manifest that were planned before.
    """

    url: str
    videos: int
    first: int
    shards: int
    known: int = 0

    def __str__(self) -> str:
        before = f"; {self.known:,} were planned before" if self.known else ""
        if not self.videos:
            return f"{self.url}: nothing to add{before}"
        last = self.first + self.shards - 1
        named = f"shard {self.first}" if self.shards == 1 else f"shards {self.first} to {last}"
        return f"{self.url}: planned {self.videos:,} more videos in {named}{before}"


def append(
    manifest: str | Path,
    dest: str | Path,
    *,
    root: str | Path | None = None,
    classes: str | Path | None = None,
    workers: int | None = None,
    timeout: float = 600,
    on_event: OnEvent | None = None,
) -> Appended:
    """Plan the videos of a manifest that the data set does not have into new shards at its end.

    Args:
        manifest: the new videos; those whose keys were planned before are left as they are.
        root, classes, workers, timeout, on_event: as for `vidprep.planning.plan`. A class table has to begin with that
            of the data set; without one, new classes follow in alphabetical order.

    Raises:
        UserError: there is no plan of videos, or the manifest is wrong.
        StorageError: videos cannot be read or the destination cannot be written.
    """
    storage = open_storage(dest)
    plan = read_plan(storage)
    options = PackOptions.of_plan(plan.options, dest=storage.url)
    videos = read_whole_manifest(manifest, root=root, classes=classes, segments=options.segment_frames is not None)
    table = _classes(plan, videos.classes, classes, dest=storage.url)
    number = {name: i for i, name in enumerate(table)}
    keys = {entry.video["key"] for entry in plan}
    new = [
        replace(video, label_index=None if video.label is None else number[video.label])
        for video in videos
        if video.key not in keys
    ]
    known = videos.videos - len(new)
    return _extend(
        storage,
        plan,
        new,
        why="append",
        classes=table,
        known=known,
        workers=workers,
        timeout=timeout,
        tell=on_event or ignore,
    )


def retry(
    dest: str | Path,
    *,
    reasons: Sequence[str] = (),
    manifest: str | Path | None = None,
    root: str | Path | None = None,
    workers: int | None = None,
    timeout: float = 600,
    on_event: OnEvent | None = None,
) -> Appended:
    """Plan the videos that gave no frame into new shards at the end, to try them again.

    Args:
        reasons: codes of the verdicts that are meant; all by default.
        manifest: where mended videos are: lines with their keys, of which path, root, start and end are taken.
        root: folder they are in now.

    Raises:
        UserError: there is no plan of videos, or no verdict with such a code.
        StorageError: the destination cannot be written.
    """
    storage = open_storage(dest)
    plan = read_plan(storage)
    PackOptions.of_plan(plan.options, dest=storage.url)
    bad = bad_videos(list(read_receipts(storage, FOLDER)), retried(plan))
    codes = {found.key: found.code for verdicts in bad.values() for found in verdicts}
    present = Counter(codes.values())
    if unknown := [reason for reason in reasons if reason not in present]:
        listed = ", ".join(f"{code} ({count})" for code, count in present.most_common()) or "none"
        raise UserError(f"no video of {storage.url} was given up as {unknown[0]!r}; reasons there are: {listed}")
    wanted = {key for key, code in codes.items() if not reasons or code in reasons}
    waiting = _planned_later(plan, bad)
    videos = _lines(plan, wanted - waiting, dest=storage.url, root=root)
    if manifest is not None:
        mended = {video.key: video for video in read_manifest(manifest) if video.key in wanted}
        videos = [_mend(video, mended.get(video.key), root) for video in videos]
    return _extend(
        storage,
        plan,
        videos,
        why="retry",
        classes=tuple(plan.options["classes"]),
        known=len(wanted & waiting),
        workers=workers,
        timeout=timeout,
        tell=on_event or ignore,
    )


def _planned_later(plan: Plan, bad: Mapping[int, Sequence[Any]]) -> set[str]:
    """Keys that stand in a shard which is not finished: they are tried again already."""
    again = retried(plan)
    return {key for key, shard in again.items() if shard not in bad}


def _lines(plan: Plan, wanted: set[str], *, dest: str, root: str | Path | None) -> list[Video]:
    """The last planned line of each of these keys, in the order of the plan."""
    places = plan_roots(plan, dest=dest) if root is None else ()
    last: dict[str, Entry] = {entry.video["key"]: entry for entry in plan if entry.video["key"] in wanted}
    moved = None if root is None else root_now(root)
    return [video_of(entry.video, root=places[entry.root] if moved is None else moved) for entry in last.values()]


def _mend(video: Video, mended: Video | None, root: str | Path | None) -> Video:
    if mended is None:
        return video
    place = mended.root if root is None else root_now(root)
    return replace(video, path=mended.path, root=place, start=mended.start, end=mended.end)


def _classes(plan: Plan, found: tuple[str, ...], file: str | Path | None, *, dest: str) -> tuple[str, ...]:
    before = tuple(plan.options["classes"])
    if file is None:
        return before + tuple(sorted(set(found) - set(before)))
    table = tuple(read_classes(Path(file)))
    if table[: len(before)] != before:
        raise UserError(
            f"{file} does not begin with the {len(before)} classes of {dest}, whose numbers must stay; put new classes "
            "at its end"
        )
    return table


def _extend(
    storage: Storage,
    plan: Plan,
    videos: Sequence[Video],
    *,
    why: Literal["append", "retry"],
    classes: tuple[str, ...],
    known: int,
    workers: int | None,
    timeout: float,
    tell: OnEvent,
) -> Appended:
    first = max((entry.shard for entry in plan), default=-1) + 1
    if not videos:
        return Appended(url=storage.url, videos=0, first=first, shards=0, known=known)
    options = PackOptions.of_plan(plan.options, dest=storage.url)
    each = float((plan.options.get("estimate") or {}).get("bytes_per_video") or _MEGABYTE)
    shards = min(len(videos), max(1, round(len(videos) * each / options.shard_size)))
    bounds = [(len(videos) * i // shards, len(videos) * (i + 1) // shards) for i in range(shards)]
    if len(videos) > FEW:
        count = worker_count(workers)
        headers = probe_videos(videos, len(videos), options, workers=count, timeout=timeout, tell=tell)
        bounds = balanced(headers.weights, shards)
    roots = _union(plan_roots(plan, dest=storage.url), (video.root for video in videos))
    done = [*plan.options.get("appended", ()), {"first": first, "shards": shards, "videos": len(videos), "why": why}]
    changed = {**plan.options, "classes": list(classes), "roots": list(roots), "appended": done}
    extend_plan(storage, changed, entries(videos, bounds, roots=roots, first=first))
    return Appended(url=storage.url, videos=len(videos), first=first, shards=shards, known=known)


def _union(before: Sequence[str], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*before, *more]))
