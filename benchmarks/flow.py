"""TV-L1: speed against OpenCV, parity with it, error against true motion; on a GPU pairs a second.

    python -m benchmarks.flow [--rounds 3] [--quick]

One process on one core; OpenCV and ours in turn on the same pairs, by processor time. Pairs: `CLIPS` of the research
clips where they are at hand (VIDPREP_TEST_DATA, default ../shared), and rendered scenes. Writes
benchmarks/results/flow-DATE.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks._timing import RESULTS, one_core, record
from vidprep.flow import METHODS, choose_backend, tvl1
from vidprep.flow.cpu.backend import Workspace
from vidprep.flow.params import TVL1Params
from vidprep.flow.scenes import scenes

SIZES = ((128, 171), (256, 340))
NOISE = 1e-5
# (folder of the research clips, how many of its files in sorted order)
CLIPS = (
    ("ucf101", 6),
    ("hmdb51", 4),
    ("hmdb51_stabilized", 1),
    ("kinetics400", 12),
    ("something_something_v2", 6),
    ("arid", 5),
    ("weizmann", 5),
    ("ut_interaction", 5),
)
SPEED_PAIRS = 12


def read_pair(path: Path) -> np.ndarray | None:
    """(2,H,W) uint8 grey: two neighbouring frames a third into the clip; None where OpenCV cannot read two."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while len(frames) < 60:
        good, frame = capture.read()
        if not good:
            break
        frames.append(frame)
    if len(frames) < 2:
        return None
    at = min(len(frames) // 3, len(frames) - 2)
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames[at : at + 2]])


def real_pairs() -> list[tuple[str, np.ndarray]]:
    root = Path(os.environ.get("VIDPREP_TEST_DATA", "../shared")) / "clips"
    found = []
    for folder, count in CLIPS:
        files = sorted(path for path in (root / folder).rglob("*") if path.is_file())
        step = max(1, len(files) // count)
        for path in files[::step][:count]:
            pair = read_pair(path)
            if pair is not None:
                found.append((str(path.relative_to(root)), pair))
    return found


def resized(pair: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in pair])


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1]).ravel()


def seconds(function, *arguments) -> float:
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def speed(pairs: list[tuple[str, np.ndarray]], rounds: int) -> list[str]:
    lines = ["| size | OpenCV ms a pair | numba ms a pair | times faster: median (range) | ns a pixel and iteration |"]
    lines.append("|---|---|---|---|---|")
    for size in SIZES:
        workspace = Workspace(*size, TVL1Params())
        flow = np.empty((*size, 2), np.float32)
        ours, theirs, ratios, costs = [], [], [], []
        for _ in range(rounds):
            for _, pair in pairs:
                first, second = resized(pair, size)
                solver = cv2.optflow.DualTVL1OpticalFlow_create()
                before = seconds(workspace.solve, first, second, flow)
                opencv = seconds(solver.calc, first, second, None)
                after = seconds(workspace.solve, first, second, flow)
                theirs.append(opencv * 1e3)
                ours.append((before + after) / 2 * 1e3)
                ratios.append(opencv / ((before + after) / 2))
                costs.append(iteration_cost(workspace, first, second, flow))
        lines.append(
            f"| {size[1]}x{size[0]} | {statistics.median(theirs):.0f} | {statistics.median(ours):.1f} | "
            f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f}–{max(ratios):.1f}) | "
            f"{statistics.median(costs):.2f} |"
        )
    return lines


def iteration_cost(workspace: Workspace, first: np.ndarray, second: np.ndarray, flow: np.ndarray) -> float:
    """Nanoseconds a pixel and inner iteration: what 10 more iterations a warp cost."""
    height, width = flow.shape[:2]
    few = Workspace(height, width, TVL1Params(nscales=1, inner_iterations=10, outer_iterations=1, epsilon=0))
    more = Workspace(height, width, TVL1Params(nscales=1, inner_iterations=20, outer_iterations=1, epsilon=0))
    difference = seconds(more.solve, first, second, flow) - seconds(few.solve, first, second, flow)
    return difference / (5 * 10 * height * width) * 1e9


def parity(pairs: list[tuple[str, np.ndarray]], size: tuple[int, int], backends: list[str]) -> list[str]:
    """Table: pooled differences from OpenCV of each backend, and of OpenCV from itself under noise."""
    rng = np.random.default_rng(0)
    found: dict[str, list[np.ndarray]] = {name: [] for name in [*backends, "OpenCV with noise"]}
    worst: tuple[float, str] = (0.0, "")
    for name, pair in pairs:
        frames = resized(pair, size) if pair.shape[1:] != size else pair
        oracle = tvl1(frames, "opencv")
        noisy = frames.astype(np.float32) / np.float32(255) + rng.uniform(-NOISE, NOISE, frames.shape).astype(
            np.float32
        )
        found["OpenCV with noise"].append(apart(tvl1(np.clip(noisy, 0, 1), "opencv"), oracle))
        for backend in backends:
            difference = apart(tvl1(frames, backend), oracle)
            found[backend].append(difference)
            if backend == "numba":
                worst = max(worst, (float(difference.mean()), name))
    lines = [f"| {size[1]}x{size[0]}, {len(pairs)} pairs | mean px | pixels off by > 0.5 px |", "|---|---|---|"]
    for name, differences in found.items():
        pooled = np.concatenate(differences)
        lines.append(f"| {name} | {pooled.mean():.4f} | {(pooled > 0.5).mean() * 100:.3f} % |")
    return [*lines, "", f"Worst pair of numba: {worst[1]}, {worst[0]:.3f} px in the mean."]


def true_motion(backends: list[str]) -> list[str]:
    lines = [f"| scene | {' | '.join(['opencv', *backends])} |", "|---" * (len(backends) + 2) + "|"]
    sums = dict.fromkeys(["opencv", *backends], 0.0)
    for size in SIZES:
        for scene in scenes(*size):
            errors = {}
            for backend in sums:
                difference = apart(tvl1(scene.frames, backend)[0], scene.flow)
                errors[backend] = float(difference[scene.valid.ravel()].mean())
                sums[backend] += errors[backend]
            cells = " | ".join(f"{error:.4f}" for error in errors.values())
            lines.append(f"| {scene.name} {size[1]}x{size[0]} | {cells} |")
    relative = " | ".join(f"{(total / sums['opencv'] - 1) * 100:+.2f} %" for total in sums.values())
    return [*lines, f"| mean, against OpenCV | {relative} |"]


def others(pairs: list[tuple[str, np.ndarray]]) -> list[str]:
    lines = ["| method, 340x256 | ms a pair |", "|---|---|"]
    for name in ("dis", "farneback"):
        times = [seconds(METHODS[name], resized(pair, SIZES[1])) * 1e3 for _, pair in pairs]
        lines.append(f"| {name} | {statistics.median(times):.1f} |")
    return lines


def gpu(pairs: list[tuple[str, np.ndarray]]) -> list[str]:
    name, reason = choose_backend()
    if name != "triton":
        return [f"Unmeasured: {reason}. `python -m benchmarks.flow` on a machine with a GPU fills this section."]
    from vidprep.flow.gpu.measure import throughput  # noqa: PLC0415  (imports torch)

    clip = np.concatenate([resized(pair, SIZES[1]) for _, pair in pairs])
    return throughput(np.concatenate([clip] * -(-256 // len(clip)))[:257])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few pairs: to see that it runs")
    options = parser.parse_args()
    one_core()
    cv2.setNumThreads(1)
    clips = real_pairs()
    rendered = {size: [(scene.name, scene.frames) for scene in scenes(*size)] for size in SIZES}
    if options.quick:
        clips, rendered = clips[::12], {size: listed[::4] for size, listed in rendered.items()}
    timed = (clips or rendered[SIZES[1]])[:: max(1, len(clips) // SPEED_PAIRS)]
    backends = ["numba"] + ["triton"] * (choose_backend()[0] == "triton")
    Workspace(32, 32, TVL1Params()).solve(*np.zeros((2, 32, 32), np.uint8), np.empty((32, 32, 2), np.float32))
    packages = ["numpy", "numba", "llvmlite", "opencv-contrib-python-headless"]
    lines = ["# TV-L1 optical flow", "", record(packages, "python -m benchmarks.flow")]
    lines += [f"{len(clips)} real pairs, {len(rendered[SIZES[0]])} rendered scenes a size.", ""]
    lines += ["## Speed, one core, default parameters, processor time", ""]
    lines += [f"{len(timed)} pairs x {options.rounds} rounds.", ""]
    lines += [*speed(timed, options.rounds), ""]
    lines += ["## Parity with OpenCV's CPU code", "", f"Noise: uniform ±{NOISE:g} on frames in [0,1].", ""]
    for size in SIZES:
        lines += [*parity(clips + rendered[size], size, backends), ""]
    lines += ["## Error against the true motion, visible pixels, mean end-point error in px", ""]
    lines += [*true_motion(backends), "", "## Other methods", "", *others(timed), "", "## GPU", "", *gpu(timed), ""]
    if clips:
        lines += ["## Real pairs", "", *(f"* {name}" for name, _ in clips), ""]
    print("\n".join(lines))
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"flow-{datetime.date.today().isoformat()}.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
