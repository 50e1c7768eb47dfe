"""The list files that old code reads, one set for every split and one for all samples."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vidprep.export.naming import Named, safe_name

ALL = "all"


def by_split(named: Sequence[Named], splits: Iterable[str]) -> dict[str, list[Named]]:
    """File stem → its samples: every split, and all."""
    lists = {safe_name(split): [it for it in named if split in it.splits] for split in splits}
    return {ALL: list(named), **lists}


def pace_lists(lists: Mapping[str, Sequence[Named]]) -> Iterator[tuple[str, str]]:
    """`<class>/<video> <class index> <frames>` (reference/pace.md section 2)."""
    for stem, samples in lists.items():
        yield f"list/{stem}.list", "".join(f"{it.path} {it.label} {it.frames}\n" for it in samples)


def statistics_lists(
    lists: Mapping[str, Sequence[Named]], starts: Callable[[Named], Iterable[int]], out: Path
) -> Iterator[tuple[str, str]]:
    """One line a window (reference/statistics.md section 2): `<class>/<video> <start frame> <label>` for the PyTorch
    code, and three parallel lists of folders for the TensorFlow code."""
    for stem, samples in lists.items():
        rows = [(it, start) for it in samples for start in starts(it)]
        yield f"list/{stem}.list", "".join(f"{it.path} {start} {it.label}\n" for it, start in rows)
        for name, folder in (("rgb", "frames"), ("u_flow", "flow/u"), ("v_flow", "flow/v")):
            place = [out / folder / (it.path if name == "rgb" else it.video) for it, _ in rows]
            lines = (f"{where} {start} {it.label}\n" for where, (it, start) in zip(place, rows, strict=True))
            yield f"list/{stem}-{name}.list", "".join(lines)


def svc_lists(lists: Mapping[str, Sequence[Named]], out: Path) -> Iterator[tuple[str, str]]:
    """`<frame folder>,<frames>`, and with a third column for the label (reference/concepts.md section 2)."""
    for stem, samples in lists.items():
        rows = [(str(out / "frames" / it.path), it.frames, it.label) for it in samples]
        yield f"{stem}.csv", _csv(row[:2] for row in rows)
        yield f"{stem}-labels.csv", _csv(rows)


def coclr_lists(lists: Mapping[str, Sequence[Named]]) -> Iterator[tuple[str, str]]:
    """`<class>/<video>/,<frames>`; the slash at the end matters (reference/evaluation.md section 1)."""
    for stem, samples in lists.items():
        yield f"{stem}.csv", _csv((f"{it.path}/", it.frames) for it in samples)


def class_list(folders: Sequence[str]) -> str:
    """`1 ApplyEyeMakeup`, as UCF101's classInd.txt."""
    return "".join(f"{number} {name}\n" for number, name in enumerate(folders, 1))


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
