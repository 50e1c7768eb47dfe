"""The page of benchmarks/pretext.py."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks._captions import read_samples, token_rows
from benchmarks._learning import SETS, clips_folder, percent, spread, table
from benchmarks._pretext import FPS, KS, PLANS, Size
from shards.receipts import package_versions
from trainer.engine.device import describe_device

Result = dict[str, Any]
_EQUAL = 0.01  # points; equal shares may differ in their last digits
METRICS = (*(f"retrieval top {k}" for k in KS), "fine-tuned top 1")


def describe(
    found: Sequence[Result], texts: Sequence[Result], *, size: Size, scale: float, command: str, device: str
) -> str:
    """The page, from all results of a call."""
    seeds = sorted({result["seed"] for result in found})
    tasks = list(dict.fromkeys(result["task"] for result in found))
    lines = [f"# Pretext tasks against random initialisation, {date.today().isoformat()}", "", f"`{command}`", ""]
    lines += [*_how(size, scale=scale, device=device), ""]
    for name in dict.fromkeys(result["set"] for result in found):
        here = [result for result in found if result["set"] == name]
        lines += [f"## {name}", "", *_set(name, here), ""]
        lines += [*_scores(here, tasks, seeds), "", *_pretext(here, tasks, seeds), ""]
    if len({(result["set"], result["seed"]) for result in found}) > 1:
        lines += ["## Together", "", *_together(found, tasks), ""]
    lines += ["## Settings and time", "", *_settings(found, tasks, size), ""]
    if texts:
        lines += ["## Text", "", *_texts(texts), ""]
    return "\n".join(lines).rstrip() + "\n"


def _how(size: Size, *, scale: float, device: str) -> list[str]:
    versions = ", ".join(f"{k} {v}" for k, v in package_versions("vidprep", "torch", "numpy").items())
    network = (
        "r3d-vcop with an eighth of its channels for every task" if size.network else "the networks of the recipes"
    )
    t, epochs = size.frames, max(1.0, size.finetune_epochs * scale)
    return [
        f"Videos at {FPS} frames a second; {network}; clips of {t} x {size.crop} x {size.crop}; {epochs:g} epochs of "
        f"fine-tuning all layers; 10 clips a test video; the last checkpoints. Scale {scale:g}. Random initialisation: "
        "the same network with fresh weights of the same seed, fine-tuned in the same way.",
        "",
        f"{describe_device(torch.device(device))}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{platform.machine()}; {versions}.",
        "",
        "cpd learns captions made of class names (`a video of jack from weizmann`). On its own set these are the "
        "labels, so that its numbers are those of a supervised network, not of a self-supervised one. cpd-others "
        "learns from the other sets' captions and has seen no video or name of the set it is scored on.",
        "",
        "Settings were chosen by the pretext losses of short trials with seed 0 (on Weizmann; the speeds of rspnet on "
        "UT-Interaction), the rate of fine-tuning by the test videos' accuracy of a fresh network on Weizmann, seed 0.",
    ]


def _set(name: str, here: Sequence[Result]) -> list[str]:
    videos = {"weizmann": 18, "ut_interaction": 24}[name]
    few = f"{SETS[name].split}. With {videos} test videos one video is {100 / videos:.1f} points: differences of one or"
    return [f"{few} two videos mean nothing, and the spread over seeds does not hold that of the choice of videos."]


def _scores(here: Sequence[Result], tasks: Sequence[str], seeds: Sequence[int]) -> list[str]:
    rows = []
    for metric in METRICS:
        for task in tasks:
            ours = {result["seed"]: result["scores"][metric] for result in here if result["task"] == task}
            fresh = {result["seed"]: result["random"][metric] for result in here if result["task"] == task}
            gain = [100 * (ours[seed] - fresh[seed]) for seed in ours]
            rows.append([metric, task, *percent(ours), signed(gain)])
        for fresh in _distinct([{r["seed"]: r["random"][metric] for r in here if r["task"] == t} for t in tasks]):
            rows.append([metric, "random initialisation", *percent(fresh), ""])
        rows.append([metric, "chance", *percent(dict.fromkeys(seeds, here[0]["chance"][metric])), ""])
    header = ["%", "pretrained by", *(f"seed {seed}" for seed in seeds), "mean ± deviation", "minus random"]
    return table(header, rows)


def _together(found: Sequence[Result], tasks: Sequence[str]) -> list[str]:
    """Gains over fresh weights on all sets and seeds: mean, deviation, and how often there was one."""
    metrics = ("retrieval top 1", "fine-tuned top 1", "fine-tuned clip top 1")
    rows = []
    for task in tasks:
        results, cells = [result for result in found if result["task"] == task], []
        for metric in metrics:
            gains = [100 * (result["scores"][metric] - result["random"][metric]) for result in results]
            better, worse = sum(gain > _EQUAL for gain in gains), sum(gain < -_EQUAL for gain in gains)
            cells += [signed(gains), f"{better} / {worse}"]
        rows.append([task, *cells])
    header = [cell for metric in metrics for cell in (metric, "better / worse")]
    pairs = len({(result["set"], result["seed"]) for result in found})
    return [
        f"Points above random initialisation over all {pairs} pairs of set and seed, and in how many of them "
        "pretraining was better and worse (the others are equal). Seeds of one set share their test videos.",
        "",
        *table(["pretrained by", *header], rows),
    ]


def _distinct(baselines: Sequence[dict[int, float]]) -> list[dict[int, float]]:
    """One where all tasks have the same network."""
    return [one for number, one in enumerate(baselines) if one not in baselines[:number]]


def signed(values: Sequence[float]) -> str:
    """Mean difference with its sign, ± deviation over seeds."""
    text = spread(values)
    return text if text.startswith("-") else f"+{text}"


def _pretext(here: Sequence[Result], tasks: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """What the tasks themselves learnt: all metrics at the start, at the end and on test videos."""
    rows = []
    for task in tasks:
        results = [result["pretext"] for result in here if result["task"] == task]
        names = dict.fromkeys(name for pretext in results for part in pretext.values() for name in part)
        for name in names:
            cells = []
            for part in ("start", "end", "test"):
                values = [pretext[part][name] for pretext in results if name in pretext.get(part, {})]
                cells.append(_numbers(name, values))
            known = [pretext["constant"][name] for pretext in results if name in pretext.get("constant", {})]
            ignorant = _numbers(name, known[:1]) if known else PLANS[task].metrics.get(name, "")
            ends = [pretext["end"][name] for pretext in results if name in pretext["end"]]
            each = " / ".join(_numbers(name, [value]) for value in ends)
            rows.append([task, name.replace("_", " "), *cells, each, ignorant])
    header = ["pretext task", "number", "first tenth of steps", "last tenth", "test videos", "last tenth by seed"]
    return table([*header, "knowing nothing"], rows)


def _numbers(name: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    share = name.endswith(("accuracy", "caption"))
    return spread([100 * value for value in values]) + " %" if share else spread(values, digits=2)


def _settings(found: Sequence[Result], tasks: Sequence[str], size: Size) -> list[str]:
    rows = []
    for task in tasks:
        plan, results = PLANS[task], [result for result in found if result["task"] == task]
        steps = f"{results[0]['steps']} x {plan.batch}"
        epochs = " / ".join(sorted({f"{result['epochs']:.0f}" for result in results}))
        seconds = [result["seconds"] for result in results]
        evaluation = [result["evaluation"] for result in results]
        changes = " ".join(f"`{change}`" for change in plan.changed(size))
        times = [spread(seconds, digits=0), spread(evaluation, digits=0)]
        rows.append([task, plan.recipe, steps, epochs, *times, changes])
    return [
        *table(["task", "recipe", "steps x videos", "epochs", "seconds", "scoring, seconds", "changed"], rows),
        "",
        "Changed besides network, clips and length. Seconds of pretraining, and of retrieval and fine-tuning, on the "
        "clock: the machine did other work at the same time. At the beginning rspnet's queue holds random keys, which "
        "are easy to tell from. cpd's accuracy has an upper limit: of videos with the same caption in a batch one is "
        "counted.",
    ]


def _texts(texts: Sequence[Result]) -> list[str]:
    header = ["captions", "number", "different", "mean tokens", "most", "cut at 64", "words", "of these not alone"]
    folder: Path = clips_folder().parent / "annotations"
    names = {"untrained": "untrained", "trained": f"after {texts[0]['steps']} steps", "chance": "chance"}
    rows = [[label, *percent({text["seed"]: text[name] for text in texts})] for name, label in names.items()]
    return [
        "The built-in tokenizer on real captions. A word is not alone if another of the same sample has its number.",
        "",
        *table(header, token_rows(read_samples(folder), most=64)),
        "",
        "The built-in encoder on the Italian MSR-VTT captions: 60 videos with 20 captions each train it by InfoNCE to "
        "bring captions of one video together; of the other 40 videos' 800 captions, how often is the nearest other "
        "caption of the same video?",
        "",
        *table(["%", *(f"seed {text['seed']}" for text in texts), "mean ± deviation"], rows),
    ]
