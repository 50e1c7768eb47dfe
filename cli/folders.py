"""`vidprep import` and `flow-folders`: the frame and flow trees of other code bases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.console import Events, parse_bytes, parse_share, parse_size
from cli.index import _named_file
from cli.types import Parsed

_LAYOUTS = ("twostream", "pace", "svc", "denseflow")


@click.command(name="import")
@click.argument("root", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("dest", type=str)
@click.option(
    "--layout",
    type=click.Choice(_LAYOUTS),
    required=True,
    help="twostream: the public UCF101 release (jpegs_256, tvl1_flow); pace: CLASS/VIDEO/frame000001.jpg; svc: "
    "CLASS/VIDEO/image_00001.jpg; denseflow: CLASS/VIDEO/img_00001.jpg with flow_x_ and flow_y_.",
)
@click.option("--rgb", type=click.Path(path_type=Path), help="Folder of the frames.  [default: the layout's, in DIR]")
@click.option("--flow", type=click.Path(path_type=Path), help="Folder of u and v.  [default: the layout's, in DIR]")
@click.option("--no-flow", is_flag=True, help="Leave flow out.")
@click.option("--fps", type=float, default=25, show_default=True, help="Frame rate; folders do not say theirs.")
@click.option(
    "--split-file", "split_files", multiple=True, metavar="NAME=FILE", help="As in vidprep index; repeatable."
)
@click.option("--holdout", multiple=True, metavar="GLOB", help="As in vidprep index; repeatable.")
@click.option("--classes", metavar="FILE", help="Fixes the class indices.  [default: alphabetical]")
@click.option("--group", metavar="REGEX", help="As in vidprep index.  [default: source videos of UCF101 names]")
@click.option("--strict", is_flag=True, help="An entry of a split file without exactly one video is an error.")
@click.option(
    "--shard-size", type=Parsed(parse_bytes, "SIZE"), default="256MB", show_default=True, help="Bytes a shard, about."
)
@click.option("--name", help="Name of the data set.  [default: DEST's last part]")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option(
    "--max-bad",
    type=Parsed(parse_share, "SHARE"),
    default="2%",
    show_default=True,
    help="Publish nothing where a larger share of the videos has no sample, or no flow.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600,
    show_default=True,
    help="Give a video up that makes no progress for this many seconds.",
)
def import_(
    root: Path, dest: str, split_files: tuple[str, ...], no_flow: bool, fps: float, max_bad: float, **options: Any
) -> None:
    """Bring the frame and flow trees below DIR into the columns of a data set DEST.

    JPEG files are copied, byte for byte. The class is the folder above a video, or that of a UCF101 name. Whatever
    ends a run, the same command goes on where it stopped. docs/folders.md shows the layouts.

    \b
    Examples:
      vidprep import ucf101 DATA --layout twostream \\
          --split-file ucf1-train=trainlist01.txt --split-file ucf1-test=testlist01.txt
      vidprep import frames DATA --layout pace --flow tvl1_flow
      vidprep import rawframes DATA --layout denseflow
    """
    from vidprep.folders.importing import import_frames

    with Events(unit="videos") as events:

        def tell(event: Mapping[str, Any]) -> None:
            if event["event"] == "start":
                events.close()  # each column has a bar of its own
            events(event)

        import_frames(
            root,
            dest,
            split_files=[_named_file(text) for text in split_files],
            with_flow=not no_flow,
            fps=fps,
            max_bad=max_bad,
            on_event=tell,
            **options,
        )


@click.command(name="flow-folders")
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(("tvl1", "dis", "farneback")), default="tvl1", show_default=True)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="Of tvl1: numba (CPU), triton (NVIDIA GPU), opencv, opencv-cuda, or auto: triton where it works, else numba.",
)
@click.option("--short-side", type=click.IntRange(min=1), help="Shrink frames to this short side first.")
@click.option("--size", type=Parsed(parse_size, "HxW"), help="Shrink frames to this height x width first.")
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="JPEG quality.")
@click.option("--repeat-last", is_flag=True, help="Write the last field of a video twice, so that every frame has one.")
@click.option("--keep-class", is_flag=True, help="Keep the folders that videos lie in: u/CLASS/VIDEO.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core; two with a GPU]")
def flow_folders(source: Path, out: Path, **options: Any) -> int:
    """Write the optical flow of the frame folders below DIR to OUT/u and OUT/v.

    A frame folder holds numbered images (frame000001.jpg, …). Field n, OUT/u/VIDEO/frame%06d.jpg, leads from frame n
    to n + 1: T frames give T - 1 fields. A byte is round((f + 20) * 255 / 40), as in the public UCF101 release.

    The same command goes on where it stopped. Folders that fail are named; exits 1 if there are any.
    """
    from vidprep.folders.flow_trees import flow_folders as run

    with Events(unit="videos") as events:
        report = run(source, out, on_event=events, **options)
    return 1 if report.failed else 0
