"""`vidprep train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress

_SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "launcher": 143}


@click.command()
@click.argument("recipe")
@click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="DEST[=SHARE]",
    help="The data set: the DEST of vidprep pack. Several are mixed, with this share of the clips or by size.",
)
@click.option("--out", metavar="RUN", type=click.Path(path_type=Path), help="Run folder.  [runs/RECIPE-DATASET]")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of RUN, if there is one.")
@click.option("--init", metavar="RUN|WEIGHTS", help="Start the backbone from these weights.")
@click.option("--split", metavar="NAME", help="Train on this split.  (--set data.split)")
@click.option(
    "--keep", metavar="SHARE|FILE", help="Use a share of each class (0.1), or listed keys.  (--set data.keep)"
)
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--gpus", type=click.IntRange(min=1), metavar="N", help="N processes, one per GPU (with --device cpu: on the CPU)."
)
@click.option("--max-time", metavar="TIME", help="Save and stop after this time: 45m, 2h, 1h30m.")
@click.option(
    "--log", "sinks", default="csv", show_default=True, metavar="LIST", help="Any of csv, tensorboard, wandb."
)
@click.option(
    "--skip-nan",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Leave out up to N steps of the run whose loss is not finite.  [0: the first ends it]",
)
def train(
    recipe: str,
    data: tuple[str, ...],
    out: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    init: str | None,
    split: str | None,
    keep: str | None,
    device: str,
    gpus: int | None,
    max_time: str | None,
    sinks: str,
    skip_nan: int,
) -> int:
    """Train a backbone by a recipe.

    RECIPE is a name that `vidprep recipes` lists, or a YAML file of your own. The run folder gets the resolved recipe,
    log.csv, checkpoints and weights.safetensors, the backbone alone.

    \b
    vidprep train pace-r3d --data DATA --split train
    vidprep train pace-r3d --data DATA --set train.batch=64 --set optim.lr=0.002 --out runs/large
    vidprep train runs/large/recipe.yaml --data DATA --out runs/large --resume
    vidprep train pace-r3d --data k400 --data ucf101=0.3
    vidprep train finetune --data DATA --split train --init runs/large

    A run that is stopped (Ctrl-C, SIGTERM, --max-time) saves, prints the command that goes on, and gives after it
    exactly what it would have given without the stop. --resume accepts changed values only where that stays so:
    logging, saving, workers, more epochs under a step schedule.

    Several machines, or a launcher of your own: torchrun … -m cli.main train …

    Exit status: 0 trained to the end or to --max-time, 1 an error, 130 Ctrl-C, 143 SIGTERM.
    """
    if gpus is not None and gpus > 1 and "RANK" not in os.environ:
        from trainer.engine.launch import launch

        return launch(["-m", "cli.main", *sys.argv[1:]], processes=gpus)
    from trainer.engine import train as run_training
    from trainer.engine.distributed import SharedError

    changes = list(overrides)
    changes += [f"data.split={_quoted(split)}"] if split is not None else []
    changes += [f"data.keep={keep if _is_number(keep) else _quoted(keep)}"] if keep is not None else []
    try:
        with TrainConsole() as console:
            result = run_training(
                recipe,
                data,
                out=out,
                resume=resume,
                init=init,
                device=device,
                overrides=changes,
                max_time=max_time,
                log=[name.strip() for name in sinks.split(",") if name.strip()],
                skip_nan=skip_nan,
                on_event=console,
            )
    except SharedError:
        return 1  # rank 0 tells
    if os.environ.get("RANK", "0") == "0":
        click.echo(_ending(result), err=bool(result.stopped))
    return _SIGNALS.get(result.stopped, 0)


class TrainConsole:
    """Shows a run's events: a bar and lines on a terminal, lines alone elsewhere."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> TrainConsole:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "step":
            if self._progress is not None:
                self._progress.update(self._task, completed=event["done"])
            return
        if kind == "start" and sys.stdout.isatty():
            self._start(event)
        line = format_event(event)
        if self._progress is not None:
            self._progress.console.print(line, highlight=False, markup=False)
        else:
            click.echo(line)

    def _start(self, event: dict[str, Any]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), "steps ", TimeElapsedColumn(), "left", TimeRemainingColumn())
        self._progress = Progress(*columns)
        self._task = self._progress.add_task("", total=event["total"], completed=event["done"])
        self._progress.start()


def format_event(event: dict[str, Any]) -> str:
    """An event as one line."""
    kind = event["event"]
    if "message" in event:
        return str(event["message"])
    if kind == "checkpoint":
        return f"saved {event['path']}"
    shown = {k: v for k, v in event.items() if k not in ("event", "step", "total", "epoch")}
    parts = [f"step {event['step']:,}" + (f" of {event['total']:,}" if "total" in event else "")]
    parts += [f"epoch {event['epoch']:.2f}", *([kind] if kind == "validation" else [])]
    formats = {"clips_per_s": "{:,.1f} clips/s", "data_wait": "data wait {:.0%}", "lr": "lr {:.3g}"}
    formats["memory_mb"] = "memory {:,.0f} MB"
    parts += [formats[k].format(v) if k in formats else f"{k} {v:.4g}" for k, v in shown.items()]
    return "  ".join(parts)


def _ending(result: Any) -> str:
    if result.stopped:
        why = {"max-time": "the time is up", "launcher": "the launcher is gone"}.get(result.stopped, result.stopped)
        return f"stopped ({why}) after step {result.step:,} of {result.total:,}; go on with:\n{result.resume_command}"
    skipped = f" ({len(result.skipped)} left out, whose loss was not finite)" if result.skipped else ""
    return (
        f"trained {result.step:,} steps{skipped}; backbone: {result.run}/weights.safetensors\n"
        f"next: vidprep evaluate retrieve {result.run} --data {result.data}\n      vidprep report {result.run}"
    )


def _quoted(text: str) -> str:
    """Text that YAML reads back as that text."""
    import json

    return json.dumps(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
