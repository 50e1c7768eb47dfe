"""A whole data set from videos to labels: frames a second and core of every stage, and what that means for large sets.

    python -m benchmarks.dataset [--short-side 128] [--folders weizmann ut_interaction]

Packs folders of the research clips (VIDPREP_TEST_DATA, default ../shared) with one worker bound to one core, adds flow
and statistics with default options, and measures the processor time of the workers, their start included. Writes
benchmarks/results/dataset-DATE.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks._timing import RESULTS, one_core, record
from vidprep.catalog import index, write_index
from vidprep.derive import add_flow, add_labels, flow_maker
from vidprep.pack import pack

STAGES = ("decode and rgb", "flow", "statistics")
SETS = {"UCF101": 2.49e6, "Kinetics-400": 72e6}  # frames at their own rates


@dataclass(frozen=True)
class Measured:
    """One folder packed: counts, and (processor, wall) seconds of each stage."""

    folder: str
    videos: int
    frames: int
    bytes: tuple[int, ...]
    seconds: tuple[tuple[float, float], ...]


def children() -> float:
    """Processor seconds of ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, short_side: int) -> Measured:
    """Pack a folder of videos with all columns, one worker at a time."""
    with tempfile.TemporaryDirectory() as scratch:
        manifest, dest = Path(scratch) / "manifest.jsonl", Path(scratch) / "data"
        write_index(index(folder, format="folder"), manifest)
        videos = frames = 0
        sizes, seconds = [], []
        for stage in STAGES:
            cpu, wall = children(), time.perf_counter()
            if stage == "decode and rgb":
                report = pack(manifest, dest, short_side=short_side, workers=1, max_bad=1.0)
                videos, frames = report.samples, report.frames
            else:
                report = add_flow(dest, workers=1) if stage == "flow" else add_labels(dest, workers=1)
            seconds.append((children() - cpu, time.perf_counter() - wall))
            sizes.append(report.bytes)
    return Measured(folder.name, videos, frames, tuple(sizes), tuple(seconds))


def table(found: list[Measured]) -> list[str]:
    lines = ["| | " + " | ".join(STAGES) + " | all |", "|---|" + "---|" * (len(STAGES) + 1)]
    for it in found:
        rates = [it.frames / cpu for cpu, _ in it.seconds] + [it.frames / sum(cpu for cpu, _ in it.seconds)]
        lines.append(
            f"| {it.folder} ({it.videos} videos, {it.frames:,} frames), frames/s by processor time | "
            + " | ".join(f"{rate:,.0f}" for rate in rates)
            + " |"
        )
        lines.append(
            f"| {it.folder}, frames/s by wall clock | "
            + " | ".join(f"{it.frames / wall:,.0f}" for _, wall in it.seconds)
            + f" | {it.frames / sum(wall for _, wall in it.seconds):,.0f} |"
        )
        lines.append(
            f"| {it.folder}, bytes a frame | "
            + " | ".join(f"{size / it.frames:,.0f}" for size in it.bytes)
            + f" | {sum(it.bytes) / it.frames:,.0f} |"
        )
    frames = sum(it.frames for it in found)
    costs = [sum(it.seconds[k][0] for it in found) / frames for k in range(len(STAGES))]
    for name, count in SETS.items():
        hours = [count * cost / 3600 for cost in costs]
        lines.append(
            f"| {name} ({count / 1e6:g} M frames), projected core-hours | "
            + " | ".join(f"{hour:,.1f}" for hour in [*hours, sum(hours)])
            + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--short-side", type=int, default=128)
    parser.add_argument("--folders", nargs="+", default=["weizmann", "ut_interaction"])
    options = parser.parse_args()
    root = Path(os.environ.get("VIDPREP_TEST_DATA", "../shared")) / "clips"
    if not root.is_dir():
        raise SystemExit(f"no clips at {root}; set VIDPREP_TEST_DATA to a folder with clips/NAME/CLASS/VIDEO")
    one_core()
    flow_maker().probe()  # what is compiled once on a machine is no cost of a data set
    found = [measure(root / name, options.short_side) for name in options.folders]
    command = f"python -m benchmarks.dataset --short-side {options.short_side} --folders {' '.join(options.folders)}"
    text = [
        "# A whole data set: videos to RGB, flow and statistics labels",
        "",
        record(("numpy", "numba", "av", "opencv-contrib-python-headless", "simplejpeg"), command),
        f"Short side {options.short_side}, TV-L1 with default parameters, labels of 16 frames every 8 frames, 8 views "
        "of 112x112. Processor time of the workers, their start and the measuring of videos for the plan included.",
        "",
        *table(found),
        "",
        "The projections take the frames of the two folders for typical; wider frames cost more in proportion.",
    ]
    path = RESULTS / f"dataset-{datetime.date.today().isoformat()}.md"
    path.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
