"""`vidprep info`, `check` and `preview`: looking at a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import human_bytes, print_table

if TYPE_CHECKING:
    from shards.summary import ColumnSummary, Summary

_MOST = 12  # rows of a table that could be long


@click.command()
@click.argument("dest", type=str)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def info(dest: str, as_json: bool) -> None:
    """What the data set DEST holds."""
    from shards.summary import summarize

    summary = summarize(dest)
    if as_json:
        click.echo(json.dumps(asdict(summary), ensure_ascii=False, default=dict))
        return
    least, median, most = summary.frame_counts
    asked = "x".join(str(n) for n in summary.asked_size.values())
    facts = [
        ("name", summary.name),
        ("samples", f"{summary.samples:,} in {summary.shards} shards"),
        ("frames", f"{summary.frames:,} ({least:,} to {most:,} a sample, median {median:g})"),
        ("length", f"{summary.hours:.2f} hours"),
        ("frame size", f"{' '.join(summary.asked_size).replace('_', ' ')} {asked}"),
        ("groups", f"{summary.groups:,}"),
        ("with captions", f"{summary.captioned:,}"),
        ("bad videos", f"{summary.bad:,}"),
        ("with warnings", f"{summary.warned:,}"),
    ]
    print_table(summary.url, ("what", "value"), facts)
    columns = [
        (name, c.kind, c.folder, human_bytes(c.tar_bytes), human_bytes(c.index_bytes), c.failed, _state(c))
        for name, c in summary.columns.items()
    ]
    print_table("columns", ("column", "kind", "folder", "tars", "indexes", "failed", "state"), columns)
    for name, column in summary.columns.items():
        if column.sources:
            made = ", ".join(f"{key} {value}" for key, value in column.parameters.items())
            click.echo(f"{name}: made by {column.producer} from {', '.join(column.sources)}: {made}")
    classes = {**summary.classes, **({"(no label)": summary.unlabelled} if summary.unlabelled else {})}
    _print_counts("classes", "class", classes)
    _print_counts("splits", "split", summary.splits)
    _print_counts("stored sizes (height x width)", "size", summary.sizes)
    _print_counts("frame rates", "frames a second", summary.rates)
    _print_counts("verdicts", "code", summary.verdicts)
    _warn(summary)


def _state(column: ColumnSummary) -> str:
    return f"stale: {', '.join(column.stale)} changed since" if column.stale else "up to date"


def _print_counts(title: str, column: str, counts: Mapping[str, int]) -> None:
    if not counts:
        return
    rows = [(name, f"{count:,}") for name, count in list(counts.items())[:_MOST]]
    if len(counts) > _MOST:
        rest = sum(list(counts.values())[_MOST:])
        rows.append((f"… {len(counts) - _MOST} more", f"{rest:,}"))
    print_table(title, (column, "samples" if column != "code" else "videos"), rows)


def _warn(summary: Summary) -> None:
    for name, column in summary.columns.items():
        if column.stale:
            options = "" if column.kind == "text" else " and the options above"  # it takes none
            click.echo(
                f"warning: column {name} was made from {', '.join(column.stale)} as before a change; make it anew with "
                f"{column.producer} {summary.url} --column {name}{options}",
                err=True,
            )
    if summary.mixed:
        usual = next(iter(summary.rates))
        click.echo(
            f"warning: frame rates are mixed: {summary.mixed:,} of {summary.samples:,} samples are not at {usual}; the "
            "same stride then means different times: read at one rate with --set data.fps=…, or pack with --fps",
            err=True,
        )


@click.command()
@click.argument("dest", type=str)
@click.option("--repair", is_flag=True, help="Mend what is damaged, and nothing else.")
@click.option("--from", "other", metavar="COPY", help="With --repair: a copy of the data set to fetch lost files from.")
@click.option("--manifest", type=click.Path(path_type=Path), help="With --repair: to pack lost shards from again.")
@click.option("--root", type=str, help="With --manifest: where the videos are now.")
@click.option("--workers", type=click.IntRange(min=1), help="With --repair: processes.  [default: one a core]")
def check(dest: str, repair: bool, **options: Any) -> int:
    """Re-read every byte of the data set DEST against indexes and checksums.

    Exits 1 where something is wrong, naming shard, key and what repairs it. With --repair, indexes are made again from
    tars, tars fetched from a copy, derived columns computed again; each file only if it is proved to be the lost one.
    """
    if repair:
        return _repair(dest, **options)
    if given := [name for name in ("other", "manifest", "root", "workers") if options[name] is not None]:
        flag = "--from" if given[0] == "other" else f"--{given[0]}"
        raise click.UsageError(f"{flag} goes with --repair")
    from shards.check import check as problems
    from shards.derived import stale_columns

    count = 0
    for problem in problems(dest):
        count += 1
        click.echo(str(problem))
    # What is stale is whole, and so no problem of its bytes; damaged indexes cannot tell.
    for message in () if count else stale_columns(dest).values():
        click.echo(f"warning: {message}", err=True)
    if count:
        click.echo(f"{count} problems in {dest}; vidprep check {dest} --repair mends what can be mended", err=True)
        return 1
    click.echo(f"{dest}: all right")
    return 0


def _repair(dest: str, **options: Any) -> int:
    from cli.console import Events
    from vidprep.repair import repair as run

    with Events(unit="videos") as events:
        report = run(dest, on_event=events, **options)
    for mended in report.mended:
        click.echo(f"mended {mended}")
    for problem in report.problems:
        click.echo(str(problem))
    for line in report.advice:
        click.echo(line, err=True)
    for name in report.stale:
        click.echo(
            f"column {name} is stale: what it was made from is another now; vidprep info {dest} says how", err=True
        )
    if report.problems:
        click.echo(f"{len(report.problems)} problems are left in {dest}", err=True)
        return 1
    click.echo(f"{dest}: all right")
    return 0


@click.command()
@click.argument("dest", type=str)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Image to write (.png, .jpg).")
@click.option(
    "--columns",
    default="rgb",
    show_default=True,
    help="Columns of frames, flow, statistics or text to draw, separated by commas.",
)
@click.option("--count", type=click.IntRange(min=1), help="How many clips.  [default: 24; 8 if not frames alone]")
@click.option("--split", help="Only samples of this split.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which clips and table rows.")
def preview(dest: str, output: Path, columns: str, count: int | None, split: str | None, seed: int) -> None:
    """Draw a contact sheet of clips of the data set DEST, with their labels.

    Flow is drawn in the Middlebury colour wheel with its motion boundaries, a statistics table as one row: its clip
    and the three patterns with the winning regions, directions and colours.
    """
    import cv2

    from shards.dataset import open_dataset
    from shards.errors import StorageError
    from vidprep.preview import contact_sheet

    if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise click.BadParameter(f"{output} is neither .png nor .jpg", param_hint="--output")
    names = tuple(name.strip() for name in columns.split(",") if name.strip())
    dataset = open_dataset(dest, columns=names)
    sheet = contact_sheet(dataset, columns=names, count=count, split=split, seed=seed)
    _, data = cv2.imencode(output.suffix.lower(), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    try:
        output.write_bytes(data.tobytes())
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror or error}") from error
    click.echo(f"{output}: {sheet.shape[1]}x{sheet.shape[0]} pixels")
