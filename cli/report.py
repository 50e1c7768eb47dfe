"""`vidprep report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.storage import shown

if TYPE_CHECKING:
    from trainer.report.page import Sheet


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write.",
)
@click.option("--title", help="Heading.  [names of the runs]")
@click.option("--data", metavar="DEST", help="Data set of the contact sheet.  [that of the runs, where it still is]")
def report(runs: tuple[Path, ...], output: Path, title: str | None, data: str | None) -> None:
    """Write one self-contained HTML page about run folders.

    Shows what each RUN has: a contact sheet, curves, results against random initialisation, retrieval examples with
    moving thumbnails, confusion matrices, recipes, commands and versions. The page loads nothing from elsewhere.
    """
    from datetime import datetime

    from trainer.report import write_report

    command = shown(["vidprep", *sys.argv[1:]])
    sheet = contact_sheet_of(data) if data is not None else first_sheet(runs)
    path = write_report(runs, output, sheet=sheet, title=title, command=command, now=datetime.now())
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def first_sheet(runs: tuple[Path, ...]) -> Sheet | None:
    """Contact sheet of the data set that the first run was trained or evaluated on; None when it is gone."""
    import json

    from shards.errors import UserError

    for run in runs:
        for path in (run / "run.json", *sorted((run / "evaluation").glob("*.json"))):
            if not path.is_file():
                continue
            try:
                return contact_sheet_of(json.loads(path.read_text(encoding="utf-8"))["data"]["url"])
            except UserError as error:
                click.echo(f"no contact sheet: {error}", err=True)
                return None
    return None


def contact_sheet_of(url: str) -> Sheet:
    """A sheet of 12 clips."""
    import cv2

    from shards.dataset import open_dataset
    from trainer.report.page import Sheet
    from vidprep.preview import contact_sheet

    dataset = open_dataset(url)
    image = contact_sheet(dataset, count=12, frames_per_clip=8)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return Sheet(image=data.tobytes(), caption=f"Eight evenly spread frames each of clips of {dataset.meta.name}.")
