"""`vidprep plan`, `run`, `finalize`, `status`, `retry` and `cancel`: a data set made in parts, anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import Events, parse_bytes, parse_share, print_table
from cli.pack import label_options, set_options
from cli.types import Parsed

if TYPE_CHECKING:
    from vidprep.farm.status import ColumnStatus, Status


def parse_part(text: str) -> tuple[int, int]:
    """ "3/8" → (3, 8).

    Raises:
        click.BadParameter: it is no such part.
    """
    index, slash, of = text.partition("/")
    if not (slash and index.isdecimal() and of.isdecimal() and int(index) < int(of)):
        raise click.BadParameter(f"{text!r} is no part; the form is i/N with i from 0 to N-1, such as 0/8")
    return int(index), int(of)


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("dest", type=str)
@set_options
@click.option("--append", is_flag=True, help="Plan videos that DEST does not have into new shards at its end.")
def plan(
    manifest: Path,
    dest: str,
    append: bool,
    flow: tuple[tuple[str, Any], ...],
    labels: tuple[tuple[str, Any], ...],
    root: str | None,
    classes: Path | None,
    workers: int | None,
    timeout: float,
    **options: Any,
) -> None:
    """Fix which video of MANIFEST goes into which shard of DEST, with all options; then `vidprep run` works anywhere.

    \b
    vidprep plan manifest.jsonl DEST --columns rgb,flow
    vidprep run DEST --shard 0/2            # here or there, in any order, also at once
    vidprep run DEST --shard 1/2
    vidprep finalize DEST
    """
    from vidprep.farm.append import append as add
    from vidprep.planning import plan as run_

    common: dict[str, Any] = {"root": root, "classes": classes, "workers": workers, "timeout": timeout}
    with Events(unit="videos") as events:
        if append:
            added = add(manifest, dest, on_event=events, **common)
            events({"event": "done", "message": str(added), **asdict(added)})
            return
        options |= {**common, "flow": dict(flow), "labels": label_options(labels)}
        planned = run_(manifest, dest, on_event=events, **options)
        events({"event": "done", "message": str(planned), **asdict(planned)})


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that writes shards of a planned data set."""
    for option in (
        click.option("--scratch", type=str, help="Folder on this machine that shards are written in first."),
        click.option("--memory", type=Parsed(parse_bytes, "SIZE"), help="What a process may hold, such as 4GB."),
        click.option(
            "--max-bad", type=Parsed(parse_share, "SHARE"), help="Allowed share of videos without a frame.  [planned]"
        ),
        click.option(
            "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds without a new frame.  [planned]"
        ),
        click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]"),
        click.option("--root", type=str, help="Folder or URL the videos are in now.  [planned]"),
    ):
        command = option(command)
    return command


def _job(dest: str, root: str | None, **options: Any) -> Any:
    from vidprep.farm.work import Job
    from vidprep.packing.planning import root_now

    return Job(url=dest, roots=None if root is None else (root_now(root),), **options)


@click.command()
@click.argument("dest", type=str)
@click.option("--column", default="rgb", show_default=True, help="Column to write.")
@click.option(
    "--shard", "part", type=Parsed(parse_part, "i/N"), help="Only part i (from 0) of N parts.  [default: all shards]"
)
@_run_options
def run(dest: str, part: tuple[int, int] | None, **options: Any) -> None:
    """Write one part of a planned column of DEST, or what is left of all of it.

    Finished shards are left alone, and those that another run is writing now are waited for: the same command may be
    run again, or on several machines at once. Then `vidprep finalize DEST` puts the column in force.
    """
    import signal

    from vidprep.farm.work import run as write
    from vidprep.runs import Part

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)  # leaves the shards to others at once, not when the heartbeats have expired

    signal.signal(signal.SIGTERM, end)
    with Events(unit="videos") as events:
        chosen = Part() if part is None else Part(index=part[0], of=part[1])
        receipts = write(_job(dest, **options), chosen, on_event=events)
        text = f"part {chosen} of column {options['column']}: {len(receipts)} shards are finished"
        events({"event": "done", "message": text, "shards": len(receipts)})


@click.command()
@click.argument("dest", type=str)
@click.option("--column", help="Only this column.  [default: all that are complete]")
@click.option(
    "--max-bad", type=Parsed(parse_share, "SHARE"), help="Allowed share of videos without a frame.  [planned]"
)
def finalize(dest: str, column: str | None, max_bad: float | None) -> None:
    """Put the finished columns of DEST in force: indexes, and one write of dataset.json."""
    from vidprep.farm.finish import finish, finish_all
    from vidprep.farm.work import Job

    with Events(unit="videos") as events:
        if column is None:
            finish_all(dest, max_bad=max_bad, tell=events)
        else:
            report = finish(Job(url=dest, column=column, max_bad=max_bad), began=0, now=0)
            events({"event": "done", "message": str(report), **asdict(report)})


@click.command()
@click.argument("dest", type=str)
@click.option("--watch", is_flag=True, help="Look again and again, until all is done.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=10, show_default=True, help="Seconds between looks."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a look.")
def status(dest: str, watch: bool, interval: float, as_json: bool) -> None:
    """How far DEST is: shards done, running, failed and lost, time left, core-hours; whoever works on it."""
    import json
    import time

    from vidprep.farm.status import Watch

    looking = Watch(dest)
    while True:
        found = looking.status()
        if as_json:
            click.echo(json.dumps({**asdict(found), "finished": found.finished}))
        else:
            _print(found)
        if not watch or found.finished:
            return
        time.sleep(interval)


def _print(found: Status) -> None:
    names = ("column", "done", "running", "failed", "lost", "waiting", "items", "bad", "core-hours", "left")
    print_table(f"{found.name}: {found.url}", names, [_row(column) for column in found.columns])
    for column in found.columns:
        for it in column.shards_at:
            place = f"shard {it.shard} of {column.column}: {it.done} of {it.total}, {it.host} process {it.pid}"
            at = f" at {it.item}" if it.item else ""
            reason = f": {it.message}" if it.message else ""
            click.echo(f"{it.state}: {place}{at}, last heard of {it.age:.0f} s ago{reason}")
    click.echo(f"next: {found.next}" if found.next else "all planned columns are finished")


def _row(it: ColumnStatus) -> tuple[object, ...]:
    left = "" if it.eta_seconds is None else _duration(it.eta_seconds)
    if it.in_force:
        left = "finished"
    items = f"{it.items_done:,}/{it.items:,}"
    shards = f"{it.done}/{it.shards}"
    return it.column, shards, it.running, it.failed, it.lost, it.waiting, items, it.bad, f"{it.core_hours:.2f}", left


def _duration(seconds: float) -> str:
    """5400 → "1:30:00"."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


@click.command()
@click.argument("dest", type=str)
@click.option("--reason", "reasons", multiple=True, help="Only videos with this verdict, such as timeout; repeatable.")
@click.option("--manifest", type=click.Path(path_type=Path), help="Where mended videos are: lines with their keys.")
@click.option("--plan-only", is_flag=True, help="Only plan; then vidprep run and finalize.")
@_run_options
def retry(
    dest: str,
    reasons: tuple[str, ...],
    manifest: Path | None,
    plan_only: bool,
    root: str | None,
    workers: int | None,
    timeout: float | None,
    **options: Any,
) -> None:
    """Try the videos of DEST that gave no frame again: they go into new shards at its end.

    What is finished does not change. Flow and labels of the new shards are written too where they are planned.
    """
    from vidprep.farm.append import retry as plan_again
    from vidprep.farm.engines import Local, complete

    with Events(unit="videos") as events:
        added = plan_again(
            dest,
            reasons=reasons,
            manifest=manifest,
            root=root,
            workers=workers,
            timeout=timeout or 600,
            on_event=events,
        )
        events({"event": "plan", "message": str(added), **asdict(added)})
        if not plan_only:
            complete(_job(dest, None, workers=workers, timeout=timeout, **options), Local(), events)


@click.command()
@click.argument("dest", type=str)
def cancel(dest: str) -> None:
    """End what was submitted to Slurm for DEST; finished shards stay."""
    from vidprep.farm.slurm import cancel as end

    ended = end(dest)
    for it in ended:
        click.echo(f"cancelled: {it.id} ({it.what}, {it.tasks} tasks)")
    if not ended:
        click.echo("nothing was submitted to Slurm for this data set")
