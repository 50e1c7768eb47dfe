"""What commands print: a progress bar on a terminal, one JSON line an event otherwise, tables, sizes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


class Events:
    """Receives a long command's events and shows them; use as context manager, call with each event.

    An event is a dict with "event" (its kind) and plain values. On a terminal "start" (with `total`) and
    "progress" (with `done` and rates) drive a bar, and others print their `message`; elsewhere every event is
    one JSON line on stdout.
    """

    def __init__(self, *, unit: str, force_json: bool = False) -> None:
        self._unit = unit
        self._json = force_json or not sys.stderr.isatty()
        self._progress: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen's live part; harmless when there is none."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self._json:
            click.echo(json.dumps(event, ensure_ascii=True))
            return
        kind = event["event"]
        if kind == "start":
            self._start(event)
        elif kind == "progress" and self._progress is not None:
            rates = "  ".join(f"{event[name]:,.1f} {name}/s" for name in ("videos", "frames") if name in event)
            self._progress.update(self._task, completed=event["done"], rates=rates)
        elif "message" in event:
            if kind == "done":
                self.close()
            console = self._progress.console if self._progress is not None else Console(stderr=True)
            console.print(event["message"], highlight=False, markup=False)

    def _start(self, event: Mapping[str, Any]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(self._unit, total=event["total"], completed=event.get("done", 0), rates="")
        self._progress.start()


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; plain tab-separated lines where that is not a terminal."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        click.echo(f"# {title}")
        for row in [list(columns), *cells]:
            click.echo("\t".join(row))
        return
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        numeric = all(row[number].replace(",", "").replace(".", "").isdecimal() for row in cells)
        table.add_column(column, justify="right" if numeric else "left")
    for row in cells:
        table.add_row(*row)
    Console().print(table, markup=False)


def human_bytes(count: float) -> str:
    """1536 → "1.5 kB", in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def parse_bytes(text: str) -> int:
    """ "256MB" → 256,000,000; also kB, GB, KiB, MiB, GiB or a plain number.

    Raises:
        click.BadParameter: it is no such size.
    """
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number = text.strip().upper().rstrip("KMGIB")
    unit = text.strip().upper()[len(number) :]
    try:
        size = float(number) * units[unit.strip()]
    except (ValueError, KeyError):
        raise click.BadParameter(f"{text!r} is no size; examples: 256MB, 1GiB, 500000000") from None
    if not 1 <= size < 2**63:
        raise click.BadParameter(f"{text!r} must be between 1 byte and 8 EiB")
    return int(size)


def parse_size(text: str) -> tuple[int, int]:
    """ "128x171" → (128, 171): height x width.

    Raises:
        click.BadParameter: it is no such size.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise click.BadParameter(f"{text!r} is no frame size; the form is HEIGHTxWIDTH, such as 128x171")
    return int(height), int(width)


def parse_share(text: str) -> float:
    """ "2%" → 0.02; also "0.02".

    Raises:
        click.BadParameter: it is not between 0 and 1.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text!r} is no share; examples: 2%, 0.02, 100%")
    return share


def parse_resize(text: str) -> tuple[int, int] | int | None:
    """ "128x171" → (128, 171), "128" → 128 (short side), "stored" → None.

    Raises:
        click.BadParameter: it is none of these.
    """
    if text == "stored":
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else parse_size(text)


def parse_pair(text: str) -> tuple[str, int | float | str]:
    """ "nscales=3" → ("nscales", 3); numbers become numbers.

    Raises:
        click.BadParameter: there is no "=", or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise click.BadParameter(f"{text!r} is no parameter; the form is KEY=VALUE, such as nscales=3")
    for number in (int, float):
        try:
            return key, number(value)
        except ValueError:
            continue
    return key, value


def parse_names(text: str) -> tuple[str, ...]:
    """ "rgb,flow" → ("rgb", "flow")."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
