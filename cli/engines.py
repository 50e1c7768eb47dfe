"""Where shards are written: options of pack, flow and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from cli.console import parse_bytes, parse_pair
from cli.types import Parsed


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of pack, flow and labels: where shards are written."""
    for option in (
        click.option("--script-folder", type=click.Path(path_type=Path), help="Of Slurm's logs and scripts."),
        click.option("--parts", type=click.IntRange(min=1), help="Tasks of a Slurm array.  [default: one a shard]"),
        click.option(
            "--slurm",
            type=Parsed(parse_pair, "KEY=VALUE"),
            multiple=True,
            help="Option of sbatch, such as partition=cpu, time=8:00:00, cpus_per_task=8; may be repeated.",
        ),
        click.option("--address", help="Of a running Ray cluster, or auto.  [default: a Ray of this machine]"),
        click.option("--scratch", type=str, help="Folder on every machine that shards are written in first."),
        click.option("--memory", type=Parsed(parse_bytes, "SIZE"), help="What a process may hold, such as 4GB."),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray", "slurm"]),
            default="local",
            show_default=True,
            help="Where shards are written; see docs/farms.md.",
        ),
    ):
        command = option(command)
    return command


def make_engine(name: str, *, address: str | None, workers: int | None) -> Any:
    """local or ray."""
    from vidprep.farm.engines import Local
    from vidprep.farm.ray_engine import Ray

    return Ray(address=address, processors=workers if address is None else None) if name == "ray" else Local()


def submit_to_slurm(
    job: Any,
    columns: tuple[str, ...],
    *,
    slurm: Mapping[str, Any],
    parts: int | None,
    folder: Path | None,
    dry_run: bool,
) -> None:
    """Submit what is planned, or write the scripts."""
    from dataclasses import replace

    from vidprep.farm.slurm import SlurmOptions, scripts, submit

    place = folder or Path("vidprep-slurm")
    options = SlurmOptions(options=slurm, parts=parts, folder=place)
    jobs = [replace(job, column=column) for column in columns]
    if dry_run:
        place.mkdir(parents=True, exist_ok=True)
        for name, text in scripts(jobs, options).items():
            (place / name).write_text(text, encoding="utf-8")
            click.echo(place / name)
        return
    for it in submit(jobs, options):
        click.echo(f"submitted: {it.id} ({it.what}, {it.tasks} tasks)")
    click.echo(f"watch it with: vidprep status {job.url} --watch")
