"""`vidprep index-shards` and `export`: shards and layouts of other tools."""

from __future__ import annotations

from typing import Any

import click

from cli.console import Events, parse_share
from cli.types import Parsed

_FORMS = ("pace", "statistics", "svc", "webdataset-frames", "lmdb")


def _split(text: str) -> tuple[str, str]:
    """NAME for all tars, NAME=PATTERN for some."""
    name, sign, pattern = text.partition("=")
    if not name or (sign and not pattern):
        raise click.BadParameter(f"{text!r} is not NAME or NAME=PATTERN, such as train or val=val-*.tar")
    return name, pattern or "*"


@click.command(name="index-shards")
@click.argument("urls", metavar="TAR...", nargs=-1, required=True)
@click.option("-o", "--output", "dest", metavar="DEST", help="Folder of the index.  [default: the tars' own folder]")
@click.option("--kind", type=click.Choice(("video", "jpegs")), help="[default: what the first sample is]")
@click.option("--fps", type=float, default=25, show_default=True, help="Of JPEG sequences whose JSON has no fps.")
@click.option("--label", "label_field", metavar="FIELD", help="Of the JSON.  [default: label, class, or KEY.cls]")
@click.option("--caption", "caption_field", metavar="FIELD", help="Of the JSON.  [default: KEY.txt, or caption]")
@click.option("--group", "group_field", metavar="FIELD", help="Of the JSON: source video or person.")
@click.option("--classes", metavar="FILE", help="Class names, which numbers as labels refer to.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=Parsed(_split, "NAME[=PATTERN]"),
    help="Split of all tars, or of those named like PATTERN; repeatable.",
)
@click.option("--prefix-keys", is_flag=True, help="Put the tar's name before keys, where tars use the same ones.")
@click.option("--name", help="Name of the data set.  [default: DEST's last part]")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option(
    "--max-bad",
    type=Parsed(parse_share, "SHARE"),
    default="2%",
    show_default=True,
    help="Publish nothing where a larger share of the samples is bad.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600,
    show_default=True,
    help="Give a sample up after so many seconds.",
)
def index_shards(urls: tuple[str, ...], dest: str | None, max_bad: float, **options: Any) -> None:
    """Index WebDataset TARs that other tools wrote, so that vidprep train reads them where they are.

    A sample is a video, KEY.mp4 (webm, mkv, avi, mov), or a sequence of JPEGs, KEY.000.jpg, with KEY.json, KEY.txt or
    KEY.cls beside it: the layouts of video2dataset and img2dataset. The tars are neither copied nor changed. Every
    frame is decoded once, to know that it can be. docs/interop.md has the details.

    \b
    Examples:
      vidprep index-shards '/data/webvid/{00000..00099}.tar' -o /data/webvid-index
      vidprep index-shards /data/frames --fps 30 --split train='train-*' --split val='val-*'
    """
    from vidprep.foreign.indexing import index_shards as run

    with Events(unit="tars") as events:
        run(urls, dest, max_bad=max_bad, on_event=events, **options)


@click.command()
@click.argument("data", metavar="DATA", type=str)
@click.argument("out", metavar="OUT", type=str)
@click.option("--to", "form", type=click.Choice(_FORMS), required=True, help="The layout.")
@click.option("--split", metavar="NAME", help="Only the samples of this split.")
@click.option("--column", default="rgb", show_default=True, help="Of the frames.")
@click.option("--flow", default="flow", show_default=True, help="Column of the flow, for statistics.")
@click.option(
    "--stride", type=click.IntRange(min=1), default=8, show_default=True, help="Between windows in statistics' lists."
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=90,
    show_default=True,
    help="Of JPEGs made of encoded videos.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads.  [default: one a core]")
def export(data: str, out: str, **options: Any) -> None:
    """Write data set DATA to OUT in the layout of older code. Stored JPEGs are copied as they are.

    \b
    pace               frames/CLASS/VIDEO/frame000001.jpg, list/SPLIT.list
    statistics         the same frames, flow/u and flow/v, lists of windows
    svc                frames/CLASS/VIDEO/image_00001.jpg, SPLIT.csv
    webdataset-frames  plain tars of KEY.000.jpg … with KEY.json, for stock webdataset
    lmdb               frames.lmdb as CoCLR reads it, SPLIT.csv

    The same command goes on where it stopped. docs/interop.md has the details.

    \b
    Example:
      vidprep export data/ucf101 /scratch/ucf101-pace --to pace
    """
    from vidprep.export.exporting import export as run

    with Events(unit="videos") as events:
        run(data, out, on_event=events, **options)
