"""Where shards are written. Every engine does the same: `vidprep.farm.work.run` for each part of a column."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Protocol

from shards.storage import open_storage
from vidprep.deriving.makers import column_plans
from vidprep.farm.finish import finish
from vidprep.farm.reports import DeriveReport
from vidprep.farm.work import Job, open_job
from vidprep.runs import OnEvent, Part


class Engine(Protocol):
    """Attributes:
    here: whether this machine does the work itself.
    """

    @property
    def here(self) -> bool: ...

    def write(self, job: Job, tell: OnEvent) -> None:
        """Write all shards of a column that are not finished, and return when they are.

        Raises as `vidprep.farm.work.run` does.
        """
        ...


class Local:
    """Processes on this machine."""

    here = True

    def write(self, job: Job, tell: OnEvent) -> None:
        opened = open_job(job)
        if opened.derivation is not None:
            total = opened.derivation.dataset.meta.shards
            text = f"column {job.column}: {len(opened.waiting())} of {total} shards of {opened.work.folder} to write"
            tell({"event": "plan", "message": text})
        opened.run(Part(), tell)


def make_column(job: Job, engine: Engine, tell: OnEvent) -> DeriveReport:
    """Write what is left of a planned derived column and put it in force."""
    began = time.monotonic()
    engine.write(job, tell)
    report = finish(job, began=began, now=time.monotonic())
    assert isinstance(report, DeriveReport)
    tell({"event": "done", "message": str(report), **asdict(report)})
    return report


def complete(job: Job, engine: Engine, tell: OnEvent) -> None:
    """Write what is left of all planned columns, and put them in force."""
    began = time.monotonic()
    engine.write(job, tell)
    report = finish(job, began=began, now=time.monotonic())
    tell({"event": "done", "message": str(report), **asdict(report)})
    for plan in column_plans(open_storage(job.url)):
        make_column(replace(job, column=plan.column), engine, tell)
