"""`vidprep pack`."""

from __future__ import annotations

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
from cli.types import Parsed

if TYPE_CHECKING:
    from vidprep.estimate import DryRun


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("dest", type=str)
@click.option("--short-side", type=click.IntRange(min=1), help="Stored short side in pixels.  [default: 128]")
@click.option("--size", type=Parsed(parse_size, "HxW"), help="Exact stored size, height x width, instead.")
@click.option("--fps", type=float, help="Resample to this frame rate by timestamps.  [default: keep all frames]")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="JPEG quality.")
@click.option(
    "--shard-size", type=Parsed(parse_bytes, "SIZE"), default="256MB", show_default=True, help="Bytes a shard, about."
)
@click.option("--segment-frames", type=click.IntRange(min=1), help="Cut videos into samples of this many frames.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--root", type=str, help="Folder the videos are in now, instead of the manifest's.")
@click.option("--classes", type=click.Path(path_type=Path), help="Class table.  [default: MANIFEST's .classes.txt]")
@click.option("--name", help="Name of the data set.  [default: DEST's last part]")
@click.option(
    "--max-bad",
    type=Parsed(parse_share, "SHARE"),
    default="2%",
    show_default=True,
    help="Publish nothing where a larger share of the videos gives no frame.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600,
    show_default=True,
    help="Give a video up that yields no new frame for this many seconds.",
)
@click.option(
    "--columns",
    type=Parsed(parse_names, "NAMES"),
    default="rgb",
    show_default=True,
    help="Columns to make: rgb, or rgb,flow, or rgb,flow,statistics.",
)
@click.option(
    "--flow",
    type=Parsed(parse_pair, "KEY=VALUE"),
    multiple=True,
    help="Option of vidprep flow, such as method=dis; may be repeated.",
)
@click.option(
    "--labels",
    type=Parsed(parse_pair, "KEY=VALUE"),
    multiple=True,
    help="Option of vidprep labels, such as crop=224; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Decode 20 videos, say what a whole run needs, write nothing.")
def pack(
    manifest: Path,
    dest: str,
    dry_run: bool,
    max_bad: float,
    name: str | None,
    flow: tuple[tuple[str, Any], ...],
    labels: tuple[tuple[str, Any], ...],
    **options: Any,
) -> int:
    """Decode the videos of MANIFEST into the data set DEST.

    Whatever ends a run, the same command goes on where it stopped. Videos that give no frame are recorded and
    counted; see docs/odd-videos.md for the verdicts.
    """
    from vidprep.pack import estimate_pack
    from vidprep.pack import pack as run

    options |= {"flow": dict(flow), "labels": _label_options(labels)}
    if dry_run:
        needs = estimate_pack(manifest, dest, **options)
        _print_dry_run(needs, dest)
        return 0 if needs.fits else 1
    with Events(unit="videos") as events:
        run(manifest, dest, name=name, max_bad=max_bad, on_event=events, **options)
    return 0


def _label_options(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
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
