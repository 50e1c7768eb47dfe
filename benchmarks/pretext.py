"""Every pretext task on real videos, against random initialisation: Weizmann actions and UT-Interaction.

    python -m benchmarks.pretext                      three seeds; on a CPU core about an hour and a half
    python -m benchmarks.pretext --scale 0.02 --seeds 0 --out /tmp --work /tmp/try     whether it works
    python -m benchmarks.pretext --tasks pace rspnet --sets weizmann --seeds 0 1

Videos come from VIDPREP_TEST_DATA (default ../shared). For each set, task and seed a network is pretrained on the
training videos without labels (but for cpd, whose captions are made from class names: they are the labels), then
scored on the held-out videos by retrieval and fine-tuning, as is a network with fresh weights of the same seed.

On a CPU all tasks train one small network; on a GPU those of their recipes, longer. What is done is kept in --work, so
that the same command goes on where it was interrupted. Writes benchmarks/results/pretext-DATE.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks._captions import caption_accuracy, paraphrases
from benchmarks._learning import RESULTS, SETS, Scores, clips_folder, score
from benchmarks._pretext import FULL, KS, PLANS, SMALL, Plan, Size, constant_errors, prepare_for
from benchmarks._pretext_page import describe
from trainer.config import load_recipe
from trainer.engine import train
from trainer.engine.runs import RECIPE
from trainer.evaluation.subject import Init

SCORED = ("weizmann", "ut_interaction")
TEXT_STEPS = 150


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What one call does: the options, resolved."""

    work: Path
    size: Size
    scale: float
    device: str
    tasks: tuple[str, ...]

    def data(self, name: str) -> Path:
        """A packed set."""
        return self.work / "data" / f"{name}-{self.size.name}"

    def finetuning(self) -> list[Any]:
        """The recipe, and what is changed in it."""
        return [self.size.finetune, self.size.finetuning(self.scale)]

    def stored(self, *names: str, settings: Any) -> Path:
        """Where a result is kept. Other settings have another file."""
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()
        return self.work / "results" / f"{'-'.join((*names, digest))}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--sets", nargs="+", choices=SCORED, default=list(SCORED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps and epochs of all trainings")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vidprep-pretext")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    size = FULL if device == "cuda" else SMALL
    bench = Bench(work=options.work, size=size, scale=options.scale, device=device, tasks=tuple(options.tasks))
    used = [*options.sets, *{PLANS[task].source for task in options.tasks} - {None}]
    for name in used:
        prepare_for(name, options.tasks if name in options.sets else ["cpd"], size, options.work / "data")
    found = []
    for seed in options.seeds:  # seed by seed, so that what is interrupted has all tasks of some seeds
        for name in options.sets:
            found += [run(bench, name, task, seed) for task in options.tasks]
    texts = [text_check(bench, seed) for seed in options.seeds] if any("cpd" in task for task in bench.tasks) else []
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"pretext-{date.today().isoformat()}.md"
    command = shlex.join(["python", "-m", "benchmarks.pretext", *sys.argv[1:]])
    page = describe(found, texts, size=size, scale=options.scale, command=command, device=device)
    path.write_text(page, encoding="utf-8")
    print(f"written: {path}")


def run(bench: Bench, name: str, task: str, seed: int) -> dict[str, Any]:
    """Pretrain and score one network; read from the work folder where that has been done."""
    folder, trained = pretrain(bench, PLANS[task].source or name, task, seed)
    size = bench.size
    path = bench.stored(name, task, str(seed), settings=[folder.name, size.clips(), *bench.finetuning()])
    if not path.exists():
        began = time.monotonic()
        scores, chance = scored(bench, folder, name, "pretrained", seed)
        seconds = time.monotonic() - began
        fresh = random_scores(bench, folder, name, seed)
        keep(path, {"scores": scores, "random": fresh, "chance": chance, "evaluation": seconds})
        print(f"{name}, {task}, seed {seed}: {scores}, random {fresh}", flush=True)
    return {"set": name, "task": task, "seed": seed, **trained, **json.loads(path.read_text(encoding="utf-8"))}


def pretrain(bench: Bench, source: str, task: str, seed: int) -> tuple[Path, dict[str, Any]]:
    """The run folder of a task trained on a set, and what to tell about it."""
    plan = PLANS[task]
    overrides = plan.overrides(bench.size, seed=seed, scale=bench.scale)
    path = bench.stored(source, task, str(seed), "pretext", settings=load_recipe(plan.recipe, overrides).tree())
    folder = bench.work / "runs" / path.stem
    if not path.exists():
        data, began = bench.data(source), time.monotonic()
        trained = train(plan.recipe, data, out=folder, overrides=overrides, device=bench.device, resume=True)
        seconds = time.monotonic() - began
        if not trained.finished:
            sys.exit(
                f"{source}, {task}, seed {seed}: {trained.stopped} at step {trained.step}; the same command goes on"
            )
        found = pretext(folder, bench, plan, task, source)
        keep(path, {"steps": trained.total, "epochs": trained.epoch, "seconds": seconds, "pretext": found})
        print(f"{source}, {task}, seed {seed}: {seconds:.0f} s, {found}", flush=True)
    return folder, dict(json.loads(path.read_text(encoding="utf-8")))


def random_scores(bench: Bench, run: Path, name: str, seed: int) -> dict[str, float]:
    """Scores of fresh weights of the seed, computed once for all tasks with the same network, pixels and clips."""
    backbone, size = load_recipe(run / RECIPE).tree()["backbone"], bench.size
    settings = [backbone, size.clips(), *bench.finetuning()]
    path = bench.stored(name, "random", str(seed), settings=settings)
    if not path.exists():
        keep(path, scored(bench, run, name, "random", seed)[0])
    return dict(json.loads(path.read_text(encoding="utf-8")))


def scored(bench: Bench, run: Path, name: str, init: Init, seed: int) -> tuple[Scores, Scores]:
    """`score` with the settings of the size."""
    recipe, overrides = bench.finetuning()
    return score(
        run,
        bench.data(name),
        init=init,
        seed=seed,
        ks=KS,
        clips=bench.size.clips(),
        finetune=recipe,
        overrides=overrides,
        device=bench.device,
    )


def pretext(run: Path, bench: Bench, plan: Plan, task: str, source: str) -> dict[str, dict[str, float]]:
    """The task's own numbers: means over the first and the last tenth of the steps, and on the test videos."""
    rows = read_rows(run / "log.csv")
    found = {"start": numbers(rows[0], plan), "end": numbers(rows[-1], plan)}
    if plan.held_out:
        found["test"] = numbers(read_rows(run / "validation.csv")[-1], plan)
    if task == "statistics":
        found["constant"] = constant_errors(bench.data(source))
    if task.startswith("cpd"):
        prefix = None if len(SETS[source].folders) > 1 else source
        own, frequent = caption_accuracy(run, bench.data(source), name=prefix, split="test", device=bench.device)
        found["test"] = {"nearest caption": own}
        found["constant"] = {"nearest caption": frequent}
    return found


def numbers(row: dict[str, str], plan: Plan) -> dict[str, float]:
    """The plan's metrics of a log line."""
    return {name: float(row[name]) for name in plan.metrics}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Lines of a CSV log."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def text_check(bench: Bench, seed: int) -> dict[str, float]:
    """`paraphrases`, kept as the other results."""
    steps = max(2, round(TEXT_STEPS * bench.scale))
    path = bench.stored("text", str(seed), settings=steps)
    if not path.exists():
        before, after, chance = paraphrases(clips_folder().parent / "annotations", seed=seed, steps=steps)
        keep(path, {"seed": seed, "steps": steps, "untrained": before, "trained": after, "chance": chance})
    return dict(json.loads(path.read_text(encoding="utf-8")))


def keep(path: Path, found: dict[str, Any]) -> None:
    """Write JSON in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(found, indent=1), encoding="utf-8")
    aside.replace(path)


if __name__ == "__main__":
    main()
