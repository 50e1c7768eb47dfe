"""Packing on one and on two processes, and packing that is killed again and again.

    python -m benchmarks.farm [--rounds 3] [--copies 3] [--kills 50] [--folder weizmann]

Efficiency: a folder of the research clips (VIDPREP_TEST_DATA, default ../shared), `copies` times over, is planned once
and packed by one and by two processes in turn; linear is 1. By wall clock that needs a machine with two idle cores. By
processor time it does not: what one process needs for all, over twice what the busier of two needs.

Kills: generated videos are packed by two processes; at random moments one of them, or the process that leads them, is
ended by `kill -9`, and the command is given again. Lost, doubled and differing samples are counted against a run that
nobody disturbed. Writes benchmarks/results/farm-DATE.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import av

from benchmarks._timing import RESULTS, record
from benchmarks._videos import frames
from shards.check import check
from shards.dataset import open_dataset
from vidprep.catalog import index
from vidprep.farm.finish import finish
from vidprep.farm.work import Job, run
from vidprep.planning import plan
from vidprep.records import Video, write_manifest
from vidprep.runs import ignore

OPTIONS = ["--short-side", "64", "--shard-size", "200kB", "--name", "set", "--workers", "2"]
COUNTS = [30 + 7 * (i % 5) for i in range(24)]


@dataclass(frozen=True)
class Round:
    """Seconds of a run of all shards: by wall clock, and of processor time of its busiest process and of all."""

    wall: float
    busiest: float
    all: float


def packed(manifest: Path, dest: Path, workers: int) -> Round:
    """Pack a planned data set; the plan is not measured."""
    plan(manifest, dest, short_side=128, shard_size=4e6, workers=2)
    began = time.perf_counter()
    receipts = run(Job(url=str(dest), workers=workers), on_event=ignore)
    wall = time.perf_counter() - began
    finish(Job(url=str(dest)), began=0, now=0)
    used: Counter[int] = Counter()
    for receipt in receipts:
        used[receipt.run["process"]] += receipt.run["cpu_seconds"]
    return Round(wall, max(used.values()), sum(used.values()))


def efficiency(folder: Path, *, rounds: int, copies: int) -> list[str]:
    found: dict[int, list[Round]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        videos = index(folder, format="folder").videos
        manifest = Path(scratch) / "manifest.jsonl"
        many = (replace(video, key=f"{video.key}-{copy}") for copy in range(copies) for video in videos)
        count = write_manifest(manifest, many)
        for turn in range(rounds):
            for workers in (1, 2) if turn % 2 == 0 else (2, 1):
                found[workers].append(packed(manifest, Path(scratch) / f"{turn}-{workers}", workers))
    lines = [f"{count} videos of {folder.name} at short side 128:", "", "| processes | seconds | processor seconds |"]
    lines.append("|---|---|---|")
    for workers, its in found.items():
        wall, cpu = (statistics.median(getattr(it, name) for it in its) for name in ("wall", "all"))
        lines.append(f"| {workers} | {wall:.1f} | {cpu:.1f} |")
    pairs = list(zip(found[1], found[2], strict=True))
    by_wall = [one.wall / (2 * two.wall) for one, two in pairs]
    by_cpu = [one.all / (2 * two.busiest) for one, two in pairs]
    for name, values in (("wall clock", by_wall), ("processor time", by_cpu)):
        lines += ["", f"Efficiency at two processes by {name}: **{statistics.median(values):.2f}** ({_range(values)})."]
    return lines


def _range(values: list[float]) -> str:
    return f"{min(values):.2f}–{max(values):.2f}"


def write_videos(folder: Path) -> Path:
    """Generated videos as MPEG-4; returns their manifest."""
    lines = []
    for number, count in enumerate(COUNTS):
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.height, stream.width, stream.pix_fmt = 256, 340, "yuv420p"
            for image in frames(number, count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        lines.append(Video(key=f"v{number}", path=path.name, root=str(folder)))
    write_manifest(folder / "set.jsonl", lines)
    return folder / "set.jsonl"


def kills(*, count: int, seed: int = 0) -> list[str]:
    """Kill `count` times, and compare every data set that gets finished."""
    rng = random.Random(seed)
    victims: Counter[str] = Counter()
    finished = lost = doubled = differing = 0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        manifest = write_videos(root)
        began = time.monotonic()
        assert _pack(manifest, root / "whole").wait() == 0
        span, whole = time.monotonic() - began, contents(root / "whole")
        reach = span
        while sum(victims.values()) < count:
            dest = root / f"set{finished}"
            while not (dest / "dataset.json").exists():
                began = time.monotonic()
                if not _disturb(_pack(manifest, dest), rng, reach, count - sum(victims.values()), victims):
                    reach = min(reach, time.monotonic() - began)  # the machine was busier when it was measured
            _wait_for_orphans(dest)
            assert _pack(manifest, dest).wait() == 0  # nothing is left to do
            keys = Counter(open_dataset(dest).key(i) for i in range(len(open_dataset(dest))))
            expected = {f"v{i}" for i in range(len(COUNTS))}
            lost += len(expected - set(keys))
            doubled += sum(n - 1 for n in keys.values()) + len(set(keys) - expected)
            now = contents(dest)
            other = sorted(name for name in {*now, *whole} if now.get(name) != whole.get(name))
            if other or list(check(dest)):
                print(f"{dest.name} differs in {', '.join(other)}")
                differing += 1
            finished += 1
    text = ", ".join(f"{n} times {name}" for name, n in sorted(victims.items()))
    return [
        f"{sum(victims.values())} moments of `kill -9` ({text}) while {len(COUNTS)} videos were packed by two "
        f"processes (undisturbed {span:.1f} s), until {finished} data sets were finished: "
        f"**{lost} samples lost, {doubled} doubled, {differing} data sets of other bytes**."
    ]


def _pack(manifest: Path, dest: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli.main", "pack", str(manifest), str(dest), *OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _disturb(
    process: subprocess.Popen[bytes], rng: random.Random, reach: float, left: int, victims: Counter[str]
) -> int:
    """Kill the leader or a worker at random moments until the leader is gone; how often it was done."""
    kills = 0
    while process.poll() is None and kills < left:
        try:
            process.wait(rng.uniform(0.05, reach))
            break
        except subprocess.TimeoutExpired:
            workers = _children(process.pid)
            worker = bool(workers) and rng.random() < 0.5
            os.kill(rng.choice(workers) if worker else process.pid, signal.SIGKILL)
            victims["a worker" if worker else "the leader"] += 1
            kills += 1
    process.wait()
    return kills


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _wait_for_orphans(dest: Path) -> None:
    """Workers whose leader was killed end by themselves, but not at once."""
    before = None
    while before != (now := {path: path.stat().st_mtime_ns for path in dest.rglob("*.tar")}):
        before = now
        time.sleep(0.3)


def contents(dest: Path) -> dict[str, bytes]:
    """Every file that is no leftover; of receipts without their `run` block."""
    found = {}
    for path in sorted(dest.rglob("*")):
        if path.is_file() and path.suffix != ".part":
            data = path.read_bytes()
            if path.suffix == ".json" and path.stem.isdecimal():
                data = json.dumps({k: v for k, v in json.loads(data).items() if k != "run"}).encode()
            found[str(path.relative_to(dest))] = data
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", default="weizmann")
    options = parser.parse_args()
    folder = Path(os.environ.get("VIDPREP_TEST_DATA", "../shared")) / "clips" / options.folder
    command = f"python -m benchmarks.farm --rounds {options.rounds} --copies {options.copies} --kills {options.kills}"
    head = record(("numpy", "av", "simplejpeg"), command).replace("of which one is used", "of which two are used")
    text = ["# Packing on two processes", "", head]
    if options.rounds and folder.is_dir():
        text += ["## Efficiency", "", *efficiency(folder, rounds=options.rounds, copies=options.copies), ""]
    elif options.rounds:
        print(f"no clips at {folder}: efficiency is left out; set VIDPREP_TEST_DATA")
    if options.kills:
        text += ["## Kills", "", *kills(count=options.kills)]
    path = RESULTS / f"farm-{datetime.date.today().isoformat()}.md"
    path.write_text("\n".join(text).rstrip() + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
