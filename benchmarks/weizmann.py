"""Pace pretraining on real videos, against random initialisation: the Weizmann actions, two persons held out.

    python -m benchmarks.weizmann                     three seeds, about 10 minutes on two cores
    python -m benchmarks.weizmann --seeds 0 --scale 0.05 --out /tmp    whether it works

Videos come from VIDPREP_TEST_DATA (default ../shared). Per seed a small network is pretrained on the training persons
without labels, then retrieval and fine-tuning are scored on the held-out persons, once with its weights and once with
fresh ones of the same seed. Writes benchmarks/results/weizmann-DATE.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from shards.receipts import package_versions
from trainer.engine import train
from trainer.evaluation.finetune import evaluate_finetuning
from trainer.evaluation.retrieval import evaluate_retrieval
from vidprep.catalog import index, write_index
from vidprep.pack import pack

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
HELD_OUT = ("denis", "eli")
STORED = (72, 90)  # height x width
# Over the recipes of `vidprep demo`, which are made for two cores.
CLIPS = ["data.frames=8", "data.resize=[48,60]", "data.crop=44", "data.fps=12.5"]
PRETRAIN_EPOCHS, FINETUNE_EPOCHS = 80, 60
KS = (1, 5, 10, 20)
Scores = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0, help="times the epochs of both trainings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args()
    clips = Path(os.environ.get("VIDPREP_TEST_DATA", ROOT.parent / "shared")) / "clips" / "weizmann"
    if not clips.is_dir():
        sys.exit(f"there is no {clips}; set VIDPREP_TEST_DATA to the folder that holds clips/weizmann")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(clips, Path(folder))
        found = {seed: run_seed(data, Path(folder), seed, options.scale) for seed in options.seeds}
    path = options.out / f"weizmann-{date.today().isoformat()}.md"
    path.write_text(describe(found, scale=options.scale, seconds=time.monotonic() - began), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    print(f"written: {path}")


def prepare(clips: Path, folder: Path) -> Path:
    """Index and pack; returns the data set."""
    found = index(clips, holdout=[f"{person}_*" for person in HELD_OUT], group="([a-z]+)_")
    write_index(found, folder / "manifest.jsonl")
    pack(folder / "manifest.jsonl", folder / "weizmann", size=STORED)
    return folder / "weizmann"


def run_seed(data: Path, folder: Path, seed: int, scale: float) -> dict[str, Scores]:
    """Scores by initialisation."""
    run = folder / f"run{seed}"
    overrides = [*CLIPS, f"train.seed={seed}"]
    length = [f"train.epochs={PRETRAIN_EPOCHS * scale}"]
    trained = train("demo-pace", data, out=run, overrides=[*overrides, *length], device="cpu")
    print(f"seed {seed}: pace accuracy {trained.log['accuracy']:.3f} after {trained.step} steps", flush=True)
    found: dict[str, Scores] = {}
    for init in ("pretrained", "random"):
        options = {"init": init, "seed": seed, "device": "cpu"}
        retrieval, _ = evaluate_retrieval(run, data, ks=KS, **options)
        length = [f"train.epochs={FINETUNE_EPOCHS * scale}"]
        tuned = evaluate_finetuning(run, data, recipe="demo-finetune", overrides=[*CLIPS, *length], **options)
        assert tuned.result is not None
        last = tuned.result["results"]["last"]
        found[init] = {f"retrieval top {k}": retrieval["hits"][str(k)] for k in KS}
        found[init] |= {"fine-tuned top 1": last["top1"], "fine-tuned clip top 1": last["clip_top1"]}
        print(f"seed {seed}, {init}: {found[init]}", flush=True)
    found["pretrained"]["pace accuracy"] = trained.log["accuracy"]
    found["chance"] = {f"retrieval top {k}": retrieval["chance"][str(k)] for k in KS}
    found["chance"] |= {"fine-tuned top 1": tuned.result["chance"], "fine-tuned clip top 1": tuned.result["chance"]}
    return found


def describe(found: dict[int, dict[str, Scores]], *, scale: float, seconds: float) -> str:
    """The result page."""
    first = next(iter(found.values()))
    versions = ", ".join(f"{k} {v}" for k, v in package_versions("vidprep", "torch", "numpy").items())
    lines = [
        f"# Weizmann: pace pretraining against random initialisation, {date.today().isoformat()}",
        "",
        f"`{shlex.join(['python', '-m', 'benchmarks.weizmann', *sys.argv[1:]])}`",
        "",
        f"9 actions; {' and '.join(HELD_OUT)} (18 videos) held out, the other 5 persons (45 videos) for pretraining "
        "without labels, as gallery, and for fine-tuning. r3d-vcop with a quarter of the channels, clips of "
        f"8 x 44 x 44 at 12.5 frames a second; {PRETRAIN_EPOCHS * scale:g} epochs of pace prediction, "
        f"{FINETUNE_EPOCHS * scale:g} of fine-tuning; 10 clips a test video; the last checkpoints. {versions}; "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} CPU cores, {seconds / 60:.1f} minutes.",
        "",
        "With 18 test videos one video is 5.6 points.",
        "",
        f"| | initialisation | {' | '.join(f'seed {seed}' for seed in found)} | mean ± standard deviation |",
        "|---|---|" + "---|" * (len(found) + 1),
    ]
    for metric in first["random"]:
        for init in ("pretrained", "random", "chance"):
            values = [100 * by_init[init][metric] for by_init in found.values()]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells = " | ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {metric} | {init} | {cells} | {statistics.mean(values):.1f}{spread} |")
    pace = [100 * by_init["pretrained"]["pace accuracy"] for by_init in found.values()]
    lines.append(f"| pace accuracy in training (chance 25.0) | | {' | '.join(f'{p:.1f}' for p in pace)} | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
