"""Adding or regenerating columns of a packed data set: optical flow, statistics labels and captions.

None touches the RGB column. A column is written shard by shard into a folder of its own; when all are there one
write of dataset.json puts it in force. Whatever ends a run, the same call goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shards.storage import open_storage
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.labels import Flip
from vidprep.deriving.makers import AnyMaker, ColumnPlan, flow_maker, label_maker, text_maker, write_column_plan
from vidprep.deriving.shards import Derivation
from vidprep.farm.engines import Engine, Local, make_column
from vidprep.farm.reports import DeriveReport
from vidprep.farm.work import Job
from vidprep.flow.backends import choose_backend
from vidprep.runs import OnEvent, ignore
from vidprep.statistics import Variant

__all__ = [
    "DeriveReport",
    "add_flow",
    "add_labels",
    "add_text",
    "flow_maker",
    "label_maker",
    "plan_column",
    "text_maker",
]


def add_flow(
    dest: str | Path,
    *,
    method: str = "tvl1",
    backend: str = "auto",
    codec: str = "byte",
    bound: float = 20.0,
    column: str = "flow",
    source: str = "rgb",
    workers: int | None = None,
    timeout: float = 600,
    memory: int | None = None,
    scratch: str | Path | None = None,
    engine: Engine | None = None,
    on_event: OnEvent | None = None,
    **options: Any,
) -> DeriveReport:
    """Compute optical flow between all neighbouring frames of a data set and store it as a column.

    Args:
        dest: the data set.
        method: key of `vidprep.flow.METHODS`.
        backend: of TV-L1; "auto" takes a GPU where one works.
        codec, bound: as in `shards.flow`; bound is that of a short side of 256.
        column: its name; `flow-raft` beside `flow`, say.
        source: the RGB column it is computed from.
        workers: processes; by default one a core, and one where a GPU computes.
        timeout: seconds without progress after which a sample is given up.
        memory, scratch, engine: as in `vidprep.pack.pack`.
        on_event: as in `vidprep.pack.pack`.
        options: of the method, such as fields of `vidprep.flow.TVL1Params`.

    Raises:
        UserError: wrong options, no such data set or column, a backend that does not run here.
        DataError: stored frames are damaged.
        StorageError: the destination cannot be read or written.
    """
    maker = flow_maker(method=method, backend=backend, codec=codec, bound=bound, source=source, **options)
    tell = on_event or ignore
    if method == "tvl1" and backend == "auto":
        name, reason = choose_backend()
        tell({"event": "backend", "message": f"TV-L1 backend {name}: {reason}"})
    job = _job(dest, column, workers=workers, timeout=timeout, memory=memory, scratch=scratch)
    return _add(job, maker, engine or Local(), tell)


def add_labels(
    dest: str | Path,
    *,
    crop: int = 112,
    window: int = 16,
    resize: tuple[int, int] | int | None = (128, 171),
    stride: int = 8,
    views: int = 8,
    variant: Variant = "corrected",
    flip: Flip = "physical",
    seed: int = 0,
    column: str = "statistics",
    rgb: str = "rgb",
    flow: str = "flow",
    workers: int | None = None,
    timeout: float = 600,
    memory: int | None = None,
    scratch: str | Path | None = None,
    engine: Engine | None = None,
    on_event: OnEvent | None = None,
) -> DeriveReport:
    """Compute the 27 statistics labels of windows x views of every sample and store them as a table column.

    Args:
        dest: a data set with the columns `rgb` and `flow`.
        crop: side of the square crop, a multiple of 8.
        window: frames of a clip; stride: frames from one window to the next.
        resize: (height, width), or the short side, or None for frames as stored.
        views: crops and flips drawn of every window.
        variant, flip, seed: as in `vidprep.deriving.labels.LabelMaker`.
        column: its name; `statistics-224` beside `statistics`, say.
        rgb, flow: the columns it is computed from.
        workers, timeout, memory, scratch, engine, on_event: as in `add_flow`.

    Raises:
        UserError: wrong options, no such data set or column.
        DataError: a stored column is damaged.
        StorageError: the destination cannot be read or written.
    """
    maker = label_maker(
        window=window,
        resize=resize,
        crop=crop,
        stride=stride,
        views=views,
        variant=variant,
        flip=flip,
        seed=seed,
        rgb=rgb,
        flow=flow,
    )
    job = _job(dest, column, workers=workers, timeout=timeout, memory=memory, scratch=scratch)
    return _add(job, maker, engine or Local(), on_event or ignore)


def add_text(
    dest: str | Path,
    *,
    column: str = "text",
    workers: int | None = None,
    timeout: float = 600,
    memory: int | None = None,
    scratch: str | Path | None = None,
    engine: Engine | None = None,
    on_event: OnEvent | None = None,
) -> DeriveReport:
    """Pack the captions of the sample table into a column, `KEY.txt` with one caption a line.

    Captions that are replaced later (`shards.samples.annotate`) make the column stale; the same call makes it anew.
    Samples without caption are recorded as failed.

    Args:
        dest: the data set.
        column: its name.
        workers, timeout, memory, scratch, engine, on_event: as in `add_flow`.

    Raises:
        UserError: no sample has a caption, no such data set, the name is that of another column.
        StorageError: the destination cannot be read or written.
    """
    job = _job(dest, column, workers=workers, timeout=timeout, memory=memory, scratch=scratch)
    return _add(job, text_maker(), engine or Local(), on_event or ignore)


def plan_column(dest: str | Path, column: str, maker: AnyMaker) -> ColumnPlan:
    """Freeze how a column is made, for `vidprep.farm.work.run`.

    Raises:
        UserError: the data set is not there, a source is missing or stale, or the column cannot have this name.
    """
    storage = open_storage(dest)
    planned = ColumnPlan.of(column, maker)
    Derivation.of(storage, planned)
    write_column_plan(storage, planned)
    return planned


def _job(
    dest: str | Path, column: str, *, workers: int | None, timeout: float, memory: int | None, scratch: Any
) -> Job:
    return Job(
        url=str(dest),
        column=column,
        workers=workers,
        timeout=timeout,
        memory=memory,
        scratch=None if scratch is None else str(scratch),
    )


def _add(job: Job, maker: AnyMaker, engine: Engine, tell: OnEvent) -> DeriveReport:
    if isinstance(maker, FlowMaker) and engine.here:
        maker.probe()
    plan_column(job.url, job.column, maker)
    return make_column(job, engine, tell)
