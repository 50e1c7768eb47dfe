"""Importing: trees of frames and flow that other code bases read become the columns of a data set.

JPEG files are copied, not decoded and compressed anew. As in packing a plan fixes which video goes into which shard,
shards are published whole with a receipt, and the same call goes on where an earlier one was ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from shards.derived import finalize_column, folder_for
from shards.errors import StorageError, UserError
from shards.finalize import finalize
from shards.index import FAILED
from shards.meta import Meta
from shards.plan import NAME as PLAN
from shards.plan import Plan, read_plan, write_plan
from shards.receipts import Receipt, Verdict, has_receipt, stem
from shards.storage import Storage, open_storage
from vidprep.catalog import Index, index
from vidprep.folders.columns import RGB, ImportTask, flow_parameters, read_index, verdict
from vidprep.folders.layouts import LAYOUTS
from vidprep.folders.planning import check_plan, plan_entries, plan_options
from vidprep.folders.report import ImportReport, Limit, import_report
from vidprep.folders.roots import Place, find_places, find_roots
from vidprep.records import Video
from vidprep.runs import OnEvent, ShardRun, Work, ignore, worker_count

_TARGET = "vidprep.folders.columns:import_shard"
_CATALOG = "vidprep.folders.scan:frame_folders"
_PRODUCER = "vidprep import"
_FLOW = "flow"


def import_frames(
    root: str | Path,
    dest: str | Path,
    *,
    layout: str,
    rgb: str | Path | None = None,
    flow: str | Path | None = None,
    with_flow: bool = True,
    fps: float = 25.0,
    classes: str | Path | None = None,
    split_files: Sequence[tuple[str | None, str | Path]] = (),
    holdout: Sequence[str] = (),
    group: str | None = None,
    strict: bool = False,
    shard_size: float = 256e6,
    name: str | None = None,
    workers: int | None = None,
    max_bad: float = 0.02,
    timeout: float = 600,
    on_event: OnEvent | None = None,
) -> ImportReport:
    """Bring a tree of frames, and one of flow where there is one, into the columns of a data set.

    Args:
        root: folder of the trees. dest: the data set's folder.
        layout: key of `vidprep.folders.layouts.LAYOUTS`.
        rgb, flow: where the trees are, if not where the layout has them below `root`. flow: the folder of `u` and `v`.
        with_flow: False leaves flow out.
        fps: assumed frame rate; frame folders do not say theirs.
        classes, split_files, holdout, group, strict: as in `vidprep.catalog.index`.
        shard_size: bytes of a shard of the rgb column, about.
        name: what reports call the data set; the folder's name by default.
        workers: processes; one a core by default.
        max_bad: share of videos without sample, or without flow, above which the column is not put in force.
        timeout: seconds without progress after which a video is given up.
        on_event: as in `vidprep.pack.pack`; also "note" with what the scan found.

    Raises:
        UserError: wrong options, nothing found, a destination planned for something else, too many bad videos.
        StorageError: files cannot be read or the destination cannot be written.
    """
    began, tell = time.monotonic(), on_event or ignore
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    if not 0 <= max_bad <= 1:
        raise UserError(f"max_bad is {max_bad}; it is a share from 0 to 1")
    if not 0 < fps < 1000:
        raise UserError(f"fps is {fps}; it must be above 0 and below 1000")
    workers, fps = worker_count(workers), float(fps)
    storage = open_storage(dest)
    roots = find_roots(Path(root), LAYOUTS[layout], rgb=rgb, flow=flow, with_flow=with_flow)
    found = index(
        roots.rgb,
        format=_CATALOG,
        classes=classes,
        split_files=split_files,
        holdout=holdout,
        group=group,
        strict=strict,
        options={"layout": layout, "skip": roots.skip},
    )
    _tell_notes(found, tell)
    plan = _plan(storage, found, layout=layout, fps=fps, shard_size=int(shard_size), name=name)
    job = _Job(storage, plan, found.videos, layout, fps, workers=workers, max_bad=max_bad, timeout=timeout, tell=tell)
    receipts = job.write_frames()
    meta = finalize(storage, producer=_PRODUCER)
    places = find_places(roots, LAYOUTS[layout], found.videos)
    flow_receipts: list[Receipt] | None = None
    if places is None:
        tell({"event": "note", "message": f"no flow: {roots.no_flow}"})
    else:
        flow_receipts = job.write_flow(meta, places)
    report = import_report(storage, found.videos, receipts, flow_receipts, seconds=time.monotonic() - began)
    tell({"event": "done", "message": str(report), **asdict(report)})
    return report


class _Job:
    """The columns of one import."""

    def __init__(
        self,
        storage: Storage,
        plan: Plan,
        videos: Sequence[Video],
        layout: str,
        fps: float,
        *,
        workers: int,
        max_bad: float,
        timeout: float,
        tell: OnEvent,
    ) -> None:
        self._storage, self._plan, self._layout, self._fps = storage, plan, layout, fps
        self._videos = {video.key: video for video in videos}
        self._workers, self._max_bad, self._timeout, self._tell = workers, max_bad, timeout, tell

    def write_frames(self) -> list[Receipt]:
        """Write the shards of the rgb column that are not finished."""
        return self._write(RGB, self._tasks)

    def write_flow(self, meta: Meta, places: Mapping[str, Place]) -> list[Receipt]:
        """Write the shards of the flow column that are not finished, and put it in force."""
        parameters = flow_parameters(self._layout)
        folder = folder_for(self._storage, meta, _FLOW, parameters=parameters, digests={})
        for shard in range(meta.shards):
            if has_receipt(self._storage, folder, shard) and not self._belongs(folder, shard):
                # The frames were imported anew since; the receipt is what makes this a finished shard.
                self._storage.remove(f"{stem(folder, shard)}.json")
        receipts = self._write(folder, partial(self._tasks, folder=folder, flow=True, places=places))
        # It is not made from the frames, so it has no sources that could change under it.
        finalize_column(self._storage, _FLOW, kind="flow", folder=folder, producer=_PRODUCER, sources=())
        return receipts

    def _belongs(self, folder: str, shard: int) -> bool:
        """Whether a flow shard is of the samples, and their numbers of frames, that the rgb shard has now."""
        frames, flow = (read_index(self._storage, shard, it) for it in (RGB, folder))
        if frames.all_keys() != flow.all_keys():
            return False
        valid = flow.samples["flags"] & FAILED == 0
        return bool((flow.samples["frames"][valid] == 2 * (frames.samples["frames"][valid] - 1)).all())

    def _tasks(
        self, *, folder: str = RGB, flow: bool = False, places: Mapping[str, Place] | None = None
    ) -> Iterator[tuple[int, int, ImportTask]]:
        for shard, lines in self._plan.shards():
            videos = tuple(self._videos[line["key"]] for line in lines)
            its = {video.key: places[video.key] for video in videos if places is not None and video.key in places}
            task = ImportTask(
                url=self._storage.url,
                shard=shard,
                videos=videos,
                layout=self._layout,
                fps=self._fps,
                folder=folder,
                flow=flow,
                places=its,
            )
            yield shard, len(videos), task

    def _write(self, folder: str, tasks: Any) -> list[Receipt]:
        work = Work(
            folder=folder,
            target=_TARGET,
            total=len(self._videos),
            shards=tasks,
            condemn=_condemn,
            check=Limit(self._storage.url, folder, len(self._videos), self._max_bad),
        )
        run = ShardRun(self._storage, work, workers=self._workers, timeout=self._timeout, tell=self._tell)
        run.write()
        return run.receipts


def _condemn(video: Video, code: str, reason: str) -> Verdict:
    return verdict(video, "bad", code, reason)


def _plan(storage: Storage, found: Index, *, layout: str, fps: float, shard_size: int, name: str | None) -> Plan:
    if shard_size < 1:
        raise UserError(f"shard size is {shard_size} bytes; it must be at least 1")
    storage.create(PLAN).discard()  # a destination that cannot be written is found before the work
    if not storage.exists(PLAN):
        if storage.list(RGB):
            raise StorageError(f"{storage.url} holds shards but no plan; choose an empty destination")
        name = name or storage.url.rstrip("/").rpartition("/")[2] or "data"
        options, bounds = plan_options(found, LAYOUTS[layout], name=name, fps=fps, shard_size=shard_size)
        write_plan(storage, options, plan_entries(found.videos, bounds))
    plan = read_plan(storage)
    asked = {"layout": layout, "fps": fps, "shard_size": shard_size, **({"name": name} if name else {})}
    check_plan(plan, found, asked, dest=storage.url)
    return plan


def _tell_notes(found: Index, tell: OnEvent) -> None:
    for report in found.lists:
        counts = ", ".join(f"{split} {count:,}" for split, count in report.counts.items())
        tell({"event": "note", "message": f"{report.source} is a {report.form}: {counts}"})
        if report.problems:
            tell({"event": "note", "message": f"warning: {report.source}: {report.problems}"})
    for text in found.notes:
        tell({"event": "note", "message": text})
    for text in found.warnings:
        tell({"event": "note", "message": f"warning: {text}"})
