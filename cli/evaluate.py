"""`vidprep evaluate retrieve` and `vidprep evaluate finetune`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.storage import shown

Command = TypeVar("Command", bound=Callable[..., Any])

_TEST_SPLIT = "Split of the test videos.  [test, else val]"
_TRAIN_SPLIT = "Split of the training videos.  [train]"


@click.group()
def evaluate() -> None:
    """Measure how good the features of a backbone are.

    \b
    vidprep evaluate retrieve RUN --data DEST
    vidprep evaluate finetune RUN --data DEST
    vidprep evaluate finetune RUN --data DEST --init random      the baseline

    A backbone is a run folder of vidprep train, a weights file, or random:NAME (a fresh network, such as
    random:r3d-vcop). Results are written to RUN/evaluation/ as JSON; vidprep report RUN makes a page of them.
    """


def _common(command: Command) -> Command:
    options = [
        click.argument("source", metavar="RUN|WEIGHTS|random:NAME"),
        click.option("--data", required=True, metavar="DEST", help="The data set: the DEST of vidprep pack."),
        click.option("--train-split", metavar="NAME", help=_TRAIN_SPLIT),
        click.option("--test-split", metavar="NAME", help=_TEST_SPLIT),
        click.option(
            "--init",
            type=click.Choice(["pretrained", "random"]),
            default="pretrained",
            show_default=True,
            help="random: the same network with fresh weights, as a baseline.",
        ),
        click.option("--recipe", metavar="NAME|FILE", help="Recipe of the evaluation.  [finetune, with RUN's clips]"),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe."),
        click.option("--views", type=click.IntRange(min=1), default=10, show_default=True, help="Clips per video."),
        click.option("--seed", type=click.IntRange(min=0), help="Seed of fresh weights (and of fine-tuning).  [0]"),
        click.option(
            "--out", type=click.Path(path_type=Path), metavar="DIR", help="Results go to DIR/evaluation.  [RUN]"
        ),
        click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True, help="Videos at a time."),
        click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:N."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@evaluate.command()
@_common
@click.option("--gallery-data", metavar="DEST", help="Search in this data set instead; classes are matched by name.")
@click.option(
    "--pooling", type=click.Choice(["avg", "max"]), default="avg", show_default=True, help="Over a clip's last map."
)
@click.option("--center", is_flag=True, help="Subtract the mean feature of each split first.")
def retrieve(
    source: str, data: str, train_split: str | None, test_split: str | None, seed: int | None, **options: Any
) -> int:
    """Nearest neighbours: is one of the k most similar training videos of a test video's class?

    Needs no training. Top 1, 5, 10, 20 and 50 over all test videos, by cosine of the mean feature of 10 clips, each
    test video against every training video.
    """
    from trainer.engine.distributed import SharedError
    from trainer.evaluation.retrieval import evaluate_retrieval

    try:
        with _Bar() as bar:
            result, path = evaluate_retrieval(
                source,
                data,
                query_split=test_split,
                gallery_split=train_split,
                seed=seed or 0,
                command=_command(),
                progress=bar,
                **options,
            )
    except SharedError:
        return 1  # rank 0 tells
    if _is_main():
        print_retrieval(result, path)
    return 0


@evaluate.command()
@_common
@click.option("--test-data", metavar="DEST", help="Test on this data set instead; classes are matched by name.")
@click.option("--val-split", metavar="NAME", help="Also report the checkpoint that is best on this split.")
@click.option(
    "--fusion",
    type=click.Choice(["probabilities", "logits"]),
    default="probabilities",
    show_default=True,
    help="What is averaged over the clips of a video.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted fine-tuning; test a finished one again.")
@click.option("--max-time", metavar="TIME", help="Save and stop after this time of training: 45m, 2h, 1h30m.")
def finetune(source: str, data: str, **options: Any) -> int:
    """Fine-tune all layers on the training videos, then classify the test videos.

    A fresh linear layer on the backbone, trained by the recipe; a test video's score is the mean over 10 clips. The
    last checkpoint is tested: test videos select nothing.

    Exit status: 0 done, or stopped by --max-time; 1 an error; 130 Ctrl-C; 143 SIGTERM.
    """
    from cli.train import TrainConsole
    from trainer.engine.distributed import SharedError
    from trainer.evaluation.finetune import evaluate_finetuning

    try:
        with TrainConsole() as console, _Bar() as bar:
            done = evaluate_finetuning(source, data, command=_command(), on_event=console, progress=bar, **options)
    except SharedError:
        return 1  # rank 0 tells
    if done.result is None or done.path is None:
        stopped = done.training.stopped
        if _is_main():
            again = _command() if options["resume"] else f"{_command()} --resume"
            at = f"step {done.training.step:,} of {done.training.total:,}"
            click.echo(f"stopped ({stopped}) after {at}; go on with:\n{again}", err=True)
        return {"SIGINT": 130, "SIGTERM": 143, "launcher": 143}.get(stopped, 0)
    if _is_main():
        print_finetuning(done.result, done.path)
    return 0


class _Bar:
    """A progress bar over test videos on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            columns = ("videos", BarColumn(), MofNCompleteColumn(), "left", TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("", total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total)
        if done == total:
            self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def print_retrieval(result: Mapping[str, Any], path: Path) -> None:
    """The table of a retrieval."""
    from cli.console import print_table

    rows = [
        (f"top {k}", _percent(result["hits"][k]), _percent(result["chance"][k])) for k in result["hits"]
    ]  # a k beyond the gallery shows as –
    title = (
        f"retrieval, {_network(result)}: {result['queries']:,} videos of split {result['query_split']} in "
        f"{result['gallery']:,} of split {result['gallery_split']} ({result['data']['name']})"
    )
    print_table(title, ("", "hit", "chance"), rows)
    _print_notes(result, path)


def print_finetuning(result: Mapping[str, Any], path: Path) -> None:
    """The tables of a fine-tuning."""
    from cli.console import print_table

    title = (
        f"fine-tuning, {_network(result)}: {result['videos']:,} videos of split {result['test_split']} "
        f"({result['data']['name']})"
    )
    names = {"top1": "top 1", "top5": "top 5", "clip_top1": "top 1 of single clips", "mean_class": "mean over classes"}
    which = list(result["results"])
    rows = [(name, *(_percent(result["results"][w][key]) for w in which)) for key, name in names.items()]
    print_table(title, ("", *(f"{w} checkpoint" for w in which)), rows)
    classes = sorted(result["results"]["last"]["per_class"].items(), key=lambda item: (item[1], item[0]))
    shown: Iterable[tuple[str, float]] = classes if len(classes) <= 12 else classes[:5]
    heading = "by class" if len(classes) <= 12 else f"the 5 weakest of {len(classes)} classes"
    print_table(heading, ("class", "top 1"), [(name, _percent(share)) for name, share in shown])
    _print_notes(result, path)


def _network(result: Mapping[str, Any]) -> str:
    return f"{result['init']} weights" + (f", {result['variant']}" if result["variant"] else "")


def _print_notes(result: Mapping[str, Any], path: Path) -> None:
    for note in result["notes"]:
        click.echo(f"note: {note}", err=True)
    click.echo(f"written: {path} (computed on {result['device']})")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _command() -> str:
    return shown(["vidprep", *sys.argv[1:]])


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
