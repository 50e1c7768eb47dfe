"""Rates of several contenders measured in turn, so that what disturbs one disturbs all; and the record of a run."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def one_core() -> int:
    """Bind this process, and all it starts, to one of its cores; the number of that core."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def cpu_seconds(children: Iterable[int] = ()) -> float:
    """Processor time used so far by this process and by running children."""
    own = sum(os.times()[:2]) if not Path("/proc/self/schedstat").exists() else time.process_time()
    return own + sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in children) / 1e9


@dataclass(frozen=True)
class Contender:
    """`run()` handles some units and returns how many; `children()` are the processes that work for it."""

    run: Callable[[], int]
    children: Callable[[], Iterable[int]] = lambda: ()


@dataclass(frozen=True)
class Rates:
    """Units a second of one contender, one number a round: by wall clock and by processor time."""

    wall: list[float]
    cpu: list[float]

    def text(self) -> str:
        """Median and range by processor time, median by wall clock."""
        low, high = min(self.cpu), max(self.cpu)
        return f"{statistics.median(self.cpu):,.0f} ({low:,.0f}–{high:,.0f}) | {statistics.median(self.wall):,.0f}"


def compare(contenders: Mapping[str, Contender], *, rounds: int) -> dict[str, Rates]:
    """Rates by contender. All run once to warm up, then once in every round, in turn."""
    for contender in contenders.values():
        contender.run()
    found = {name: Rates([], []) for name in contenders}
    for turn in range(rounds):
        names = list(contenders)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            contender = contenders[name]
            children = list(contender.children())
            wall, cpu = time.perf_counter(), cpu_seconds(children)
            units = contender.run()
            found[name].cpu.append(units / (cpu_seconds(children) - cpu))
            found[name].wall.append(units / (time.perf_counter() - wall))
    return found


def ratio(first: Rates, second: Rates) -> str:
    """Median and range over the rounds of first / second, by processor time."""
    ratios = [a / b for a, b in zip(first.cpu, second.cpu, strict=True)]
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f})"


def record(packages: Iterable[str], command: str) -> str:
    """Markdown lines: when, with what, on what."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"* {datetime.date.today().isoformat()}, `{command}`\n"
        f"* {model}, {os.cpu_count()} cores, of which one is used; load average {load}\n"
        f"* Python {sys.version.split()[0]}, {versions}\n"
    )
