"""Recipes as people read them: a table of many, the head of one, differences of two. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from trainer.config import DataConfig, Recipe
from trainer.recipes.facts import clip_text, facts

_WIDTH = 110
_MARKS = {"fine-tuning": "", "linear probe": " lin", "retrieval": " ret"}
HEADER = ("recipe", "task", "backbone", "clip", "columns", "GPU GB", "published")
LEGEND = (
    "clip: frames x height x width as the network sees it, @ frames a second (none: as stored). "
    "GPU GB: GPUs x memory of each at the recipe's batch, estimated from shapes. "
    "published: top 1 in per cent after fine-tuning, ret: of retrieval, lin: of a linear probe; the first figure of "
    "vidprep recipes show NAME, which tells its source."
)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line a recipe, with a header and a legend; at most 120 columns for the shipped recipes."""
    cells = [HEADER, *(_row(found) for found in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*lines, "", *wrap(LEGEND, _WIDTH, break_on_hyphens=False)])


def head(recipe: Recipe, *, file: Path | None = None, changed: Sequence[str] = (), memory: bool = True) -> str:
    """What a recipe is: where from, how to prepare and train, columns, clip, memory and published results.

    Args:
        file: of the recipe.
        changed: values that were set; published results are of the recipe without them.
        memory: tell the memory that the file has.
    """
    found = facts(recipe)
    rows = [
        ("", f"{recipe.name}: {recipe.description}" if recipe.description else recipe.name),
        ("paper", found["paper"]),
        ("reference", "; ".join(part for part in (found["code"], found["command"]) if part)),
        *_named("prepare", found["prepare"]),
        *_named("train" if found["commands"][0].startswith("vidprep train ") else "use", found["commands"]),
        *_named("literal", found["literal"]),
        ("columns", ", ".join(found["columns"])),
        ("clip", _clip(recipe, found)),
        ("batch", _batch(found)),
        ("memory", (memory_text(found) or "not known; --memory estimates it") if memory else ""),
        *_named("published", [published_text(one) for one in found["published"]]),
        *_named("note", found["notes"]),
        ("changed", ", ".join(changed) + (" (published is what the recipe was without)" if changed else "")),
        ("file", "" if file is None else f"{file} (with the source of each value)"),
    ]
    return "\n".join(line for name, text in rows if text for line in _wrapped(name, text))


def differences(first: Recipe, second: Recipe) -> str:
    """A unified diff of what is told of two recipes and of their values; empty where nothing differs."""
    one, other = ([*head(recipe).splitlines()[1:], "", *recipe.yaml().splitlines()] for recipe in (first, second))
    return "\n".join(difflib.unified_diff(one, other, first.name, second.name, lineterm="", n=2))


def memory_text(found: Mapping[str, Any]) -> str:
    """GPU memory as a sentence, with what it is for."""
    if found["memory_gb"] is None:
        return ""
    gpus = found["gpus"]
    where = "one GPU" if gpus == 1 else f"each of {gpus} GPUs"
    share = f"{found['batch'] // gpus} videos a step"
    return f"about {found['memory_gb']:g} GB on {where}, {share} (estimate, from shapes)"


def published_text(one: Mapping[str, Any]) -> str:
    """One result: `UCF101 fine-tuning 76.71 (README)`."""
    tops = "" if list(one["top"]) == [1] else " top " + "/".join(map(str, one["top"]))
    values = " / ".join(f"{value:g}" for value in one["value"])
    why = "; ".join(part for part in (one["when"], one["source"]) if part)
    return f"{one['dataset']} {one['metric']}{tops} {values} ({why})"


def _row(found: Mapping[str, Any]) -> tuple[str, ...]:
    memory = "" if found["memory_gb"] is None else f"{found['gpus']} x {found['memory_gb']:g}"
    published = ""
    if found["published"]:
        one = found["published"][0]
        published = f"{one['value'][0]:g} {one['dataset']}{_MARKS[one['metric']]}"
    columns = ",".join(found["columns"])
    return found["name"], found["task"], found["backbone"], clip_text(found), columns, memory, published


def _named(name: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    return [(name if place == 0 else " ", text) for place, text in enumerate(texts)]


def _clip(recipe: Recipe, found: Mapping[str, Any]) -> str:
    data = recipe.data
    rate = "stored frames" if data.fps is None else f"{data.fps:g} frames a second"
    rate += ", spread over the whole video" if data.cover else ""
    return f"{data.frames} frames of {_size(found['size'])}{_cut(data)}; {rate}"


def _size(size: list[int] | tuple[int, int] | int | None) -> str:
    if size is None:
        return "the stored size"
    return f"short side {size}" if isinstance(size, int) else "x".join(map(str, size))


def _cut(data: DataConfig) -> str:
    """What a crop is taken from."""
    if data.crop is None:
        return ""
    if data.area is not None:
        share = f", from cuts of {100 * data.area[0]:g} to {100 * data.area[1]:g} % of a frame"
        return share + (f" of {_size(data.resize)}" if data.resize is not None else "")
    if data.resize_range is not None:
        return f", cut from short sides of {data.resize_range[0]} to {data.resize_range[1]}"
    return f", cut from {_size(data.resize)}"


def _batch(found: Mapping[str, Any]) -> str:
    length = f"{found['epochs']:g} epochs" if found["epochs"] is not None else f"{found['steps']:,} steps"
    gpus = f" over {found['gpus']} GPUs" if found["gpus"] > 1 else ""
    return f"{found['batch']} videos a step{gpus}, {length}"


def _wrapped(name: str, text: str) -> list[str]:
    if not name:
        return [*wrap(text, _WIDTH), ""]
    command = text.startswith("vidprep ")  # whole, to be copied
    lines = [text] if command else wrap(text, _WIDTH - 11, break_long_words=False, break_on_hyphens=False)
    return [f"{name if place == 0 else '':<10} {line}" for place, line in enumerate(lines)]
