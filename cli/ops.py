"""`vidprep merge`, `split`, `reshard`, `subset`, `dedupe` and `migrate`: operations on packed data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.console import Events, parse_bytes, parse_names, parse_share, print_table
from cli.types import Parsed

_SHOWN = 20  # pairs

_COLUMNS = click.option("--columns", type=Parsed(parse_names, "A,B"), help="Columns to copy.  [default: all]")
_WORKERS = click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")


def _size(default: str) -> Callable[[Any], Any]:
    return click.option("--shard-size", type=Parsed(parse_bytes, "SIZE"), help=f"Bytes a shard, about.  {default}")


def _name(default: str) -> Callable[[Any], Any]:
    return click.option("--name", help=f"Name of the new data set.  [default: {default}]")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="A B...")
@click.argument("out", type=str)
@click.option("--prefix", "prefixes", multiple=True, help="Put before every key of A, of B, ...; once for each.")
@click.option("--mixed", is_flag=True, help="Frames of different size, rate or quality may stand side by side.")
@_COLUMNS
@_size("[default: the shards stay as they are]")
@_name("OUT's last part")
@_WORKERS
def merge(sources: tuple[str, ...], out: str, prefixes: tuple[str, ...], **options: Any) -> None:
    """Put the data sets A, B, ... behind each other into the new one OUT.

    Classes are merged by name. Nothing is decoded: frames, flow and statistics are copied byte for byte. The same
    command goes on where it was stopped.
    """
    from shards.ops.operations import merge as run

    with Events(unit="samples") as events:
        run(sources, out, prefixes=prefixes or None, on_event=events, **options)


@click.command()
@click.argument("dest", type=str)
@click.argument("out", type=str)
@click.option("--shard-size", type=Parsed(parse_bytes, "SIZE"), required=True, help="Bytes a shard, about.")
@_COLUMNS
@_name("that of DEST")
@_WORKERS
def reshard(dest: str, out: str, **options: Any) -> None:
    """Write the data set DEST to OUT with shards of another size."""
    from shards.ops.operations import reshard as run

    with Events(unit="samples") as events:
        run(dest, out, on_event=events, **options)


@click.command()
@click.argument("dest", type=str)
@click.argument("out", type=str)
@click.option("--split", help="Only samples of this split.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this class, or Play*; may be repeated.")
@click.option("--keep", type=click.Path(path_type=Path), help="Only the keys in this file, one a line.")
@click.option("--drop", type=click.Path(path_type=Path), help="All but the keys in this file, one a line.")
@click.option("--fraction", type=Parsed(parse_share, "SHARE"), help="Only this share of each class, such as 10%.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which samples a share keeps.")
@_COLUMNS
@_size("[default: as DEST]")
@_name("OUT's last part")
@_WORKERS
def subset(dest: str, out: str, **options: Any) -> None:
    """Copy the samples of the data set DEST that all conditions leave to OUT.

    To train on a part, no copy is needed: see data.split and data.keep of the recipes.
    """
    from shards.ops.operations import subset as run

    with Events(unit="samples") as events:
        run(dest, out, on_event=events, **options)


@click.command()
@click.argument("dest", type=str)
@click.argument("out", type=str)
@click.option(
    "--by", type=click.Choice(["split", "class", "group"]), default="split", show_default=True, help="What divides."
)
@_COLUMNS
@_size("[default: as DEST]")
@_WORKERS
def split(dest: str, out: str, **options: Any) -> None:
    """Write a data set for each split (or class, or group) of DEST, as folders of OUT."""
    from shards.ops.operations import split as run

    with Events(unit="samples") as events:
        run(dest, out, on_event=events, **options)


@click.command()
@click.argument("dest", type=str)
@click.option(
    "--splits",
    type=Parsed(parse_names, "A,B"),
    default="",
    help="Only pairs across these splits; samples of the one named first are dropped: train,test.",
)
@click.option("--against", metavar="OTHER", help="Only pairs with this data set; samples of DEST are dropped.")
@click.option(
    "--threshold",
    type=float,
    default=0.8,
    show_default=True,
    help="Likeness from which on two samples show the same; above 1: exact copies only.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Report to write (JSON).")
@click.option("--drop-list", type=click.Path(path_type=Path), help="File for the keys to drop (subset --drop).")
@click.option("--keep-list", type=click.Path(path_type=Path), help="File for the keys to keep (data.keep).")
@click.option("--column", default="rgb", show_default=True, help="Column of frames.")
@_WORKERS
def dedupe(
    dest: str,
    output: Path | None,
    drop_list: Path | None,
    keep_list: Path | None,
    **options: Any,
) -> None:
    """Find samples of the data set DEST that show the same.

    Exact copies, and copies that were compressed, scaled, trimmed or had their brightness or frame rate changed. The
    data set itself is not changed.
    """
    from shards.ops.dedupe import dedupe as run
    from shards.ops.dedupe import write_lists

    with Events(unit="samples") as events:
        report = run(dest, on_event=events, **options)
    write_lists(report, output=output, drop_list=drop_list, keep_list=keep_list)
    rows = [
        (pair.drop, pair.keep, "exact" if pair.exact else f"{pair.score:.3f}", f"{pair.offset:+.2f}")
        for pair in report.pairs[:_SHOWN]
    ]
    print_table("duplicates", ("drop", "keep", "likeness", "offset (s)"), rows)
    click.echo(str(report))
    for count, what in (
        (len(report.pairs) - len(rows), "more pairs; -o FILE writes all"),
        (report.in_several, "samples are in several of these splits themselves"),
        (report.flat, "samples have no frame that tells anything; only exact copies of them are found"),
        (report.capped, "samples have more similar ones than were compared; there may be more pairs"),
    ):
        if count > 0:
            click.echo(f"note: {count:,} {what}", err=True)


@click.command()
@click.argument("dest", type=str)
def migrate(dest: str) -> None:
    """Bring the data set DEST up to the format version that this vidprep writes. Tars are not touched."""
    from shards.ops.migrate import migrate as run

    click.echo(str(run(dest)))
