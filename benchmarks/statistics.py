"""Cost of the statistics labels a clip, on one core, against a literal NumPy version in the same run.

    python -m benchmarks.statistics [--rounds 20]

Clips: the reference's own cases where the research data are at hand (VIDPREP_TEST_DATA, default ../shared), else
generated ones. Prints a table and writes benchmarks/results/statistics-DATE.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numba
import numpy as np

from tests.vidprep import literal_statistics as literal
from vidprep.statistics import appearance_labels, motion_labels

RESULTS = Path(__file__).parent / "results"


def clips() -> tuple[str, list[tuple[np.ndarray, np.ndarray]]]:
    """What the clips are, and (flow (16,112,112,2) float32, rgb (16,112,112,3) uint8) of each."""
    folder = Path(os.environ.get("VIDPREP_TEST_DATA", "../shared")) / "golden/statistics"
    found = []
    for path in sorted(folder.glob("case*.npz")):
        with np.load(path) as case:
            flow = case["flow_u8"].astype(np.float32) * np.float32(40) / np.float32(255) - np.float32(20)
            found.append((flow.astype(np.float32), np.ascontiguousarray(case["bgr"][..., ::-1])))
    if found:
        return f"{len(found)} cases of the reference, real clips", found
    rng = np.random.default_rng(0)
    for _ in range(8):
        y, x = np.mgrid[:112, :112]
        waves = sum(np.sin(x * rng.normal() / 9 + y * rng.normal() / 9 + k)[None] for k in range(4))
        drift = np.cumsum(rng.normal(size=(16, 1, 1)), axis=0)
        rgb = np.clip(128 + 40 * (waves + 0.2 * drift)[..., None] + rng.normal(0, 4, (16, 112, 112, 3)), 0, 255)
        flow = np.repeat(np.stack([waves, waves[:, ::-1]], axis=-1), 16, axis=0)
        found.append(((flow + 0.1 * rng.normal(size=flow.shape)).astype(np.float32), rgb.astype(np.uint8)))
    return f"{len(found)} generated clips", found


def timed(function, *arguments, **options) -> float:
    """Milliseconds of process time: on a shared machine steadier than the clock on the wall."""
    start = time.process_time()
    function(*arguments, **options)
    return (time.process_time() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    what, data = clips()
    for flow, rgb in data[:1]:  # compile
        motion_labels(flow), appearance_labels(rgb)
    ours: dict[str, list[float]] = {"motion": [], "appearance": [], "both": []}
    plain: dict[str, list[float]] = {"motion": [], "appearance": [], "both": []}
    for round_ in range(rounds):
        for flow, rgb in data:
            m, a = timed(motion_labels, flow), timed(appearance_labels, rgb)
            for name, value in zip(ours, (m, a, m + a), strict=True):
                ours[name].append(value)
            if round_ == 0:  # the literal version takes half a second a clip
                m, a = timed(literal.motion, flow[:-1], 15), timed(literal.appearance, rgb, reference=False)
                for name, value in zip(plain, (m, a, m + a), strict=True):
                    plain[name].append(value)
    lines = [
        f"# Statistics labels, {datetime.date.today()}",
        "",
        f"`python -m benchmarks.statistics --rounds {rounds}`: {what}, 16x112x112, one core, process time; medians.",
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}, numba {numba.__version__}.",
        "",
        "| | ms a clip | slowest tenth | literal NumPy, ms | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, values in ours.items():
        median, slow = statistics.median(values), float(np.quantile(values, 0.9))
        base = statistics.median(plain[name])
        lines.append(f"| {name} | {median:.2f} | {slow:.2f} | {base:.0f} | {base / median:.0f}x |")
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"statistics-{datetime.date.today()}.md").write_text(text)


if __name__ == "__main__":
    main()
