"""Where log lines go: CSV files, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shards.errors import StorageError, UserError

SINKS = ("csv", "tensorboard", "wandb")
Row = Mapping[str, float]


class Sink(Protocol):
    """Receives rows; `step` is among the values."""

    def write(self, name: str, row: Row) -> None:
        """A row of the log `name`: "log" or "validation"."""

    def close(self) -> None: ...


class CsvSink:
    """One CSV file per log in the run folder. Its header is that of the first row; every line is flushed.

    Args:
        run: the run folder.
        step: rows after this step are cut off: a resumed run writes them again.
    """

    def __init__(self, run: Path, *, step: int) -> None:
        self._run = run
        self._fields: dict[str, list[str]] = {}
        for path in (run / "log.csv", run / "validation.csv"):
            if path.exists():
                self._fields[path.stem] = _cut(path, step)

    def write(self, name: str, row: Row) -> None:
        path = self._run / f"{name}.csv"
        try:
            fields = self._fields.get(name)
            with path.open("a", newline="", encoding="utf-8") as file:
                if fields is None:
                    fields = self._fields[name] = list(row)
                    csv.writer(file).writerow(fields)
                csv.DictWriter(file, fields, restval="", extrasaction="ignore").writerow(
                    {key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()}
                )
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Nothing stays open between rows."""


def _cut(path: Path, step: int) -> list[str]:
    """Remove rows after `step` and an unfinished last line; returns the header."""
    text = path.read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
    fields = list(rows[0]) if rows else text.split("\n", 1)[0].strip().split(",")
    out = io.StringIO()
    writer = csv.DictWriter(out, fields)
    writer.writeheader()
    writer.writerows(row for row in rows if int(row["step"]) <= step)
    aside = path.with_suffix(".csv.part")
    aside.write_text(out.getvalue(), encoding="utf-8", newline="")
    aside.replace(path)
    return fields


class TensorBoardSink:
    """Event files in RUN/tensorboard; a resumed run hides what came after its checkpoint."""

    def __init__(self, run: Path, *, step: int) -> None:
        _need("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (slow, and optional)

        purge = step + 1 if step else None
        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=purge)

    def write(self, name: str, row: Row) -> None:
        for key, value in row.items():
            if key != "step":
                self._writer.add_scalar(f"{name}/{key}", value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A Weights & Biases run whose id comes from the run folder, so that resuming continues it."""

    def __init__(self, run: Path, *, config: Mapping[str, Any]) -> None:
        _need("wandb", "wandb")
        import wandb  # noqa: PLC0415 (optional)

        self._run: Any = wandb.init(
            name=run.name, id=run.name, dir=str(run), config=dict(config), resume="allow", project="vidprep"
        )

    def write(self, name: str, row: Row) -> None:
        values = {f"{name}/{key}": value for key, value in row.items() if key != "step"}
        self._run.log(values, step=int(row["step"]))

    def close(self) -> None:
        self._run.finish()


def check_sinks(names: Sequence[str]) -> None:
    """Refuse unknown or uninstalled sinks before anything is built."""
    for name in names:
        if name not in SINKS:
            raise UserError(f"unknown log {name!r}; allowed: {', '.join(SINKS)}")
        if name != "csv":
            _need(name, name)


def open_sinks(names: Sequence[str], run: Path, *, step: int, config: Mapping[str, Any]) -> list[Sink]:
    """The sinks of a run; CSV is always among them."""
    check_sinks(names)
    sinks: list[Sink] = [CsvSink(run, step=step)]
    if "tensorboard" in names:
        sinks.append(TensorBoardSink(run, step=step))
    if "wandb" in names:
        sinks.append(WandbSink(run, config=config))
    return sinks


def _need(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f"--log {module} needs the package {package}, which is not installed: pip install {package}")
