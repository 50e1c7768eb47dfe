"""Running what is planned: any part of any column, on any machine that reaches the data set and its sources."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

from shards.errors import UserError
from shards.plan import read_plan
from shards.receipts import Receipt, finished_shards, has_receipt, read_receipt
from shards.storage import Storage, open_storage
from vidprep.deriving.makers import read_column_plan
from vidprep.deriving.shards import Derivation
from vidprep.farm.beats import INTERVAL
from vidprep.packing.shards import rgb_work
from vidprep.packing.work import FOLDER
from vidprep.runs import OnEvent, Part, ShardRun, Work, worker_count

RGB = FOLDER
_MAX_BAD, _TIMEOUT = 0.02, 600.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One column of a planned data set, and how it is to be run. Small, and pickles.

    Attributes:
        url: the data set; column: its name.
        roots: where the videos are, by number of their root in the plan; one stands for all; None: as planned.
        workers: processes on each machine; None: one a core, one where a GPU computes.
        max_bad: share of bad videos that ends the run; timeout: seconds without progress after which an item is given
            up; None: as planned.
        memory: bytes that a process may hold; None: no bound.
        scratch: folder on each machine that shards are written in before they are published.
        interval: seconds from one heartbeat to the next.
    """

    url: str
    column: str = RGB
    roots: tuple[str, ...] | None = None
    workers: int | None = None
    max_bad: float | None = None
    timeout: float | None = None
    memory: int | None = None
    scratch: str | None = None
    interval: float = INTERVAL

    def __post_init__(self) -> None:
        if self.max_bad is not None and not 0 <= self.max_bad <= 1:
            raise UserError(f"max_bad is {self.max_bad}; it is a share from 0 to 1")
        worker_count(self.workers)
        if self.memory is not None and self.memory < 1:
            raise UserError(f"memory is {self.memory} bytes; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A job with everything it needs.

    Attributes:
        storage: of the data set; work: the column's shards.
        job: with what was left to the plan filled in.
        derivation: of a derived column.
    """

    storage: Storage
    work: Work
    job: Job
    derivation: Derivation | None = None

    def waiting(self) -> list[int]:
        """Shards that are not finished."""
        shards = [shard for shard, _, _ in self.work.shards()]
        done = set(finished_shards(self.storage, self.work.folder, max(shards, default=-1) + 1))
        return [shard for shard in shards if shard not in done]

    def receipt(self, shard: int) -> Receipt | None:
        """Of a shard, where it is finished."""
        if not has_receipt(self.storage, self.work.folder, shard):
            return None
        return read_receipt(self.storage, self.work.folder, shard)

    def run(self, part: Container[int], tell: OnEvent) -> list[Receipt]:
        """Write the shards of the part that are not finished; returns the receipts of all of the part's."""
        job = self.job
        assert job.workers is not None and job.timeout is not None
        run = ShardRun(
            self.storage,
            self.work,
            workers=job.workers,
            timeout=job.timeout,
            tell=tell,
            memory=job.memory,
            part=part,
            interval=job.interval,
        )
        run.write()
        return sorted(run.receipts, key=lambda receipt: receipt.shard)


def open_job(job: Job) -> Opened:
    """Raises UserError: the column is not planned, or what it is made from is not there."""
    storage = open_storage(job.url)
    if job.column == RGB:
        plan = read_plan(storage)
        policy = plan.options.get("policy", {})
        job = replace(
            job,
            max_bad=policy.get("max_bad", _MAX_BAD) if job.max_bad is None else job.max_bad,
            timeout=policy.get("timeout", _TIMEOUT) if job.timeout is None else job.timeout,
            workers=worker_count(job.workers),
        )
        assert job.max_bad is not None
        work = rgb_work(storage, plan, roots=job.roots, max_bad=job.max_bad, scratch=job.scratch)
        return Opened(storage=storage, work=work, job=job)
    column = read_column_plan(storage, job.column)
    derivation = Derivation.of(storage, column)
    workers = 1 if job.workers is None and column.on_gpu else worker_count(job.workers)
    job = replace(job, workers=workers, timeout=_TIMEOUT if job.timeout is None else job.timeout)
    return Opened(storage=storage, work=derivation.work(scratch=job.scratch), job=job, derivation=derivation)


def run(job: Job, part: Container[int] | None = None, *, on_event: OnEvent) -> list[Receipt]:
    """Write one part of a column, or what is left of all of it.

    Finished shards are left alone, those that another run is at are waited for; so it may be run any number of times,
    anywhere, also at once.

    Args:
        part: `vidprep.runs.Part`, or the numbers of shards.

    Raises:
        UserError: the column is not planned, what it is made from is not there, too many bad videos.
        DataError: a source is damaged.
        StorageError: videos or the data set cannot be read, or the data set cannot be written.
    """
    return open_job(job).run(Part() if part is None else part, on_event)
