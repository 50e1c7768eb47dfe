"""Packing: the videos of a manifest become a data set of shards.

First a plan fixes which video goes into which shard. Then worker processes write shards, each published whole with a
receipt. Then everything is put together. Whatever ends a run, the same call goes on where it stopped, and the tars
and indexes are byte for byte those of an uninterrupted run, on any number of workers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import StorageError, UserError
from shards.finalize import finalize
from shards.index import parse_index
from shards.plan import NAME as PLAN
from shards.plan import Plan, read_plan, write_plan
from shards.receipts import Receipt, Verdict, stem
from shards.storage import Storage, open_storage
from vidprep.derive import add_flow, add_labels, flow_maker, label_maker
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.labels import LabelMaker
from vidprep.estimate import DryRun, dry_run, measure_videos, shard_bounds, spread
from vidprep.packing.options import PackOptions, check_same
from vidprep.packing.planning import Manifest, entries, read_whole_manifest, shards_of
from vidprep.packing.work import FOLDER, ShardTask, verdict
from vidprep.records import Video
from vidprep.resize import Resize
from vidprep.runs import OnEvent, ShardRun, Work, ignore, worker_count
from vidprep.verdicts import repair

_PACK_SHARD = "vidprep.packing.work:pack_shard"
_SHORT_SIDE = 128
_MEASURED = 8  # videos, for the plan's estimate
_MEASURED_FRAMES = 256  # of each of them
_DRY_RUN = 20  # videos
_FIRST_FEW = 5
_COLUMNS = ("rgb", "flow", "statistics")


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What a data set holds after packing.

    Attributes:
        videos: of the manifest; bad: those that have no sample; warned: those packed with a warning.
        samples, frames: stored.
        bytes: of all tars.
        smaller: samples stored smaller than asked, because their videos are.
        verdicts: how many of each code.
        seconds: this run took.
    """

    url: str
    videos: int
    samples: int
    frames: int
    bytes: int
    shards: int
    bad: int
    warned: int
    smaller: int
    verdicts: Mapping[str, int]
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.samples:,} samples, {self.frames:,} frames, {self.bytes / 1e6:,.1f} MB in "
            f"{self.shards} shards; {self.bad} bad, {self.warned} with warnings, {self.smaller} smaller than asked"
        )


def pack(
    manifest: str | Path,
    dest: str | Path,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    quality: int = 90,
    shard_size: float = 256e6,
    segment_frames: int | None = None,
    name: str | None = None,
    root: str | Path | None = None,
    classes: str | Path | None = None,
    workers: int | None = None,
    max_bad: float = 0.02,
    timeout: float = 600,
    columns: Sequence[str] = ("rgb",),
    flow: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    on_event: OnEvent | None = None,
) -> PackReport:
    """Decode the videos of a manifest into a data set; going on where an earlier run stopped.

    Args:
        manifest: written by `vidprep index` or by hand.
        dest: the data set's folder.
        short_side: stored short side in pixels (128 unless `size` is given); smaller videos stay as they are.
        size: exact (height, width) instead.
        fps: resample to this rate by timestamps; None keeps all frames.
        quality: of the JPEGs, 1 to 100.
        shard_size: bytes of a shard, about.
        segment_frames: cut videos into samples of this many frames.
        name: what reports call the data set; the folder's name by default.
        root: where the videos are now, instead of the manifest's roots.
        classes: class table file; by default the one beside the manifest.
        workers: processes; one a core by default.
        max_bad: share of videos without a frame above which no data set is published.
        timeout: seconds without a new frame after which a video is given up.
        columns: "rgb", and "flow" and "statistics" to add these columns as `vidprep.derive.add_flow` and `add_labels`
            do, with the same bytes.
        flow, labels: arguments of these two functions.
        on_event: receives dicts with "event": "plan", "start", "progress", "shard", "verdict" or "done".

    Raises:
        UserError: wrong options or manifest, options or manifest other than the plan's, too many bad videos.
        StorageError: videos cannot be read or the destination cannot be written.
    """
    began = time.monotonic()
    if not 0 <= max_bad <= 1:
        raise UserError(f"max_bad is {max_bad}; it is a share from 0 to 1")
    storage = open_storage(dest)
    options = PackOptions(
        name=name or _name(storage),
        resize=_resize(short_side, size),
        fps=fps,
        quality=quality,
        shard_size=int(shard_size),
        segment_frames=segment_frames,
    )
    tell = on_event or ignore
    flow, labels = dict(flow or {}), dict(labels or {})
    makers(columns, flow, labels)  # wrong options are found before hours of work
    workers, derivers = worker_count(workers), workers
    videos = read_whole_manifest(manifest, root=root, classes=classes, segments=segment_frames is not None)
    storage.create(PLAN).discard()  # a destination that cannot be written is found before hours of work
    if not storage.exists(PLAN):
        _write_plan(storage, videos, options, workers=workers, timeout=timeout, tell=tell)
    plan = read_plan(storage)
    check_same(plan.options, options, dest=storage.url)
    if tuple(plan.options["classes"]) != videos.classes:
        raise UserError(
            f"{storage.url} was planned with other classes; give the same class table, or another destination"
        )
    work = Work(
        folder=FOLDER,
        target=_PACK_SHARD,
        total=videos.videos,
        shards=partial(_tasks, plan, videos, options, url=storage.url),
        condemn=_condemn,
        check=_Limit(storage.url, videos.videos, max_bad),
    )
    run = ShardRun(storage, work, workers=workers, timeout=timeout, tell=tell)
    run.write()
    finalize(storage)
    report = _report(storage, videos, run.receipts, options, seconds=time.monotonic() - began)
    tell({"event": "done", "message": str(report), **asdict(report)})
    for column, add, given in (("flow", add_flow, flow), ("statistics", add_labels, labels)):
        if column in columns:
            add(dest, workers=derivers, timeout=timeout, on_event=on_event, **given)
    return report


def makers(
    columns: Sequence[str], flow: Mapping[str, Any], labels: Mapping[str, Any]
) -> tuple[FlowMaker | None, LabelMaker | None]:
    """What makes the columns that are asked for. Raises UserError: unknown columns, wrong options."""
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or "rgb" not in columns:
        raise UserError(f"columns are {', '.join(columns)}; allowed are rgb, flow and statistics, and always rgb")
    if "statistics" in columns and "flow" not in columns:
        raise UserError("statistics are computed from flow: give the columns rgb,flow,statistics")
    maker = flow_maker(**flow) if "flow" in columns else None
    if maker is not None:
        maker.probe()
    return maker, label_maker(**labels) if "statistics" in columns else None


def estimate_pack(
    manifest: str | Path,
    dest: str | Path,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    quality: int = 90,
    shard_size: float = 256e6,
    segment_frames: int | None = None,
    root: str | Path | None = None,
    classes: str | Path | None = None,
    workers: int | None = None,
    timeout: float = 600,
    columns: Sequence[str] = ("rgb",),
    flow: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
) -> DryRun:
    """Decode 20 evenly spaced videos and say what `pack` with these arguments would need; writes nothing.

    Derived columns are measured on a few frames of each.

    Raises:
        UserError: wrong options or manifest.
        StorageError: videos cannot be read, or the destination cannot be a folder or be written.
    """
    options = PackOptions(
        name="dry run",
        resize=_resize(short_side, size),
        fps=fps,
        quality=quality,
        shard_size=int(shard_size),
        segment_frames=segment_frames,
    )
    workers = worker_count(workers)
    place = Path(open_storage(dest).url)
    videos = read_whole_manifest(manifest, root=root, classes=classes, segments=segment_frames is not None)
    picked = videos.at(spread(videos.videos, _DRY_RUN))
    flow_by, labels_by = makers(columns, flow or {}, labels or {})
    estimate = measure_videos(
        picked, options, workers=workers, limit=None, timeout=timeout, flow=flow_by, labels=labels_by
    )
    return dry_run(videos.videos, estimate, options, dest=place, workers=workers)


def _tasks(plan: Plan, videos: Manifest, options: PackOptions, *, url: str) -> Iterator[tuple[int, int, ShardTask]]:
    for shard, members in shards_of(plan, videos, dest=url):
        yield shard, len(members), ShardTask(url=url, shard=shard, videos=members, options=options)


def _condemn(video: Video, code: str, reason: str) -> Verdict:
    return verdict(video, "bad", code, reason, repair(code, video.location))


@dataclass(frozen=True)
class _Limit:
    """Ends a run that has too many bad videos."""

    url: str
    total: int
    max_bad: float

    def __call__(self, receipts: list[Receipt], done: int) -> None:
        bad_of = {r.shard: [found for found in r.verdicts if found.level == "bad"] for r in receipts}
        bad = [found for shard in sorted(bad_of) for found in bad_of[shard]]
        if len(bad) <= self.max_bad * self.total:
            return
        finished = done == self.total
        counts = ", ".join(f"{count} {code}" for code, count in Counter(f.code for f in bad).most_common())
        few = "\n".join(f"  {f.source}: {f.message} ({f.code})" for f in bad[:_FIRST_FEW])
        named = [f"{stem(FOLDER, shard)}.json" for shard in sorted(bad_of) if bad_of[shard]]
        more = f" and {len(named) - _FIRST_FEW} more" if len(named) > _FIRST_FEW else ""
        enough = f"{min(100.0, -(-1000 * len(bad) // self.total) / 10):g}%" if finished else "100%"
        raise UserError(
            f"{len(bad)} of {self.total} videos give no frame{'' if finished else ' so far'} ({counts}), more than "
            f"--max-bad {100 * self.max_bad:g}% allows. The first:\n{few}\nTo leave them out run the same command "
            f"with --max-bad {enough}; to try mended files again remove the receipts of their shards first, in "
            f"{self.url}: {', '.join(named[:_FIRST_FEW])}{more}. Finished shards are kept"
        )


def _resize(short_side: int | None, size: tuple[int, int] | None) -> Resize:
    if short_side is not None and size is not None:
        raise UserError(f"give either short_side ({short_side}) or size ({size[0]}x{size[1]}), not both")
    if size is not None:
        return Resize(size=size)
    return Resize(short_side=_SHORT_SIDE if short_side is None else short_side)


def _name(storage: Storage) -> str:
    """The planned name where there is a plan, else that of the folder."""
    if storage.exists(PLAN):
        return str(read_plan(storage).options["name"])
    return storage.url.rstrip("/").rpartition("/")[2] or "data"


def _write_plan(
    storage: Storage, videos: Manifest, options: PackOptions, *, workers: int, timeout: float, tell: OnEvent
) -> None:
    if storage.list(FOLDER):
        raise StorageError(f"{storage.url} holds shards but no plan; choose an empty destination")
    picked = videos.at(spread(videos.videos, _MEASURED))
    tell({"event": "plan", "message": f"measuring {len(picked)} of {videos.videos:,} videos"})
    estimate = measure_videos(picked, options, workers=workers, limit=_MEASURED_FRAMES, timeout=timeout)
    bounds = shard_bounds(videos.videos, estimate, options)
    recorded = {
        "measured": estimate.measured,
        "bytes_per_video": round(estimate.bytes_per_video(options)),
        "frames_per_video": round(estimate.frames, 1),
    }
    planned = {**options.planned(), "classes": list(videos.classes), "estimate": recorded}
    write_plan(storage, planned, entries(videos, bounds))


def _report(
    storage: Storage, videos: Manifest, receipts: list[Receipt], options: PackOptions, *, seconds: float
) -> PackReport:
    index = parse_index(storage.map(f"{FOLDER}/index.bin"), f"{storage.url}/{FOLDER}/index.bin")
    sizes, counts = np.unique(index.samples[["height", "width"]], return_counts=True)
    smaller = sum(int(n) for (h, w), n in zip(sizes.tolist(), counts, strict=True) if options.resize.is_smaller(h, w))
    verdicts = [found for receipt in receipts for found in receipt.verdicts]
    return PackReport(
        url=storage.url,
        videos=videos.videos,
        samples=sum(receipt.samples for receipt in receipts),
        frames=sum(receipt.frames for receipt in receipts),
        bytes=sum(receipt.tar_size for receipt in receipts),
        shards=len(receipts),
        bad=sum(found.level == "bad" for found in verdicts),
        warned=len({found.key for found in verdicts if found.level == "warning"}),
        smaller=smaller,
        verdicts=dict(Counter(found.code for found in verdicts).most_common()),
        seconds=seconds,
    )
