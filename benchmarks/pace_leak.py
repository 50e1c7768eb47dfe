"""How much of the pace a clip gives away without any motion, for each rule of `shards.spec.ClipSpec.when_short`.

    python -m benchmarks.pace_leak [--clips 24000]

Of a static video a network can still tell which frames of its clip are the same stored frame (noise, compression) and
where the succession of frames breaks (drift of exposure, scene). Those facts, and nothing else, go to a small
classifier that is trained to name the pace; its accuracy on new clips is printed. Chance is 1/4. Nothing that such a
classifier finds is about motion, so a rule ought to leave it at chance.

"window" is at chance by construction: its window, and with it every cut and every repetition, depends on the length
of the video alone. What no rule can remove is that a faster clip covers more of its video. The column "with ends" adds
which frames lie within 12 frames of the video's first or last one (a fade, a title): it bounds what that still tells.
Video lengths are drawn as on UCF101 split 1: log-normal, fitted to the 175 and 7,709 of 9,537 videos that have less
than 64 and 256 frames (reference/pace.md section 2).
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import nn

from shards.rng import rng_for
from shards.spec import ClipSpec, VideoFacts, WhenShort

RESULTS = Path(__file__).parent / "results"
PACES = 4
EDGE = 12  # frames


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips of static videos: `frames` (N,T) stored frame numbers, `total` (N,) lengths of their videos, `pace` (N,)
    0..P−1."""

    frames: np.ndarray
    total: np.ndarray
    pace: np.ndarray

    def cuts(self) -> np.ndarray:
        """(N,T−1) whether the next frame is not the one that the pace asks for."""
        return np.diff(self.frames, axis=1) != (self.pace + 1)[:, None]

    def visible(self, *, ends: bool) -> np.ndarray:
        """(N,D) float32: all that a static video shows of how its clip was taken."""
        same = self.frames[:, :, None] == self.frames[:, None, :]
        repeated = np.tril(same, -1).any(axis=2)
        parts = [self.cuts(), repeated]
        if ends:
            parts += [self.frames < EDGE, self.frames >= self.total[:, None] - EDGE]
        return np.concatenate(parts, axis=1).astype(np.float32)


def ucf_lengths(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) frames per video, as on UCF101 split 1."""
    return np.clip(np.exp(rng.normal(5.137, 0.468, n)), 29, 1776).astype(np.int64)


def draw(rule: WhenShort, *, frames: int, clips: int, seed: int = 0) -> Clips:
    """`clips` clips of `frames` frames, each of its own video, planned by the real `ClipSpec`."""
    spec = ClipSpec(frames=frames, strides=tuple(range(1, PACES + 1)), when_short=rule)
    totals = ucf_lengths(clips, np.random.default_rng(seed))
    plans = [
        spec.plan(
            VideoFacts(frames=int(total), height=8, width=8, times_us=np.empty(0, np.int64)),
            rng_for(seed, 0, sample),
        )
        for sample, total in enumerate(totals)
    ]
    return Clips(
        frames=np.concatenate([plan.frames for plan in plans]),
        total=totals,
        pace=np.concatenate([plan.stride for plan in plans]),
    )


def accuracy(features: np.ndarray, pace: np.ndarray, *, steps: int = 400, seed: int = 0) -> float:
    """Share of the last quarter whose pace a classifier names that was trained on the rest."""
    x, y = torch.from_numpy(features), torch.from_numpy(pace)
    split = len(x) * 3 // 4
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, PACES))
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(steps):
        rows = torch.randint(split, (1024,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimiser.step()
    with torch.no_grad():
        return float((net(x[split:]).argmax(1) == y[split:]).float().mean())


def row(rule: WhenShort, *, frames: int, clips: int) -> str:
    """One line of the table."""
    drawn = draw(rule, frames=frames, clips=clips)
    distinct = np.mean([len(np.unique(f)) for f in drawn.frames])
    cut = drawn.cuts().any(axis=1).mean()
    only, ends = (accuracy(drawn.visible(ends=e), drawn.pace) for e in (False, True))
    return f"| {frames} | {rule} | {only:.1%} | {ends:.1%} | {cut:.1%} | {distinct:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--clips", type=int, default=24_000)
    clips = parser.parse_args().clips
    lines = [
        f"# Pace named from static videos, {datetime.date.today()}",
        "",
        f"`python -m benchmarks.pace_leak --clips {clips}`: {PACES} paces, chance {1 / PACES:.0%}, video lengths as",
        f"on UCF101 split 1; accuracy on {clips - clips * 3 // 4} new clips. torch {torch.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}.",
        "",
        "| frames | rule | accuracy | with ends | clips with a cut | distinct frames a clip |",
        "|---|---|---|---|---|---|",
    ]
    lines += [row(rule, frames=frames, clips=clips) for frames in (16, 64) for rule in get_args(WhenShort)]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"pace-leak-{datetime.date.today()}.md").write_text(text)


if __name__ == "__main__":
    main()
