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
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from benchmarks._learning import RESULTS, SETS, Scores, percent, prepare, score, table
from shards.receipts import package_versions
from trainer.engine import train

STORED = (72, 90)  # height x width
# Over the recipes of `vidprep demo`, which are made for two cores.
CLIPS = ["data.frames=8", "data.resize=[48,60]", "data.crop=44", "data.fps=12.5"]
PRETRAIN_EPOCHS, FINETUNE_EPOCHS = 80, 60
KS = (1, 5, 10, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0, help="times the epochs of both trainings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(SETS["weizmann"], Path(folder) / "weizmann", size=STORED)
        found = {seed: run_seed(data, Path(folder), seed, options.scale) for seed in options.seeds}
    path = options.out / f"weizmann-{date.today().isoformat()}.md"
    path.write_text(describe(found, scale=options.scale, seconds=time.monotonic() - began), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    print(f"written: {path}")


def run_seed(data: Path, folder: Path, seed: int, scale: float) -> dict[str, Scores]:
    """Scores by initialisation."""
    run = folder / f"run{seed}"
    overrides = [*CLIPS, f"train.seed={seed}"]
    length = [f"train.epochs={PRETRAIN_EPOCHS * scale}"]
    trained = train("demo-pace", data, out=run, overrides=[*overrides, *length], device="cpu")
    print(f"seed {seed}: pace accuracy {trained.log['accuracy']:.3f} after {trained.step} steps", flush=True)
    overrides = [*CLIPS, f"train.epochs={FINETUNE_EPOCHS * scale}"]
    found: dict[str, Scores] = {}
    for init in ("pretrained", "random"):
        found[init], found["chance"] = score(
            run, data, init=init, seed=seed, ks=KS, finetune="demo-finetune", overrides=overrides, device="cpu"
        )
        print(f"seed {seed}, {init}: {found[init]}", flush=True)
    found["pretrained"]["pace accuracy"] = trained.log["accuracy"]
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
        f"{SETS['weizmann'].split}: pretraining without labels, gallery, fine-tuning. r3d-vcop with a quarter of the "
        f"channels, clips of 8 x 44 x 44 at 12.5 frames a second; {PRETRAIN_EPOCHS * scale:g} epochs of pace "
        f"prediction, {FINETUNE_EPOCHS * scale:g} of fine-tuning; 10 clips a test video; the last checkpoints. "
        f"{versions}; {torch.get_num_threads()} threads on {os.cpu_count()} CPU cores, {seconds / 60:.1f} minutes.",
        "",
        "With 18 test videos one video is 5.6 points.",
        "",
    ]
    rows = [
        [metric, init, *percent({seed: by_init[init][metric] for seed, by_init in found.items()})]
        for metric in first["random"]
        for init in ("pretrained", "random", "chance")
    ]
    pace = {seed: by_init["pretrained"]["pace accuracy"] for seed, by_init in found.items()}
    rows.append(["pace accuracy in training (chance 25.0)", "", *percent(pace)])
    lines += table(["", "initialisation", *(f"seed {seed}" for seed in found), "mean ± standard deviation"], rows)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
