"""Figures of the report, as PNG in data URIs: curves and confusion matrices."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trainer.report.runs import Curve

DPI = 180
INK, MUTED, GRID = "#1c2434", "#66708a", "#e4e8f0"
PALETTE = ("#2f5fd0", "#d9822b", "#2a9d6f", "#a14cc4", "#c8423b", "#4b9fb8")
RANDOM = "#9aa2b5"
_STYLE: dict[str, Any] = {"color": MUTED, "fontsize": 8.5}


def data_uri(content: bytes, kind: str) -> str:
    """`data:image/KIND;base64,…`"""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def line_plot(
    curves: Mapping[str, Curve],
    *,
    title: str,
    percent: bool = False,
    reference: tuple[float, str] | None = None,
    colours: Mapping[str, str] | None = None,
    smooth: bool = True,
) -> str:
    """Curves over the step, one colour each.

    Args:
        curves: name for the legend → (steps, values).
        percent: values are shares of 1.
        reference: value and name of a dashed horizontal line, such as chance.
        colours: by name; others take the palette.
        smooth: draw long curves pale, with their running mean on top.
    """
    figure = Figure(figsize=(3.9, 2.7), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, (steps, values)) in enumerate(curves.items()):
        colour = (colours or {}).get(name) or PALETTE[number % len(PALETTE)]
        mean = running_mean(values) if smooth else values
        if mean != values:
            axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.9)
        axes.plot(steps, mean, color=colour, linewidth=1.8, label=name, solid_capstyle="round")
        if len(values) == 1:
            axes.plot(steps, values, "o", color=colour, markersize=4)
    if reference is not None:
        value, name = reference
        axes.axhline(value, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label=name)
    axes.set_title(title, loc="left", color=INK, fontsize=10.5, fontweight="bold")
    axes.set_xlabel("step", **_STYLE)
    _frame(axes)
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.set_ylim(min(0.0, *axes.get_ylim()), min(1.04, max(axes.get_ylim()[1], 0.1)))
    if len(curves) + (reference is not None) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=MUTED)
    return _png(figure)


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean over the last n values, n growing to a tenth of the length, at most 50; short curves stay as they are."""
    window = min(50, len(values) // 10)
    if window < 2:
        return list(values)
    total = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - window)
    return [float(mean) for mean in (total[stop] - total[start]) / (stop - start)]


def confusion_plot(confusion: Sequence[Sequence[int]], classes: Sequence[str], *, title: str) -> str:
    """A confusion matrix, rows true class in shares of the row; counts are written in up to 20 classes."""
    counts = np.asarray(confusion, dtype=np.int64)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    n = len(classes)
    side = min(9.0, 2.4 + 0.42 * n)
    figure = Figure(figsize=(side, side * 0.92), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    lines = textwrap.fill(title, int((side - 1.1) / 0.088))  # inches that the axes have, inches of a letter
    axes.set_title(lines, loc="left", color=INK, fontsize=10.5, fontweight="bold")
    axes.set_xlabel("predicted", **_STYLE)
    axes.set_ylabel("true", **_STYLE)
    if n <= 60:
        names = [name if len(name) <= 18 else f"{name[:17]}…" for name in classes]
        axes.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8 if n <= 20 else 5)
        axes.set_yticks(range(n), names, fontsize=8 if n <= 20 else 5)
    if n <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = shares[row, column] > 0.55
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axes.tick_params(length=0, colors=MUTED)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    if n <= 30:
        axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    return _png(figure)


def _frame(axes: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.margins(x=0.01)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return data_uri(buffer.getvalue(), "png")
