"""`vidprep demo`: the whole path on rendered videos, by the commands a user would type."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

PERSONS, TEST_PERSONS = 10, 4
NAME = "moving-shapes"
_FULL_S = 180  # about what the whole demo takes on two quiet cores


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder to fill.")
@click.option(
    "--seconds-budget",
    type=click.FloatRange(min=20),
    default=_FULL_S,
    show_default=True,
    help="Train shorter or longer; about the seconds of the whole demo on two cores.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of videos and training.")
def demo(out: Path, seconds_budget: float, seed: int) -> int:
    """From rendered videos to a report, in minutes, on two CPU cores and without network.

    Renders a small labelled set of real video files whose classes differ only in motion, then runs the commands that
    you would type for videos of your own, printing each: index, pack, check, train, evaluate, report. When it is
    interrupted, the same command goes on.
    """
    from cli.main import run
    from vidprep.synthetic import TAKES, render_demo

    began = time.monotonic()
    videos = out / "videos"
    click.echo(f"rendering {PERSONS} persons doing 6 motions into {videos}")
    render_demo(videos, videos_per_class=PERSONS * TAKES, seed=seed)
    with _few_threads():
        for arguments in commands(out, scale=seconds_budget / _FULL_S, seed=seed):
            click.echo(click.style(f"\n$ {shlex.join(['vidprep', *arguments])}", bold=True))
            status = _run(run, arguments)
            if status != 0:
                click.echo(f"stopped; to go on: {shlex.join(['vidprep', *sys.argv[1:]])}", err=True)
                return status
    took = time.monotonic() - began
    click.echo(f"\ndone in {took:.0f} s; open {(out / 'report.html').resolve()} in a browser")
    return 0


def commands(out: Path, *, scale: float = 1.0, seed: int = 0) -> Iterator[list[str]]:
    """The demo's command lines without `vidprep`, in order; those that can go on with earlier work do."""
    manifest, data, run = str(out / "manifest.jsonl"), str(out / "data"), out / "run"
    held_out = range(PERSONS - TEST_PERSONS + 1, PERSONS + 1)
    test_persons = [part for number in held_out for part in ("--holdout", f"person{number:02d}_*")]
    yield ["index", str(out / "videos"), "-o", manifest, "--group", r"(person\d+)_", *test_persons]
    yield ["pack", manifest, data, "--size", "72x96", "--name", NAME]
    yield ["check", data]
    length = [] if scale == 1 else ["--set", f"train.epochs={_epochs('demo-pace') * scale:.1f}"]
    seeded = [] if seed == 0 else ["--set", f"train.seed={seed}"]
    yield ["train", "demo-pace", "--data", data, "--out", str(run), *length, *seeded, *_resume(run)]
    for init, suffix in (("pretrained", ""), ("random", "-random")):
        fresh = [] if init == "pretrained" else ["--init", init]
        chosen = [] if seed == 0 else ["--seed", str(seed)]
        yield ["evaluate", "retrieve", str(run), "--data", data, *fresh, *chosen]
        tuned = run / "evaluation" / f"finetune-{NAME}-train{suffix}"
        tuning = ["evaluate", "finetune", str(run), "--data", data, "--recipe", "demo-finetune"]
        length = [] if scale == 1 else ["--set", f"train.epochs={_epochs('demo-finetune') * scale:.1f}"]
        yield [*tuning, *length, *fresh, *chosen, *_resume(tuned)]
    yield ["report", str(run), "-o", str(out / "report.html"), "--title", "vidprep demo"]


def _epochs(recipe: str) -> float:
    from trainer.config import load_recipe

    epochs = load_recipe(recipe).train.epochs
    assert epochs is not None  # both recipes count epochs
    return epochs


def _resume(run: Path) -> list[str]:
    return ["--resume"] if (run / "recipe.yaml").exists() else []


@contextmanager
def _few_threads() -> Iterator[None]:
    """Of two cores one is the loader's, and many threads would only wait for each other in a network this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(4, before - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """One command line in this process; what records its command line sees this one."""
    before, sys.argv = sys.argv, ["vidprep", *arguments]
    try:
        return run(arguments)
    finally:
        sys.argv = before
