"""What a report shows of a run folder; whatever is absent there is absent from the report."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import DataError, UserError
from trainer.recipes.files import read_yaml

EVALUATION = "evaluation"
Curve = tuple[list[float], list[float]]  # steps and values


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of the engine.

    Attributes:
        name: what legends call it.
        recipe: the resolved recipe, plain values.
        text: the same as the YAML file has it.
        command: a command line that trains the same, where the folder tells its data set.
        curves: column of log.csv, or `val_` and column of validation.csv → its curve, finite values only.
    """

    name: str
    recipe: Mapping[str, Any]
    text: str
    command: str | None
    curves: Mapping[str, Curve]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder.

    Attributes:
        training: what `vidprep train` left; None for a folder that holds evaluations only.
        evaluations: the JSON results under `evaluation/`, by file name.
        finetunings: trainings of `vidprep evaluate finetune`, by folder name.
    """

    path: Path
    training: Training | None
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finetunings: Mapping[str, Training] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.resolve().name


def read_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: it is not there, or holds neither a training nor an evaluation.
        DataError: a file in it cannot be understood.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"there is no run folder {path}; give the --out of vidprep train or vidprep evaluate")
    training = read_training(path) if (path / "recipe.yaml").is_file() else None
    results = {file.stem: _read_json(file) for file in sorted((path / EVALUATION).glob("*.json"))}
    folders = sorted(file.parent for file in (path / EVALUATION).glob("finetune-*/recipe.yaml"))
    if training is None and not results and not folders:
        raise UserError(
            f"{path} holds no recipe.yaml and no evaluation; give the --out of vidprep train or vidprep evaluate"
        )
    finetunings = {folder.name: read_training(folder) for folder in folders}
    return Run(path=path, training=training, evaluations=results, finetunings=finetunings)


def read_training(path: Path) -> Training:
    """Recipe and curves of one engine run."""
    recipe = path / "recipe.yaml"
    curves: dict[str, Curve] = {}
    for log, prefix in (("log.csv", ""), ("validation.csv", "val_")):
        if (path / log).is_file():
            curves.update({f"{prefix}{name}": curve for name, curve in read_curves(path / log).items()})
    return Training(
        name=path.resolve().name,
        recipe=read_yaml(recipe),
        text=recipe.read_text(encoding="utf-8"),
        command=_command(path),
        curves=curves,
    )


def _command(path: Path) -> str | None:
    info = path / "run.json"
    if not info.is_file():
        return None
    try:
        data = json.loads(info.read_text(encoding="utf-8"))["data"]
        sources = [str(source) for source in data.get("sources") or [data["url"]]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{info} cannot be understood ({error!r}); remove it") from error
    return shlex.join(
        ["vidprep", "train", str(path / "recipe.yaml"), *(word for it in sources for word in ("--data", it))]
    )


def read_curves(path: Path) -> dict[str, Curve]:
    """Columns of a log.csv by name.

    Raises:
        DataError: the file has no column `step`, or a cell is not a number.
    """
    curves: dict[str, Curve] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if "step" not in (rows.fieldnames or ()):
            raise DataError(f"{path} has no column 'step'; it is not the log of a run")
        for row in rows:
            try:
                step = float(row["step"])
                values = {name: float(cell) for name, cell in row.items() if cell and name != "step"}
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}, line {rows.line_num}: {error}") from error
            for name, value in values.items():
                if math.isfinite(value):
                    steps, column = curves.setdefault(name, ([], []))
                    steps.append(step)
                    column.append(value)
    return curves


def _read_json(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); remove it and evaluate again") from error
    if not isinstance(result, dict) or result.get("kind") not in ("retrieve", "finetune"):
        raise DataError(f"{path} is not an evaluation result; remove it and evaluate again")
    return result
