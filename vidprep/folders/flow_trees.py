"""Flow as folders: `u` and `v` trees of JPEGs beside frame folders, for code bases that read those.

What the statistics repositories read (reference code of both: `datasets/ucf101_dataset.py`, `read_clip.py`): one
folder a video without class folders, `frame%06d.jpg`, field n leads from frame n to n + 1.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.errors import DataError, UserError
from shards.flow import Release
from shards.procs import Lost, run_tasks
from shards.receipts import package_versions
from shards.storage import Storage, open_storage
from shards.text import to_json
from vidprep.folders.flow_video import ANY_FRAME, Done, Failed, FlowOptions, FlowTask, is_done, remove_leftovers
from vidprep.folders.scan import find_folders
from vidprep.resize import Resize
from vidprep.runs import OnEvent, ignore, worker_count

RECORD = "flow-folders.json"

_WRITE = "vidprep.folders.flow_video:write_video"
_PROBE = "vidprep.folders.flow_video:probe"
_ON_GPU = ("triton", "opencv-cuda")
_EVENT_SECONDS = 1.0
_PACKAGES = ("vidprep", "numpy", "numba", "opencv-contrib-python-headless", "simplejpeg")


@dataclass(frozen=True, kw_only=True)
class FlowReport:
    """What flow trees hold.

    Attributes:
        out: their folder. videos: found in the tree of frames.
        written, fields: videos and fields of this run; before: videos that were there already.
        clipped: share of this run's components beyond the codec's ±20 px.
        failed: folder → why it has no flow.
        seconds: this run took.
    """

    out: str
    videos: int
    written: int
    before: int
    fields: int
    clipped: float
    failed: Mapping[str, str]
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.written + self.before:,} of {self.videos:,} videos, {len(self.failed)} failed; "
            f"{self.fields:,} fields written now, {self.clipped:.2%} of them clipped at {Release().bound:g} px"
        )


def flow_folders(
    source: str | Path,
    out: str | Path,
    *,
    method: str = "tvl1",
    backend: str = "auto",
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    quality: int = 95,
    repeat_last: bool = False,
    keep_class: bool = False,
    workers: int | None = None,
    on_event: OnEvent | None = None,
) -> FlowReport:
    """Write the flow of every frame folder below `source` to `out`/u and `out`/v; going on where a run stopped.

    A folder that fails is reported, the others are written, and a later run tries it again.

    Args:
        source: folder of the frame folders, at any depth; frames are images with a number at the end of their name.
        method: "tvl1", "dis" or "farneback" (`vidprep.flow.METHODS`); backend: of TV-L1.
        short_side, size: of the frames the flow is computed from, never larger than they are; default: as they are.
        quality: of the JPEGs.
        repeat_last: T frames give T fields, the last of them the one before once more, instead of T − 1.
        keep_class: write below the folders that the videos lie in, instead of flat.
        workers: processes; by default one a core, and two where a GPU computes.
        on_event: receives dicts with "event": "start", "progress", "verdict" or "done".

    Raises:
        UserError: wrong options, no frames, two videos of one name, `out` written with other options.
        StorageError: `source` cannot be listed or `out` cannot be written.
    """
    began, tell = time.monotonic(), on_event or ignore
    options = _options(method, backend, short_side, size, quality, repeat_last)
    source, out = Path(source).absolute(), Path(out).absolute()
    folders, others = find_folders(source, ANY_FRAME, skip=(out / "u", out / "v"))
    if not folders:
        held = f"it holds files such as {min(others)}" if others else "it holds no file"
        raise UserError(f"no folder of numbered images (frame000001.jpg, …) below {source}: {held}")
    if folders == [""]:
        folders, source = [source.name], source.parent
    names = {folder: folder if keep_class else folder.rpartition("/")[2] for folder in folders}
    _refuse_clashes(names)
    options = next(iter(run_tasks(_PROBE, [options], workers=1)))
    _record(open_storage(out), options, keep_class=keep_class)
    if workers is None and options.backend in _ON_GPU:
        workers = 2
    tasks = [FlowTask(folder=str(source / it), out=str(out), name=names[it], options=options) for it in folders]
    remove_leftovers(tasks)
    run = _Run(tasks, workers=worker_count(workers), tell=tell)
    run.write()
    report = FlowReport(
        out=str(out),
        videos=len(folders),
        written=len(run.done),
        before=run.before,
        fields=sum(it.fields for it in run.done),
        clipped=sum(it.clipped * it.fields for it in run.done) / max(1, sum(it.fields for it in run.done)),
        failed={it.folder: it.reason for it in run.failed},
        seconds=time.monotonic() - began,
    )
    tell({"event": "done", "message": str(report), **asdict(report)})
    return report


class _Run:
    """The work on videos that are not written yet."""

    def __init__(self, tasks: Sequence[FlowTask], *, workers: int, tell: OnEvent) -> None:
        self._waiting = [task for task in tasks if not is_done(task)]
        self.before = len(tasks) - len(self._waiting)
        self.done: list[Done] = []
        self.failed: list[Failed] = []
        self._total, self._workers, self._tell = len(tasks), workers, tell
        self._at: dict[str, int] = {}  # fields of videos in the making
        self._deaths: Counter[str] = Counter()
        self._began = self._told = time.monotonic()

    def write(self) -> None:
        self._tell({"event": "start", "total": self._total, "done": self.before})
        for result in run_tasks(
            _WRITE,
            self._waiting,
            workers=min(self._workers, max(1, len(self._waiting))),
            on_message=self._progress,
            on_lost=self._lost,
        ):
            self._at.pop(result.folder, None)
            if isinstance(result, Done):
                self.done.append(result)
            else:
                self._fail(result)
            self._report()

    def _progress(self, message: tuple[str, int]) -> None:
        folder, fields = message
        self._at[folder] = fields
        if time.monotonic() - self._told >= _EVENT_SECONDS:
            self._report()

    def _report(self) -> None:
        self._told = time.monotonic()
        seconds = max(self._told - self._began, 1e-9)
        worked = len(self.done) + len(self.failed)
        left = (len(self._waiting) - worked) * seconds / worked if worked else None
        self._tell(
            {
                "event": "progress",
                "done": self.before + worked,
                "total": self._total,
                "videos": round(worked / seconds, 3),
                "frames": round((sum(it.fields for it in self.done) + sum(self._at.values())) / seconds, 1),
                "eta_seconds": None if left is None else round(left),
            }
        )

    def _lost(self, it: Lost) -> FlowTask | None:
        """One death may be somebody's kill; the second at the same video is the video's."""
        task: FlowTask = it.task
        self._at.pop(task.folder, None)
        self._deaths[task.folder] += 1
        if self._deaths[task.folder] < 2:
            return task
        self._fail(Failed(folder=task.folder, reason=f"the process that works on it {it.reason}"))
        return None

    def _fail(self, failed: Failed) -> None:
        self.failed.append(failed)
        self._tell({"event": "verdict", **asdict(failed), "message": f"failed: {failed.folder}: {failed.reason}"})


def _options(
    method: str,
    backend: str,
    short_side: int | None,
    size: tuple[int, int] | None,
    quality: int,
    repeat_last: bool,
) -> FlowOptions:
    if short_side is not None and size is not None:
        raise UserError(f"give either short_side ({short_side}) or size ({size[0]}x{size[1]}), not both")
    resize = None if short_side is None and size is None else Resize(short_side=short_side, size=size)
    return FlowOptions(method=method, backend=backend, resize=resize, quality=quality, repeat_last=repeat_last)


def _refuse_clashes(names: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for folder, name in names.items():
        if name in seen:
            raise UserError(
                f"two videos are named {name}: {seen[name]} and {folder}, and the trees have no class folders; keep "
                "the folders with --keep-class, or rename one"
            )
        seen[name] = folder


def _record(storage: Storage, options: FlowOptions, *, keep_class: bool) -> None:
    """Write down how the fields are made, or compare with what stands there."""
    wanted = {"flow_folders": 1, **options.parameters(), "keep_class": keep_class}
    if not storage.exists(RECORD):
        if storage.list("u") or storage.list("v"):
            raise UserError(
                f"{storage.url} holds u or v but no {RECORD}: they were made by something else; choose an empty folder"
            )
        storage.put(RECORD, (to_json({**wanted, "versions": package_versions(*_PACKAGES)}, indent=1) + "\n").encode())
        return
    try:
        found = json.loads(storage.read(RECORD))
    except ValueError as error:
        raise DataError(f"{storage.url}/{RECORD} is not JSON ({error}); choose an empty folder") from error
    for name, value in wanted.items():
        if not isinstance(found, dict) or found.get(name) != value:
            before = found.get(name) if isinstance(found, dict) else found
            raise UserError(
                f"{storage.url} was written with {name} {before}, this command asks for {value}; give the same, or "
                "another folder"
            )
