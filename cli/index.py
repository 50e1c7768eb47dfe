"""`vidprep index` and `vidprep annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vidprep.catalog import Index


@click.command()
@click.argument("root", metavar="ROOT")
@click.option("-o", "--output", metavar="FILE", required=True, help="Manifest to write, such as set.jsonl.")
@click.option(
    "--format",
    "format_",
    default="folder",
    show_default=True,
    metavar="NAME",
    help="How the videos are laid out: folder, or file.py:Name for a function of your own.",
)
@click.option(
    "--split-file",
    "split_files",
    multiple=True,
    metavar="NAME=FILE",
    help="A list of videos; repeat for several. A list of members defines the split NAME; one that assigns sides "
    "defines NAME-train and NAME-test, or train and test without NAME=. UCF101, HMDB51 (folder or pattern), CSV, "
    "JSON and plain text are recognised.",
)
@click.option(
    "--holdout",
    multiple=True,
    metavar="GLOB",
    help="Videos whose file name or path below ROOT fits are split test, all others train; repeatable.",
)
@click.option(
    "--classes",
    metavar="FILE",
    help="Fixes the class indices: numbered lines (classInd.txt), names, or JSON. Default: alphabetical.",
)
@click.option(
    "--group",
    metavar="REGEX",
    help="Searched in the path below ROOT; its first (group) names what belongs together, such as a person, and "
    "should not stand on both sides of a split. Default: the source videos of UCF101 names.",
)
@click.option("--suffix", "suffixes", multiple=True, metavar=".ABC", help="One more ending that is a video.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Handed to the function of --format file.py:Name; repeatable.",
)
@click.option("--strict", is_flag=True, help="An entry of a split file without exactly one video is an error.")
def index(
    root: str,
    output: str,
    format_: str,
    split_files: tuple[str, ...],
    holdout: tuple[str, ...],
    classes: str | None,
    group: str | None,
    suffixes: tuple[str, ...],
    options: tuple[str, ...],
    strict: bool,
) -> None:
    """List the videos of ROOT in a manifest, with classes, groups and splits.

    ROOT holds one folder for each class, optionally below train/, val/, test/. The manifest has one JSON line a
    video, to be edited as you like; the class names go to a .classes.txt beside it.

    \b
    Examples:
      vidprep index VIDEOS -o set.jsonl
      vidprep index weizmann -o weizmann.jsonl --group '([a-z]+)_' --holdout 'lena_*' --holdout 'ido_*'
      vidprep index UCF-101 -o ucf101.jsonl --classes ucfTrainTestlist/classInd.txt \\
          --split-file ucf1-train=ucfTrainTestlist/trainlist01.txt \\
          --split-file ucf1-test=ucfTrainTestlist/testlist01.txt
      vidprep index hmdb51 -o hmdb51.jsonl \\
          --split-file 'hmdb1=testTrainMulti_7030_splits/*_test_split1.txt'
    """
    from vidprep.catalog import index as run
    from vidprep.catalog import write_index

    extra: dict[str, object] = {"suffixes": suffixes} if suffixes else {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{option!r} is not KEY=VALUE", param_hint="--option")
        extra[key] = value
    found = run(
        root,
        format=format_,
        classes=classes,
        split_files=[_named_file(text) for text in split_files],
        holdout=holdout,
        group=group,
        strict=strict,
        options=extra,
    )
    write_index(found, output)
    _show(found, output)


def _named_file(text: str) -> tuple[str | None, str]:
    name, equals, file = text.partition("=")
    if not equals or "/" in name or Path(text).exists():  # a file name may hold = itself
        return None, text
    if not name or not file:
        raise click.BadParameter(f"{text!r} is not NAME=FILE", param_hint="--split-file")
    return name, file


def _show(found: Index, output: str) -> None:
    from cli.console import print_table
    from vidprep.classes import classes_path

    for report in found.lists:
        counts = ", ".join(f"{split} {count:,}" for split, count in report.counts.items())
        case = f"; {report.by_case} only with letter case ignored" if report.by_case else ""
        unused = f"; {report.unused:,} unused" if report.unused else ""
        click.echo(f"{report.source} is a {report.form}: {counts}{case}{unused}", err=True)
        if report.problems:
            click.echo(f"warning: {report.source}: {report.problems}", err=True)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    rows = [("all", found.videos)]
    rows += [(split, tuple(v for v in found.videos if split in v.splits)) for split in found.split_counts()]
    if len(rows) > 1 and (rest := tuple(video for video in found.videos if not video.splits)):
        rows.append(("(in no split)", rest))
    print_table(
        f"{output}: {len(found.videos):,} videos of {len(found.classes):,} classes",
        ("split", "videos", "classes", "groups", "without label"),
        [
            (
                name,
                f"{len(videos):,}",
                len({v.label for v in videos} - {None}),
                len({v.group for v in videos} - {None}),
                sum(v.label is None for v in videos),
            )
            for name, videos in rows
        ],
    )
    if found.classes:
        click.echo(f"class table: {classes_path(output)}")
    click.echo(f"next: vidprep pack {output} DATA")


@click.command()
@click.argument("dest", metavar="DEST")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--classes",
    metavar="FILE",
    help="The new class list: numbered lines, names, or JSON. Default: the present one, new names appended.",
)
@click.option(
    "--key",
    metavar="TEMPLATE",
    default="{}",
    show_default=True,
    help="Of published caption files: what a sample's key says of the name in FILE, such as trimmed_resize_{}.",
)
def annotate(dest: str, file: Path, classes: str | None, key: str) -> None:
    """Replace labels, splits, groups or captions of the packed data set DEST by those in FILE.

    Tars are not touched. FILE names samples by key; what it does not mention stays. JSON lines, where null removes a
    value and caption may be a list, or CSV with a header line, where an empty cell does and ; separates splits. A
    manifest will do. Captions also come from files as they are published: MSR-VTT (JSON, CSV), ActivityNet Captions,
    Something-Something, CPD, JSON of video and captions, lines of video, tab, caption.

    \b
    Examples:
      {"key": "walk--daria_walk", "label": "walking", "splits": ["train"]}     (labels.jsonl)
      vidprep annotate DATA labels.jsonl
      vidprep annotate DATA labels.csv --classes classInd.txt
      vidprep annotate DATA train_val_videodatainfo.json
      vidprep annotate DATA ins_300k.json --key 'trimmed_resize_{}'
    """
    from shards.samples import annotate as run
    from vidprep.classes import read_classes

    report = run(dest, file, classes=read_classes(classes) if classes else None, key=key)
    named = f", such as {', '.join(report.unknown)}" if report.unknown else ""
    bad = f" ({report.without_sample:,} of them of videos without sample{named})" if report.without_sample else ""
    what = f"{report.form}, {report.lines:,} videos" if report.form else f"{report.lines:,} lines"
    click.echo(f"{file}: {what}{bad}; {report.changed:,} samples changed")
    with_caption, samples = report.captioned
    if with_caption:
        click.echo(f"captions: {with_caption:,} of {samples:,} samples have one or more")
    click.echo(f"classes: {len(report.classes):,}; splits: {', '.join(report.splits) or 'none'}")
