"""Opening a data set of a million samples and going on at step 10,000: seconds and memory, in fresh processes.

    python -m benchmarks.order [--samples 1000000] [--step 10000] [--batch 256]

Indexes and sample table have their full size; the pictures are few and small (`benchmarks._index`), so that the time is
that of finding them. Memory is what a process grows by from before opening to after the first batch, mapped pages
included. Writes benchmarks/results/order-DATE.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._index import write_wide
from benchmarks._timing import RESULTS, cpu_seconds, record
from shards.dataset import open_dataset
from shards.mixture import order_of
from shards.spec import ClipSpec
from trainer.data.loader import Loader

ROUNDS = 3
SHUFFLES = ("full", "blocks:16")


def memory() -> dict[str, float]:
    """MB of this process: resident, most so far, and not backed by a file."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    names = {"now": "VmRSS", "most": "VmHWM", "own": "RssAnon"}
    return {name: int(fields[field].split()[0]) / 1e3 for name, field in names.items()}


def measure(dest: str, shuffle: str, step: int, batch: int, workers: int) -> dict[str, float]:
    """Runs in a fresh process."""
    spec = ClipSpec(frames=16, strides=(1, 2), crop=16)
    before, began, idle = memory(), time.perf_counter(), cpu_seconds()
    dataset = open_dataset(dest)
    opened = time.perf_counter()
    with Loader(dataset, spec, batch=batch, shuffle=shuffle, split="train", workers=workers, threads=1) as loader:
        next(loader.batches(step))
        resumed, after = time.perf_counter(), memory()
        children = [] if loader._crew is None else [worker.pid for worker in loader._crew._workers]
        used = cpu_seconds(children)
    return {
        "opening": opened - began,
        "first batch": resumed - opened,
        "processor": used - idle,
        "memory": after["most"] - before["now"],
        "own memory": after["own"] - before["own"],
    }


def positions(dest: Path) -> list[str]:
    """Rates of the arithmetic alone."""
    dataset = open_dataset(dest)
    samples = dataset.select()
    lines = []
    for shuffle in ("none", *SHUFFLES):
        order = order_of(dataset, samples, shuffle=shuffle)
        began = time.perf_counter()
        count = 2**18
        order.items(10**9, 10**9 + count)
        rate = count / (time.perf_counter() - began)
        far = np.random.default_rng(0).integers(0, 10**12, 200).tolist()
        began = time.perf_counter()
        for at in far:
            order.items(at, at + 1)
        lines.append(f"| {shuffle} | {rate / 1e6:,.1f} | {(time.perf_counter() - began) / len(far) * 1e3:,.2f} |")
    return [
        "| shuffle | million positions a second, in a row | ms for one position anywhere |",
        "|---|---|---|",
        *lines,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--step", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(**json.loads(options.measure))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        dest = write_wide(Path(scratch) / "wide", samples=options.samples)
        rows = []
        for shuffle in SHUFFLES:
            for workers in (0, 2):
                asked = json.dumps(
                    {
                        "dest": str(dest),
                        "shuffle": shuffle,
                        "step": options.step,
                        "batch": options.batch,
                        "workers": workers,
                    }
                )
                command = [sys.executable, "-m", "benchmarks.order", "--measure", asked]
                found = [json.loads(subprocess.check_output(command)) for _ in range(ROUNDS)]
                median = {name: statistics.median(it[name] for it in found) for name in found[0]}
                rows.append(
                    f"| {shuffle} | {workers} | {median['opening']:.2f} | {median['first batch']:.2f} | "
                    f"{median['processor']:.2f} | "
                    f"{median['memory']:,.0f} | {median['own memory']:,.0f} |"
                )
        rates = positions(dest)
    text = [
        f"# A data set of {options.samples:,} samples at step {options.step:,}",
        "",
        record(("numpy",), f"python -m benchmarks.order --samples {options.samples} --step {options.step}"),
        f"Medians of {ROUNDS} fresh processes, indexes in the page cache. Batches of {options.batch} clips of 16 "
        "frames, 24x32 pixels, with shuffle full each from another shard. Workers start as interpreters of their own, "
        "which is part of the time. Processor: of the process and its workers, from before opening on.",
        "",
        "| shuffle | workers | opening, s | to the first batch, s | processor, s | memory, MB | of it not mapped, MB |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        *rates,
    ]
    path = RESULTS / f"order-{datetime.date.today().isoformat()}.md"
    path.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
