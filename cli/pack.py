"""`vidprep pack`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import (
    Events,
    human_bytes,
    parse_bytes,
    parse_names,
    parse_pair,
    parse_resize,
    parse_share,
    parse_size,
    print_table,
)
from cli.engines import engine_options, make_engine, submit_to_slurm
from cli.types import Parsed

if TYPE_CHECKING:
    from vidprep.estimate import DryRun


def set_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that decide what a data set is, of pack and of plan."""
    for option in (
        click.option(
            "--labels",
            type=Parsed(parse_pair, "KEY=VALUE"),
            multiple=True,
            help="Option of vidprep labels, such as crop=224; may be repeated.",
        ),
        click.option(
            "--flow",
            type=Parsed(parse_pair, "KEY=VALUE"),
            multiple=True,
            help="Option of vidprep flow, such as method=dis; may be repeated.",
        ),
        click.option(
            "--columns",
            type=Parsed(parse_names, "NAMES"),
            default="rgb",
            show_default=True,
            help="Columns to make: rgb, and any of flow, statistics (which needs flow) and text, such as rgb,flow.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=600,
            show_default=True,
            help="Give a video up that yields no new frame for this many seconds.",
        ),
        click.option(
            "--max-bad",
            type=Parsed(parse_share, "SHARE"),
            default="2%",
            show_default=True,
            help="Publish nothing where a larger share of the videos gives no frame.",
        ),
        click.option("--name", help="Name of the data set.  [default: DEST's last part]"),
        click.option(
            "--classes", type=click.Path(path_type=Path), help="Class table.  [default: MANIFEST's .classes.txt]"
        ),
        click.option("--root", type=str, help="Folder the videos are in now, instead of the manifest's."),
        click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]"),
        click.option(
            "--segment-frames", type=click.IntRange(min=1), help="Cut videos into samples of this many frames."
        ),
        click.option(
            "--shard-size",
            type=Parsed(parse_bytes, "SIZE"),
            default="256MB",
            show_default=True,
            help="Bytes a shard, about.",
        ),
        click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="JPEG quality."),
        click.option(
            "--fps", type=float, help="Resample to this frame rate by timestamps.  [default: keep all frames]"
        ),
        click.option("--size", type=Parsed(parse_size, "HxW"), help="Exact stored size, height x width, instead."),
        click.option("--short-side", type=click.IntRange(min=1), help="Stored short side in pixels.  [default: 128]"),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("dest", type=str)
@set_options
@engine_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Decode 20 videos, say what a whole run needs, write nothing. With --engine slurm: plan, write scripts.",
)
def pack(
    manifest: Path,
    dest: str,
    dry_run: bool,
    flow: tuple[tuple[str, Any], ...],
    labels: tuple[tuple[str, Any], ...],
    max_bad: float,
    name: str | None,
    engine: str,
    memory: int | None,
    scratch: str | None,
    address: str | None,
    slurm: tuple[tuple[str, Any], ...],
    parts: int | None,
    script_folder: Path | None,
    **options: Any,
) -> int:
    """Decode the videos of MANIFEST into the data set DEST.

    Whatever ends a run, the same command goes on where it stopped. Videos that give no frame are recorded and
    counted; see docs/odd-videos.md for the verdicts. It is plan, run and finalize in one; `--engine` says where.
    """
    options |= {"flow": dict(flow), "labels": label_options(labels)}
    if dry_run and engine != "slurm":
        from vidprep.pack import estimate_pack

        needs = estimate_pack(manifest, dest, **options)
        _print_dry_run(needs, dest)
        return 0 if needs.fits else 1
    options |= {"name": name, "max_bad": max_bad}
    with Events(unit="videos") as events:
        if engine == "slurm":
            from vidprep.farm.work import Job
            from vidprep.planning import plan

            planned = plan(manifest, dest, on_event=events, **options)
            policy = {"workers": options["workers"], "timeout": options["timeout"], "max_bad": max_bad}
            job = Job(url=planned.url, roots=planned.roots, memory=memory, scratch=scratch, **policy)
            submit_to_slurm(job, planned.columns, slurm=dict(slurm), parts=parts, folder=script_folder, dry_run=dry_run)
            return 0
        from vidprep.pack import pack as run

        at = make_engine(engine, address=address, workers=options["workers"])
        run(manifest, dest, memory=memory, scratch=scratch, engine=at, on_event=events, **options)
    return 0


def label_options(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Of --labels."""
    return {key: parse_resize(str(value)) if key == "resize" else value for key, value in pairs}


def _print_dry_run(needs: DryRun, dest: str) -> None:
    rows = [
        ("videos measured", f"{needs.measured} of {needs.videos:,}, {needs.bad} bad"),
        ("rgb column", f"{human_bytes(needs.rgb_bytes)} in {needs.shards} shards"),
        *(
            (f"{name} column", f"{human_bytes(size)}, {hours:.3g} core-hours of those below")
            for name, (size, hours) in needs.columns.items()
        ),
        ("indexes", human_bytes(needs.index_bytes)),
        ("scratch space", f"{human_bytes(needs.scratch_bytes)} (unfinished shards, part of the above)"),
        ("free at DEST", "unknown" if needs.free_bytes is None else human_bytes(needs.free_bytes)),
        ("processor time", f"{needs.core_hours:.3g} core-hours"),
        ("wall time", f"{needs.wall_hours:.3g} hours at --workers {needs.workers}"),
    ]
    print_table("vidprep pack --dry-run", ("what", "estimate"), rows)
    if needs.free_bytes is not None and not needs.fits:
        wanted = human_bytes(needs.bytes)
        click.echo(
            f"error: {wanted} do not fit on the disk of {dest} ({human_bytes(needs.free_bytes)} free); free some "
            "space, choose another destination, or store less with --short-side, --fps or --quality",
            err=True,
        )
