"""Assembling the report: what each run has becomes sections of one HTML page without external resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from shards.errors import UserError
from shards.publish import Aside
from trainer.report.figures import PALETTE, RANDOM, confusion_plot, data_uri, line_plot
from trainer.report.runs import Curve, Run, Training, read_run
from trainer.report.tables import cards, initialisation, tables
from trainer.report.thumbnails import Thumbnails

SEARCHES = 6  # queries shown


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A contact sheet: the bytes of a PNG or JPEG file, and what it shows."""

    image: bytes
    caption: str


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    sheet: Sheet | None = None,
    title: str | None = None,
    command: str | None = None,
    now: datetime | None = None,
) -> Path:
    """Write one self-contained HTML file about run folders.

    Args:
        runs: folders that `vidprep train` or `vidprep evaluate` wrote; any part of their content may be absent.
        out: the file; replaced if it is there.
        sheet: a contact sheet of the data (`vidprep.preview`).
        title: heading; by default the names of the runs.
        command: what made the report, shown among the commands.
        now: date to print; none by default.

    Returns:
        The path written.

    Raises:
        UserError: a run folder is missing, empty or given twice, or the suffix of `out` is not .html.
        DataError: a file in a run folder cannot be understood.
        StorageError: `out` cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"the report is an HTML file; {out} does not end in .html")
    if len({Path(run).resolve() for run in runs}) != len(runs) or not runs:
        raise UserError("name at least one run folder, each once")
    read = [read_run(run) for run in runs]
    html = _template().render(_context(read, sheet=sheet, title=title, command=command, now=now))
    file = Aside(out)
    try:
        file.write(html.encode())
        file.publish(replace=True)
    finally:
        file.discard()
    return out


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("trainer.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f} %"
    return environment.get_template("page.html")


def _context(
    runs: Sequence[Run], *, sheet: Sheet | None, title: str | None, command: str | None, now: datetime | None
) -> dict[str, Any]:
    results = [result for run in runs for result in run.evaluations.values()]
    results.sort(key=lambda result: result["init"] == "random")
    thumbnails = Thumbnails()
    searches = _searches(results, thumbnails)
    trained = [run.training.command for run in runs if run.training and run.training.command]
    commands = list(dict.fromkeys([*trained, *(r["command"] for r in results if r.get("command"))]))
    kind = "png" if sheet is not None and sheet.image.startswith(b"\x89PNG") else "jpeg"
    return {
        "title": title or ", ".join(run.name for run in runs),
        "lead": _lead(runs),
        "chips": _chips(runs, results),
        "cards": cards(results),
        "tables": tables(runs),
        "sheet": sheet and {"image": data_uri(sheet.image, kind), "caption": sheet.caption},
        "pretraining": _training_plots({run.name: run.training for run in runs if run.training}),
        "finetuning": _finetuning_plots(runs),
        "searches": searches,
        "confusions": _confusions(results),
        "commands": commands + ([command] if command else []),
        "recipes": _recipes(runs),
        "versions": _versions(results),
        "notes": [f"No thumbnails from {url}: {why}" for url, why in thumbnails.missing.items()],
        "made": f"{now:%Y-%m-%d %H:%M}" if now else None,
    }


def _lead(runs: Sequence[Run]) -> str:
    texts = [str(run.training.recipe.get("description") or "") for run in runs if run.training]
    return " ".join(dict.fromkeys(text.strip() for text in texts if text.strip())) or "Evaluation of video features."


def _chips(runs: Sequence[Run], results: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found: dict[str, dict[str, None]] = {}  # name → distinct values in order

    def add(name: str, value: object) -> None:
        if value not in (None, ""):
            found.setdefault(name, {})[str(value)] = None

    for run in runs:
        recipe: Mapping[str, Any] = run.training.recipe if run.training else {}
        add("task", recipe.get("task", {}).get("name"))
        add("backbone", recipe.get("backbone", {}).get("name"))
        if data := recipe.get("data"):
            add("clips", " × ".join(str(part) for part in (data.get("frames"), _size(data.get("crop"))) if part))
        if run.training and (steps := _last_step(run.training)):
            add("steps", f"{steps:,}")
    for result in results:
        add("backbone", result["backbone"])
        add("data", result["data"]["name"])
    return [(name, ", ".join(values)) for name, values in found.items()]


def _size(crop: object) -> str | None:
    if isinstance(crop, (list, tuple)):
        return " × ".join(map(str, crop))
    return None if crop is None else f"{crop} × {crop}"


def _last_step(training: Training) -> int:
    return int(max((steps[-1] for steps, _ in training.curves.values()), default=0))


def _training_plots(trainings: Mapping[str, Training]) -> list[dict[str, str]]:
    plots = []
    for column, title, percent in (
        ("loss", "Loss", False),
        ("accuracy", "Accuracy of the pretext task", True),
        ("lr", "Learning rate", False),
    ):
        curves: dict[str, Curve] = {}
        for name, training in trainings.items():
            for key, suffix in ((column, ""), (f"val_{column}", " (held out)")):
                if key in training.curves:
                    curves[f"{name}{suffix}"] = training.curves[key]
        if curves:
            reference = _pace_chance(trainings) if column == "accuracy" else None
            image = line_plot(curves, title=title, percent=percent, reference=reference, smooth=column != "lr")
            plots.append({"image": image, "alt": f"{title} over the steps"})
    return plots


def _pace_chance(trainings: Mapping[str, Training]) -> tuple[float, str] | None:
    tasks = [training.recipe.get("task", {}) for training in trainings.values()]
    if any(task.get("name") != "pace" for task in tasks):
        return None
    paces = {int(task.get("paces", 4)) for task in tasks}
    return (1 / paces.pop(), "chance") if len(paces) == 1 else None


def _finetuning_plots(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Curves of all fine-tunings, named by initialisation (and run and data where there are several)."""
    named: dict[str, tuple[Training, bool]] = {}
    for run in runs:
        for folder, training in run.finetunings.items():
            result = run.evaluations.get(folder)
            name = initialisation(result) if result is not None else folder.removeprefix("finetune-")
            if name in named:
                name = f"{run.name}: {folder.removeprefix('finetune-')}"
            named[name] = training, result is not None and result["init"] == "random"
    blues = iter(PALETTE * (1 + len(named) // len(PALETTE)))
    colours = {name: RANDOM if is_random else next(blues) for name, (_, is_random) in named.items()}
    plots = []
    for column, title, percent in (("loss", "Training loss", False), ("accuracy", "Training accuracy (clips)", True)):
        curves = {name: t.curves[column] for name, (t, _) in named.items() if column in t.curves}
        if curves:
            image = line_plot(curves, title=title, percent=percent, colours=colours)
            plots.append({"image": image, "alt": f"{title} over the steps"})
    return plots


def _searches(results: Sequence[Mapping[str, Any]], thumbnails: Thumbnails) -> dict[str, Any] | None:
    """Example queries of the first retrieval; results come sorted, those of pretrained networks first."""
    retrievals = [r for r in results if r["kind"] == "retrieve"]
    if not retrievals or not retrievals[0]["examples"]:
        return None
    result = retrievals[0]
    url, gallery = result["data"]["url"], result["gallery_data"]["url"]
    rows = [
        {
            "query": {**example["query"], "image": thumbnails(url, example["query"]["sample"])},
            "found": [
                {
                    **hit,
                    "right": hit["label"] == example["query"]["label"],
                    "image": thumbnails(gallery, hit["sample"]),
                }
                for hit in example["neighbours"]
            ],
        }
        for example in result["examples"][:SEARCHES]
    ]
    caption = (
        f"Queries of split “{result['query_split']}” and their five nearest videos of split "
        f"“{result['gallery_split']}” by the {initialisation(result)} network, with cosine similarities."
    )
    return {"caption": caption, "rows": rows}


def _confusions(results: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    plots = []
    for result in results:
        if result["kind"] == "finetune":
            title = f"{result['data']['name']}, fine-tuned from {initialisation(result)}"
            image = confusion_plot(result["results"]["last"]["confusion"], result["classes"], title=title)
            plots.append({"image": image, "alt": f"Confusion matrix: {title}"})
    return plots


def _recipes(runs: Sequence[Run]) -> list[dict[str, str]]:
    found = []
    for run in runs:
        if run.training:
            found.append({"name": f"{run.name}/recipe.yaml", "text": run.training.text})
        for folder, training in run.finetunings.items():
            found.append({"name": f"{run.name}/evaluation/{folder}/recipe.yaml", "text": training.text})
    return found


def _versions(results: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found: dict[str, dict[str, None]] = {}
    for result in results:
        for name, value in result["versions"].items():
            found.setdefault(name, {})[str(value)] = None
    return [(name, ", ".join(values)) for name, values in found.items()]
