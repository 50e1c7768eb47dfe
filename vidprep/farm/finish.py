"""Putting finished columns in force: indexes, and one write of dataset.json."""

from __future__ import annotations

from shards.derived import finalize_column
from shards.errors import UserError
from shards.finalize import finalize
from shards.receipts import read_receipts
from shards.storage import open_storage
from vidprep.deriving.makers import column_plans
from vidprep.farm.reports import DeriveReport, PackReport, derive_report, pack_report
from vidprep.farm.work import RGB, Job, Opened, open_job
from vidprep.runs import OnEvent


def finish(job: Job, *, began: float, now: float) -> PackReport | DeriveReport:
    """Put a column whose shards are all there in force.

    Args:
        began, now: seconds on any clock, for the report.

    Raises:
        UserError: shards are missing (says how many), or too many videos are bad.
        DataError: shards do not belong together.
    """
    opened = open_job(job)
    storage = opened.storage
    if opened.derivation is None:
        receipts = list(read_receipts(storage, RGB))
        if not opened.waiting():
            opened.work.check(receipts, opened.work.total)
        finalize(storage)
        return pack_report(storage, receipts, seconds=now - began)
    derivation, folder = opened.derivation, opened.work.folder
    plan, maker = derivation.plan, derivation.maker
    finalize_column(storage, plan.column, kind=maker.kind, folder=folder, producer=plan.producer, sources=maker.sources)
    return derive_report(storage, plan.column, folder, list(read_receipts(storage, folder)), seconds=now - began)


def finish_all(url: str, *, max_bad: float | None, tell: OnEvent) -> tuple[str, ...]:
    """Put the rgb column in force, then every planned column whose shards are all there.

    Returns:
        The columns that lack shards; what they lack is told.

    Raises as `finish` does for rgb.
    """
    tell({"event": "done", "message": str(finish(Job(url=url, max_bad=max_bad), began=0, now=0))})
    missing: list[str] = []
    for plan in column_plans(open_storage(url)):
        try:
            opened = open_job(Job(url=url, column=plan.column))
        except UserError as error:
            missing.append(plan.column)
            tell({"event": "note", "message": f"column {plan.column}: not yet: {error}"})
            continue
        waiting = opened.waiting()
        if waiting:
            missing.append(plan.column)
            tell({"event": "note", "message": _lacks(opened, plan.column, len(waiting), plan.producer)})
            continue
        tell({"event": "done", "message": str(finish(opened.job, began=0, now=0))})
    return tuple(missing)


def _lacks(opened: Opened, column: str, waiting: int, producer: str) -> str:
    url = opened.storage.url
    total = sum(1 for _ in opened.work.shards())
    return (
        f"column {column} lacks {waiting} of {total} shards: vidprep run {url} --column {column}, then vidprep "
        f"finalize {url}, or {producer} with its options writes them"
    )
