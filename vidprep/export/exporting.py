"""`vidprep export`: a data set in the layouts that older code reads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.columns import COLUMNS
from shards.dataset import Dataset, open_dataset
from shards.derived import source_digests
from shards.errors import DataError, UserError
from shards.flow import Release
from shards.storage import Storage, open_storage
from shards.text import to_json
from vidprep.export.images import Clipped, flow_jpegs, frame_jpegs
from vidprep.export.lists import by_split, class_list, coclr_lists, pace_lists, statistics_lists, svc_lists
from vidprep.export.lmdb import write_lmdb
from vidprep.export.naming import Named, class_folders, name_samples
from vidprep.export.places import put_file, put_folder, remove_leftovers
from vidprep.export.tars import by_shard, tar_name, write_tar
from vidprep.runs import OnEvent, ignore, worker_count

FORMS = ("pace", "statistics", "svc", "webdataset-frames", "lmdb")
WINDOW = 16
"""Frames of a clip of the statistics code, and the fields it reads for them."""

_RECORD = "export.json"
_EVENT_SECONDS = 1.0
_FRAME_NAMES = {"pace": "frame{:06d}.jpg", "statistics": "frame{:06d}.jpg", "svc": "image_{:05d}.jpg"}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported.

    Attributes:
        out: the folder. form: key of `FORMS`.
        videos: in it; written: by this run, the others were there. files, bytes: of this run.
        without_flow: keys of samples that have frames only.
        clipped: share of the flow of this run beyond ±20 px.
        seconds: this run took.
    """

    out: str
    form: str
    videos: int
    written: int
    files: int
    bytes: int
    without_flow: tuple[str, ...]
    clipped: float
    seconds: float

    def __str__(self) -> str:
        flow = f"; {len(self.without_flow)} without flow" if self.without_flow else ""
        clipped = f"; {self.clipped:.2%} of the flow clipped at {Release().bound:g} px" if self.clipped else ""
        return f"{self.out}: {self.videos:,} videos as {self.form}, {self.written:,} written now{flow}{clipped}"


def export(
    data: str | Path,
    out: str | Path,
    form: str,
    *,
    split: str | None = None,
    column: str = "rgb",
    flow: str = "flow",
    stride: int = 8,
    quality: int = 90,
    workers: int | None = None,
    on_event: OnEvent | None = None,
) -> ExportReport:
    """Write a data set in another layout; going on where a run stopped. Stored JPEGs are copied, byte for byte.

    Args:
        data: the data set. out: a folder; for "webdataset-frames" a URL will do.
        form: one of `FORMS`; docs/interop.md shows them.
        split: only the samples of this split.
        column: of the frames; flow: of the flow, which "statistics" needs.
        stride: of the windows that the lists of "statistics" name.
        quality: of JPEGs, where the column holds encoded videos.
        workers: threads; one a core by default.
        on_event: receives dicts with "event": "start", "progress" or "done".

    Raises:
        UserError: wrong options, no sample, no flow, `out` was written with others.
        DataError: stored bytes are damaged. StorageError: `out` cannot be written.
    """
    began, tell = time.monotonic(), on_event or ignore
    _check(form, stride=stride, quality=quality)
    columns = (column, flow) if form == "statistics" else (column,)
    dataset = open_dataset(data, columns=columns)
    if COLUMNS[dataset.meta.columns[column].kind].planes != 1 or not COLUMNS[dataset.meta.columns[column].kind].framed:
        raise UserError(f"column {column!r} holds no frames; name one of RGB with --column")
    numbers = dataset.with_columns((column,)).select(split=split).tolist()
    if not numbers:
        raise UserError(f"{dataset.url} has no sample" + (f" in split {split!r}" if split else ""))
    named = name_samples(dataset, numbers, flat=form == "statistics")
    where = _local(out) if form != "webdataset-frames" else None
    digests = source_digests(dataset.storage, dataset.meta, columns)
    options = {"split": split, "column": column, "quality": quality, "stride": stride, "sources": digests}
    _record(open_storage(out), form, options)
    job = _Job(dataset, named, column=column, flow=flow, quality=quality, workers=worker_count(workers), tell=tell)
    if where is None:
        job.tars(open_storage(out))
    elif form == "lmdb":
        job.lmdb(where / "frames.lmdb")
    else:
        job.trees(where, form)
    if where is not None:
        for name, text in _lists(form, dataset, job, where, stride=stride):
            put_file(where / name, text)
    report = job.report(str(out), form, seconds=time.monotonic() - began)
    tell({"event": "done", "message": str(report), **asdict(report)})
    return report


class _Job:
    """The work of one export."""

    def __init__(
        self,
        dataset: Dataset,
        named: Sequence[Named],
        *,
        column: str,
        flow: str,
        quality: int,
        workers: int,
        tell: OnEvent,
    ) -> None:
        self._dataset, self.named, self._tell, self._workers = dataset, named, tell, workers
        self._column, self._flow, self._quality = column, flow, quality
        self._began = self._told = time.monotonic()
        self._counts = [0, 0, 0, 0]  # written, done, files, bytes
        self._clipped = Clipped()
        self.without_flow: list[Named] = []

    def trees(self, out: Path, form: str) -> None:
        """Folders of frames, and for "statistics" of flow."""
        trees: dict[str, Callable[[Named], Path]] = {"frames": lambda it: out / "frames" / it.path}
        if form == "statistics":
            self.without_flow = [it for it in self.named if not self._dataset.has(it.number, self._flow)]
            trees |= {plane: lambda it, plane=plane: out / "flow" / plane / it.video for plane in "uv"}  # type: ignore[misc]
        remove_leftovers(where(it).parent for it in self.named for where in trees.values())
        lacking = {it.number for it in self.without_flow}
        self._start()

        def write(it: Named) -> tuple[int, int]:
            files = size = 0
            if not trees["frames"](it).is_dir():
                jpegs = frame_jpegs(self._dataset, it.number, column=self._column, quality=self._quality)
                files, size = put_folder(trees["frames"](it), _numbered(_FRAME_NAMES[form], jpegs))
            if form == "statistics" and it.number not in lacking:
                for place, plane in enumerate("uv"):
                    if not trees[plane](it).is_dir():
                        planes = flow_jpegs(
                            self._dataset, it.number, column=self._flow, clipped=None if place else self._clipped
                        )
                        more = put_folder(trees[plane](it), _numbered(_FRAME_NAMES[form], (p[place] for p in planes)))
                        files, size = files + more[0], size + more[1]
            return files, size

        with ThreadPoolExecutor(self._workers) as pool:
            for files, size in pool.map(write, self.named):
                self._done(files, size)

    def tars(self, storage: Storage) -> None:
        """WebDataset tars, one a shard."""
        self._start()
        for shard, inside in by_shard(self._dataset, self.named):
            if storage.exists(tar_name(shard)):
                for _ in inside:
                    self._done(0, 0)
                continue
            files, size = write_tar(
                storage,
                self._dataset,
                shard,
                inside,
                column=self._column,
                quality=self._quality,
                tell=lambda _: self._done(1, 0),
            )
            self._counts[2] += files - len(inside)
            self._counts[3] += size

    def lmdb(self, target: Path) -> None:
        """One LMDB file."""
        self._start()
        if target.exists():
            for _ in self.named:
                self._done(0, 0)
            return
        _, self._counts[3] = write_lmdb(
            target,
            self._dataset,
            self.named,
            column=self._column,
            quality=self._quality,
            tell=lambda _: self._done(1, 0),
        )
        self._counts[2] = 1

    def fields(self, named: Named) -> int:
        """Fields of flow of a video; 0 where it has none."""
        return int(self._dataset.record(named.number, self._flow)["frames"]) // 2

    def report(self, out: str, form: str, *, seconds: float) -> ExportReport:
        return ExportReport(
            out=out,
            form=form,
            videos=len(self.named),
            written=self._counts[0],
            files=self._counts[2],
            bytes=self._counts[3],
            without_flow=tuple(it.key for it in self.without_flow),
            clipped=self._clipped.share,
            seconds=seconds,
        )

    def _start(self) -> None:
        self._tell({"event": "start", "total": len(self.named), "done": 0})

    def _done(self, files: int, size: int) -> None:
        """A video is there; `files` were written for it."""
        self._counts = [a + b for a, b in zip(self._counts, (files > 0, 1, files, size), strict=True)]
        now = time.monotonic()
        if now - self._told < _EVENT_SECONDS and self._counts[1] < len(self.named):
            return
        self._told = now
        rate = self._counts[1] / max(now - self._began, 1e-9)
        left = round((len(self.named) - self._counts[1]) / rate)
        self._tell(
            {
                "event": "progress",
                "done": self._counts[1],
                "total": len(self.named),
                "videos": round(rate, 3),
                "eta_seconds": left,
            }
        )


def _numbered(name: str, jpegs: Iterator[bytes]) -> Iterator[tuple[str, bytes]]:
    """Names with numbers from 1."""
    return ((name.format(number), data) for number, data in enumerate(jpegs, 1))


def _lists(form: str, dataset: Dataset, job: _Job, out: Path, *, stride: int) -> Iterator[tuple[str, str]]:
    """Names and contents of the files beside the trees."""
    lists = by_split(job.named, dataset.splits)
    folders = class_folders(dataset.classes)
    if form == "lmdb":
        yield "ClassInd.txt", "".join(f"{name}\n" for name in folders)
        yield "frames.lmdb-order", "\n".join(it.path for it in job.named)
        yield from coclr_lists(lists)
        return
    yield "classInd.txt", class_list(folders)
    if form == "pace":
        yield from pace_lists(lists)
    elif form == "svc":
        yield from svc_lists(lists, out)
    else:
        # The code reads as many fields as frames, so the last window ends a field before the video does.
        yield from statistics_lists(lists, lambda it: range(1, job.fields(it) - WINDOW + 2, stride), out)


def _check(form: str, *, stride: int, quality: int) -> None:
    if form not in FORMS:
        raise UserError(f"form is {form!r}; allowed: {', '.join(FORMS)}")
    if stride < 1 or not 1 <= quality <= 100:
        raise UserError(f"stride is {stride} and quality {quality}; allowed are 1 and more, and 1 to 100")


def _local(out: str | Path) -> Path:
    if "://" in str(out):
        raise UserError(f"{out} is a URL, and old code reads folders: give one, or --to webdataset-frames")
    return Path(out).absolute()


def _record(storage: Storage, form: str, options: Mapping[str, Any]) -> None:
    """Write down what is exported, or compare with what stands there."""
    wanted = {"export": 1, "form": form, **options}
    if not storage.exists(_RECORD):
        if storage.list(""):
            raise UserError(f"{storage.url} is not empty and holds no {_RECORD}; choose an empty folder")
        storage.put(_RECORD, (to_json(wanted, indent=1) + "\n").encode())
        return
    try:
        found = json.loads(storage.read(_RECORD))
    except ValueError as error:
        raise DataError(f"{storage.url}/{_RECORD} is not JSON ({error}); choose an empty folder") from error
    for name, value in wanted.items():
        if not isinstance(found, dict) or found.get(name) != value:
            before = found.get(name) if isinstance(found, dict) else found
            raise UserError(
                f"{storage.url} was written with {name} {before}, this command writes {value}; choose an empty folder"
            )
