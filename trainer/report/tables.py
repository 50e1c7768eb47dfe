"""The numbers of a report: summary cards, and one table per data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.report.runs import Run

Result = Mapping[str, Any]


def initialisation(result: Result) -> str:
    """ "pretrained" or "random initialisation", with what else differs from the default protocol."""
    name = "pretrained" if result["init"] == "pretrained" else "random initialisation"
    return f"{name} ({result['variant']})" if result.get("variant") else name


def cards(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A card for retrieval and one for fine-tuning, of the first data set that has a result."""
    made = []
    for kind, what in (("retrieve", "Retrieval top-1"), ("finetune", "Fine-tuned top-1")):
        plain = [r for r in results if r["kind"] == kind and not r.get("variant")] or [
            r for r in results if r["kind"] == kind
        ]
        if not plain:
            continue
        first = plain[0]["data"]
        by_init: dict[str, float] = {}
        for result in plain:
            if result["data"] == first:
                by_init.setdefault(result["init"], top1(result))
        bars = [{"name": name, "value": value, "kind": name} for name, value in sorted(by_init.items())]
        bars.append({"name": "chance", "value": chance(plain[0]), "kind": "chance"})
        value = by_init.get("pretrained", next(iter(by_init.values())))
        made.append({"what": f"{what}, {first['name']}", "value": value, "bars": bars})
    return made


def top1(result: Result) -> float:
    value = result["hits"]["1"] if result["kind"] == "retrieve" else result["results"]["last"]["top1"]
    return float(value)


def chance(result: Result) -> float:
    return float(result["chance"]["1"] if result["kind"] == "retrieve" else result["chance"])


def tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One table per data set and pair of splits; a row per network, pretrained before random, chance last."""
    found: dict[str, list[tuple[Run, Result]]] = {}
    for run in runs:
        for result in run.evaluations.values():
            found.setdefault(result["data"]["name"], []).append((run, result))
    return [_table(data, rows, several=len(runs) > 1) for data, rows in found.items()]


def _table(data: str, found: Sequence[tuple[Run, Result]], *, several: bool) -> dict[str, Any]:
    rows: dict[tuple[str, str], dict[str, Result]] = {}
    for run, result in sorted(found, key=lambda pair: pair[1]["init"]):
        label = initialisation(result)
        rows.setdefault((f"{run.name}: {label}" if several else label, result["init"]), {})[result["kind"]] = result
    by_kind = {kind: [r for _, r in found if r["kind"] == kind] for kind in ("retrieve", "finetune")}
    groups, values = [], [list[float | None]() for _ in rows]
    chances: list[float | None] = []
    if retrievals := by_kind["retrieve"]:
        ks = [k for k in retrievals[0]["hits"] if any(r["hits"].get(k) is not None for r in retrievals)]
        groups.append({"name": "Retrieval", "columns": [f"top {k}" for k in ks]})
        for row, cells in zip(rows.values(), values, strict=True):
            cells += [row["retrieve"]["hits"].get(k) if "retrieve" in row else None for k in ks]
        chances += [retrievals[0]["chance"].get(k) for k in ks]
    if finetunings := by_kind["finetune"]:
        columns = {"top1": "top 1", "top5": "top 5", "clip_top1": "clip top 1", "mean_class": "class mean"}
        if all(r["results"]["last"]["top5"] is None for r in finetunings):
            del columns["top5"]
        groups.append({"name": "Fine-tuning", "columns": list(columns.values())})
        for row, cells in zip(rows.values(), values, strict=True):
            cells += [row["finetune"]["results"]["last"][c] if "finetune" in row else None for c in columns]
        level = finetunings[0]["chance"]
        chances += [min(1.0, 5 * level) if c == "top5" else level for c in columns]
    starts = {sum(len(g["columns"]) for g in groups[:n]) for n in range(len(groups))}
    best = [_best([v for v in column if v is not None]) for column in zip(*values, strict=True)]
    shown = [
        {"name": name, "kind": init, "cells": _cells(cells, best, starts)}
        for (name, init), cells in zip(rows, values, strict=True)
    ]
    shown.append({"name": "chance", "kind": "chance", "cells": _cells(chances, [None] * len(chances), starts)})
    return {
        "data": data,
        "protocol": _protocol(by_kind),
        "groups": groups,
        "rows": shown,
        "notes": list(dict.fromkeys(note for _, r in found for note in r["notes"])),
    }


def _best(values: Sequence[float]) -> float | None:
    """The largest of values that are not all the same."""
    return max(values) if len(set(values)) > 1 else None


def _cells(values: Sequence[float | None], best: Sequence[float | None], starts: set[int]) -> list[dict[str, Any]]:
    return [
        {"value": value, "best": value is not None and value == top, "first": place in starts}
        for place, (value, top) in enumerate(zip(values, best, strict=True))
    ]


def _protocol(by_kind: Mapping[str, Sequence[Result]]) -> str:
    texts = []
    if by_kind["retrieve"]:
        r = by_kind["retrieve"][0]
        texts.append(
            f"Retrieval: {r['queries']} queries (split {r['query_split']}) in {r['gallery']} videos (split "
            f"{r['gallery_split']}), cosine of the mean feature of {r['views']} clips; top k counts a query whose "
            "class is among its k nearest videos."
        )
    if by_kind["finetune"]:
        r = by_kind["finetune"][0]
        texts.append(
            f"Fine-tuning: all layers on split {r['train_split']}, tested on {r['videos']} videos (split "
            f"{r['test_split']}) with {r['views']} clips each; the last checkpoint, no selection on test videos."
        )
    return " ".join(texts)
