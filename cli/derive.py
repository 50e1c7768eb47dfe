"""`vidprep flow`, `labels`, `text` and `prune`: columns made from other columns, or from captions."""

from __future__ import annotations

from typing import Any

import click

from cli.console import Events, human_bytes, parse_pair, parse_resize
from cli.engines import engine_options, make_engine, submit_to_slurm
from cli.types import Parsed

_FLOW = ("method", "backend", "codec", "bound", "source")
_LABELS = ("crop", "window", "stride", "views", "resize", "variant", "flip", "seed", "rgb", "flow")


def _common(command: Any) -> Any:
    """Options of all of them."""
    for option in (
        click.option("--dry-run", is_flag=True, help="With --engine slurm: write the scripts instead of submitting."),
        click.option("--plan-only", is_flag=True, help="Only fix the options; then vidprep run DEST --column NAME."),
        engine_options,
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=600,
            show_default=True,
            help="Give a sample up that makes no progress for this many seconds.",
        ),
        click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]"),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("dest", type=str)
@click.option("--method", default="tvl1", show_default=True, help="tvl1, dis, farneback or raft.")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="Of tvl1: numba (CPU), triton (NVIDIA GPU), opencv, opencv-cuda, or auto: triton where it works, else numba.",
)
@click.option(
    "--codec", default="byte", show_default=True, help="How it is stored: byte, release (fixed ±20 px) or lossless."
)
@click.option(
    "--bound",
    type=float,
    default=20.0,
    show_default=True,
    help="Codec byte: longest stored component in pixels at short side 256; other sizes in proportion.",
)
@click.option("--column", default="flow", show_default=True, help="Name of the column.")
@click.option("--source", default="rgb", show_default=True, help="RGB column it is computed from.")
@click.option(
    "--param",
    "params",
    type=Parsed(parse_pair, "KEY=VALUE"),
    multiple=True,
    help="Parameter of the method, such as nscales=3; may be repeated.",
)
@_common
def flow(dest: str, params: tuple[tuple[str, Any], ...], **options: Any) -> None:
    """Compute optical flow and store it as a column of the data set DEST.

    The RGB column is not touched. The same command goes on where it was stopped; other parameters go to a folder of
    their own, and the column switches to it when it is complete.
    """
    _make("flow", dest, {**{name: options.pop(name) for name in _FLOW}, **dict(params)}, options)


@click.command()
@click.argument("dest", type=str)
@click.option("--crop", type=int, default=112, show_default=True, help="Side of the crop, a multiple of 8.")
@click.option("--window", type=int, default=16, show_default=True, help="Frames of a clip.")
@click.option("--stride", type=int, default=8, show_default=True, help="Frames from one window to the next.")
@click.option("--views", type=int, default=8, show_default=True, help="Crops and flips of every window.")
@click.option(
    "--resize",
    type=Parsed(parse_resize, "HxW|SHORT|stored"),
    default="128x171",
    show_default=True,
    help="Size of the frames before the crop: exact, a short side, or as stored.",
)
@click.option(
    "--variant",
    default="corrected",
    show_default=True,
    help="corrected, or reference: the reference code bit for bit, with its defects.",
)
@click.option(
    "--flip",
    default="physical",
    show_default=True,
    help="Mirrored views: physical (u negated), literal (as the reference, not negated) or none.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which crops and flips.")
@click.option("--column", default="statistics", show_default=True, help="Name of the column.")
@click.option("--rgb", default="rgb", show_default=True, help="RGB column they are computed from.")
@click.option("--flow", default="flow", show_default=True, help="Flow column they are computed from.")
@_common
def labels(dest: str, **options: Any) -> None:
    """Compute statistics labels and store them as a column of the data set DEST.

    The column is a table of windows x views with 14 motion and 13 appearance numbers each; the task `statistics`
    trains on it without reading flow. Needs a flow column (vidprep flow DEST).
    """
    _make("labels", dest, {name: options.pop(name) for name in _LABELS}, options)


@click.command()
@click.argument("dest", type=str)
@click.option("--column", default="text", show_default=True, help="Name of the column.")
@_common
def text(dest: str, **options: Any) -> None:
    """Pack the captions of the data set DEST into a column: KEY.txt, one caption a line.

    Captions stand in the sample table (vidprep annotate DEST FILE), and tasks read them there; the column is for
    programs that read tars alone. When captions are replaced the column is stale; the same command makes it anew.
    """
    _make("text", dest, {}, options)


def _make(
    what: str,
    dest: str,
    given: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Plan the column, and write it where it is to be written. `given`: of the maker; `options`: of the run."""
    from vidprep.derive import add_flow, add_labels, add_text, flow_maker, label_maker, plan_column, text_maker

    makers: dict[str, Any] = {"flow": flow_maker, "labels": label_maker, "text": text_maker}
    column, workers = options["column"], options["workers"]
    run = {name: options[name] for name in ("workers", "timeout", "memory", "scratch")}
    with Events(unit="videos") as events:
        if options["plan_only"] or options["engine"] == "slurm":
            plan_column(dest, column, makers[what](**given))
            if options["plan_only"]:
                message = f"column {column} of {dest} is planned: vidprep run {dest} --column {column} writes it"
                events({"event": "done", "message": message})
                return
            from vidprep.farm.work import Job

            submit_to_slurm(
                Job(url=dest, column=column, **run),
                (column,),
                slurm=dict(options["slurm"]),
                parts=options["parts"],
                folder=options["script_folder"],
                dry_run=options["dry_run"],
            )
            return
        engine = make_engine(options["engine"], address=options["address"], workers=workers)
        add: dict[str, Any] = {"flow": add_flow, "labels": add_labels, "text": add_text}
        add[what](dest, column=column, engine=engine, on_event=events, **run, **given)


@click.command()
@click.argument("dest", type=str)
@click.option("--yes", is_flag=True, help="Delete; without it the command only says what it would delete.")
def prune(dest: str, yes: bool) -> None:
    """Delete column folders of the data set DEST that it no longer uses, such as regenerated flow.

    Runs that are still training on such a folder would end with an error.
    """
    from shards.prune import prune as run

    for folder in run(dest, delete=yes):
        click.echo(f"{'deleted' if yes else 'unused'}: {folder.name} ({human_bytes(folder.bytes)})")
    if not yes:
        click.echo("nothing was deleted; --yes deletes what is listed")
