"""`vidprep simulate`: what a training run will read, without running it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cli.console import human_bytes, parse_bytes, print_table

if TYPE_CHECKING:
    from trainer.data.forecast import Forecast


@click.command()
@click.argument("dest", nargs=-1, required=True, metavar="DEST[=SHARE]...")
@click.option("--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that train.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Machines they are on.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Loader processes of each.")
@click.option("--batch", type=click.IntRange(min=1), help="Videos per step, all ranks together.  [the recipe's, or 32]")
@click.option("--shuffle", metavar="KIND", help="full, blocks:K or none.  [the recipe's, or full]")
@click.option("--cache", metavar="SIZE", help="A cache of whole shards on each machine: 200GB.  [the storage's]")
@click.option("--gap", metavar="SIZE", help="Read along what lies between ranges, up to this.  [as the storage does]")
@click.option("--recipe", metavar="NAME|FILE", help="Count the clips of this recipe.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe.")
@click.option("--frames", type=click.IntRange(min=1), default=16, show_default=True, help="Without recipe: per clip.")
@click.option("--strides", default="1", show_default=True, metavar="LIST", help="Without recipe: drawn from these.")
@click.option("--clips", type=click.IntRange(min=1), default=1, show_default=True, help="Without recipe: of a video.")
@click.option("--column", default="rgb", show_default=True, help="Without recipe: where clips come from.")
@click.option("--repeats", type=click.IntRange(min=1), help="Of a video and epoch.  [the recipe's, or 1]")
@click.option("--clips-per-read", type=click.IntRange(min=1), help="Of these, together.  [the recipe's, or 1]")
@click.option("--split", metavar="NAME", help="Videos of this split.")
@click.option("--keep", metavar="SHARE|FILE", help="A share of each class, or listed keys.")
@click.option("--seed", type=click.IntRange(min=0), help="Of order and draws.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the run.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Length of the run.  [1]")
@click.option(
    "--clips-per-s",
    type=click.FloatRange(min=0, min_open=True),
    default=100,
    show_default=True,
    help="All ranks together.",
)
@click.option("--measured", type=click.IntRange(min=1), default=20_000, show_default=True, help="Items looked up.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def simulate(
    dest: tuple[str, ...],
    ranks: int,
    nodes: int,
    workers: int,
    cache: str | None,
    gap: str | None,
    strides: str,
    measured: int,
    clips_per_s: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell what training on DEST will read, without training.

    \b
    vidprep simulate DATA --recipe pace-r3d --ranks 8 --nodes 2 --shuffle blocks:16 --cache 200GB
    vidprep simulate DATA --frames 16 --strides 1,2,4 --batch 256 --epochs 3 --cache 200GB
    vidprep simulate k400 ucf101=0.3 --recipe pace-r3d --json

    Counts requests and bytes of ranged reads, hits and misses of a cache of whole shards, the bandwidth that a number
    of clips a second needs, and how well the order mixes. Up to 20,000 items are looked up in the index one by one;
    of longer runs as many, evenly spread. docs/order.md explains every line.
    """
    from trainer.data.shard_use import Cluster
    from trainer.data.simulate import simulate as run

    cluster = Cluster(
        ranks=ranks,
        nodes=nodes,
        workers=workers,
        cache=None if cache is None else parse_bytes(cache),
        gap=None if gap is None else parse_bytes(gap),
        measured=measured,
    )
    found = run(list(dest), cluster, strides=_numbers(strides), **options)
    if as_json:
        rates = {"clips_per_s": clips_per_s, "bytes_per_s": found.bytes / found.clips * clips_per_s}
        click.echo(json.dumps({**asdict(found), "shuffle_quality": found.quality.figure, **rates}))
        return
    print_table(" + ".join(dest), ("what", "value"), _lines(found, clips_per_s))
    warning = _warning(found)
    if warning:
        click.echo(f"warning: {warning}", err=True)


def _lines(found: Forecast, rate: float) -> Iterator[tuple[str, str]]:
    about = "" if found.counted == found.items else f" (estimated from {found.counted:,} items)"
    per_clip = found.bytes / found.clips
    yield "selection", f"{found.samples:,} samples in {found.shards:,} shards of {human_bytes(found.tar_bytes)}"
    yield "run", f"{found.steps:,} steps, {found.epochs:.4g} epochs, {found.clips:,} clips"
    yield "ranged reads", f"{found.reads:,}{about}"
    yield "bytes of ranges", f"{human_bytes(found.bytes)}, {human_bytes(per_clip)} a clip{about}"
    yield "in use at once", f"{human_bytes(found.working_set)} of shards on a machine"
    needed = [f"{per_clip * rate / 1e6:,.1f} MB/s in {found.reads / found.clips * rate:,.0f} reads/s"]
    if found.cached is not None:
        cached = found.cached
        fits = f"blocks:{cached.fits} fits" if cached.fits else "not two shards fit"
        yield "cache", f"{human_bytes(cached.size)} a machine; {fits}"
        yield "cache hits", f"{cached.hits:,} ({cached.hits / (cached.hits + cached.misses):.1%})"
        yield "cache misses", f"{cached.misses:,} shards, {human_bytes(cached.bytes)}"
        yield "fetched again", f"{cached.again:,} of these, within an epoch"
        needed.append(f"{cached.bytes / found.clips * rate / 1e6:,.1f} MB/s through the cache")
    yield f"needed at {rate:g} clips/s", "; ".join(needed)
    quality = found.quality
    parts = {"videos": quality.videos, "shards": quality.shards, "classes": quality.classes}
    shown = ", ".join(f"{name} {value:.3f}" for name, value in parts.items() if value is not None)
    yield "shuffle quality", f"{quality.figure:.3f} (different in a batch, of a full permutation's: {shown})"
    if quality.epochs is not None:
        yield "epochs alike", f"{quality.epochs:+.3f} (rank correlation of the first two; full permutation: 0)"


def _warning(found: Forecast) -> str | None:
    cached = found.cached
    if cached is None:
        return None
    again = f"{cached.again:,} of {cached.misses:,} fetches are of shards that had been there in the same epoch"
    if cached.size < found.working_set and cached.again > 0.05 * cached.misses:
        small = f"{human_bytes(found.working_set)} are in use at once and the cache holds {human_bytes(cached.size)}"
        if cached.fits < 1:
            return f"{small}: {again}; give it more, or pack with a smaller --shard-size"
        fits = f"--shuffle blocks:{cached.fits} fits (--set data.shuffle=blocks:{cached.fits})"
        return f"{small}: {again}; {fits}, or give it more"
    if cached.again > 0.3 * cached.misses:  # blocks:k fetches k − 1 shards an epoch again, whatever the cache
        return f"{again}, for batches in the making reach over several shards: a larger cache, or fewer workers"
    return None


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers; the form is 1,2,4") from None
