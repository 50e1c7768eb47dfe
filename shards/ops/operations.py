"""merge, subset, split and reshard: new data sets out of packed ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from shards.dataset import Dataset, open_dataset
from shards.errors import UserError
from shards.meta import read_meta
from shards.ops.build import BuildReport, OnEvent, Operation, build
from shards.ops.parts import Part, column_order
from shards.plan import read_plan
from shards.selection import listed, thin
from shards.storage import open_storage

By = Literal["split", "class", "group"]
SHARD_SIZE = 256_000_000
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def merge(
    urls: Sequence[str | Path],
    out: str | Path,
    *,
    prefixes: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    shard_size: float | None = None,
    mixed: bool = False,
    name: str | None = None,
    workers: int = 1,
    on_event: OnEvent | None = None,
) -> BuildReport:
    """Put data sets behind each other into a new one.

    Classes are merged by name: those of the first, then new ones in the order of the others. Splits and groups of the
    same name become one.

    Args:
        prefixes: one for each data set, put before its keys (and the keys of its videos).
        columns: those to take; by default all, which all data sets must have.
        shard_size: bytes of a shard; None keeps the shards as they are.
        mixed: frames of different size, rate or quality may go together.
        name: of the new data set; by default the last part of its place.
        workers: processes.

    Raises:
        UserError: the data sets do not go together, or a key stands in two of them.
    """
    if len(urls) < 2:
        raise UserError("merge needs two data sets or more; vidprep reshard writes one anew")
    if prefixes is not None and len(prefixes) != len(urls):
        raise UserError(f"there are {len(prefixes)} prefixes for {len(urls)} data sets; give one each, empty for none")
    parts = []
    for number, url in enumerate(urls):
        dataset = _open(url, columns)
        everything = np.arange(len(dataset), dtype=np.int64)
        parts.append(Part(dataset, everything, prefix="" if prefixes is None else prefixes[number]))
    operation = Operation(
        command="merge",
        parts=tuple(parts),
        name=name or _name(out),
        classes=tuple(dict.fromkeys(label for part in parts for label in part.dataset.classes)),
        columns=None if columns is None else tuple(columns),
        shard_size=_shard_size(shard_size),
        mixed=mixed,
        help="give --prefix, once for each data set, such as --prefix a_ --prefix b_, or take one of them out first "
        "with vidprep subset --drop LIST",
    )
    return build(str(out), operation, workers=workers, tell=on_event)


def reshard(
    url: str | Path,
    out: str | Path,
    *,
    shard_size: float,
    columns: Sequence[str] | None = None,
    name: str | None = None,
    workers: int = 1,
    on_event: OnEvent | None = None,
) -> BuildReport:
    """Write a data set anew with shards of another size, samples in the same order. Arguments and errors as `merge`."""
    dataset = _open(url, columns)
    numbers = np.arange(len(dataset), dtype=np.int64)
    operation = _one("reshard", dataset, numbers, out, columns, shard_size=shard_size, name=name or dataset.meta.name)
    return build(str(out), operation, workers=workers, tell=on_event)


def subset(
    url: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    classes: Sequence[str] = (),
    keep: str | Path | None = None,
    drop: str | Path | None = None,
    fraction: float | None = None,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    shard_size: float | None = None,
    name: str | None = None,
    workers: int = 1,
    on_event: OnEvent | None = None,
) -> BuildReport:
    """Copy the samples that all of these conditions leave.

    Args:
        split: those of a split.
        classes: those of these classes (names or patterns such as `Play*`). The new class list has these only, in their
            old order; otherwise it stays as it is.
        keep, drop: files with one key a line: only these, all but these.
        fraction: a share of each class, at least one sample; `seed` and the key decide which.
        columns, shard_size, name, workers: as in `merge`; shards have by default the size that the data set was
            planned with.

    Raises:
        UserError: no condition, an unknown split, class or key, or nothing is left.
    """
    if split is None and not classes and keep is None and drop is None and fraction is None and columns is None:
        raise UserError("say what to take: --split, --class, --keep, --drop, --fraction or --columns")
    if fraction is not None and not 0 < fraction <= 1:
        raise UserError(f"fraction is {fraction}; it must be above 0 and at most 1")
    dataset = _open(url, columns)
    labels = _classes(dataset, classes)
    numbers = np.arange(len(dataset), dtype=np.int64)
    if classes:
        numbers = numbers[np.isin(dataset.labels, [dataset.classes.index(label) for label in labels])]
    if keep is not None:
        numbers = np.intersect1d(numbers, listed(dataset, Path(keep)))
    if drop is not None:
        numbers = np.setdiff1d(numbers, listed(dataset, Path(drop)))
    if split is not None:
        numbers = numbers[dataset.table.mask(split)[numbers]]
    if fraction is not None:
        numbers = thin(dataset, numbers, fraction, seed)
    if not len(numbers):
        raise UserError(
            f"no sample of {dataset.url} is left by these conditions; vidprep info {dataset.url} counts them"
        )
    operation = _one("subset", dataset, numbers, out, columns, shard_size=shard_size, name=name, classes=labels)
    return build(str(out), operation, workers=workers, tell=on_event)


def split(
    url: str | Path,
    out: str | Path,
    *,
    by: By = "split",
    columns: Sequence[str] | None = None,
    shard_size: float | None = None,
    workers: int = 1,
    on_event: OnEvent | None = None,
) -> dict[str, BuildReport]:
    """Write a data set for each split, class or group, as folders of `out`.

    A sample goes to all splits it is in. Class lists stay whole, so labels keep their numbers.

    Args:
        by: "split", "class" or "group".
        columns, shard_size, workers: as in `subset`.

    Returns:
        Folder name → report. Names have `_` for characters other than letters, digits, `-` and `_`.

    Raises:
        UserError: there is nothing to split by, or samples that belong to none.
    """
    if by not in get_args(By):
        raise UserError(f"by is {by!r}; allowed: {', '.join(get_args(By))}")
    dataset = _open(url, columns)
    found = _divide(dataset, by)
    if not found:
        raise UserError(f"{dataset.url} has no {by}; vidprep annotate adds it")
    taken = np.unique(np.concatenate(list(found.values())))
    if len(taken) < len(dataset):
        lost = int(np.setdiff1d(np.arange(len(dataset)), taken)[0])
        raise UserError(
            f"{len(dataset) - len(taken)} samples of {dataset.url} are in no {by}, the first: {dataset.key(lost)}; "
            "give them one with vidprep annotate, or take a part with vidprep subset"
        )
    folders: dict[str, str] = {}
    for value in found:
        folder = _UNSAFE.sub("_", value)
        if folder in folders:
            raise UserError(
                f"{by} {folders[folder]!r} and {value!r} would both go to {out}/{folder}; rename one with "
                "vidprep annotate"
            )
        folders[folder] = value
    reports = {}
    for folder, value in folders.items():
        place = f"{str(out).rstrip('/')}/{folder}"
        operation = _one("split", dataset, found[value], place, columns, shard_size=shard_size, name=value, by=by)
        reports[folder] = build(place, operation, workers=workers, tell=on_event)
    return reports


def _divide(dataset: Dataset, by: By) -> dict[str, npt.NDArray[np.int64]]:
    """Value → (n,) ascending sample numbers."""
    if by == "split":
        return {name: np.flatnonzero(dataset.table.mask(name)) for name in dataset.splits}
    if by == "class":
        found = {name: np.flatnonzero(dataset.labels == i) for i, name in enumerate(dataset.classes)}
        return {name: numbers for name, numbers in found.items() if len(numbers)}
    groups = dataset.groups
    values, first = np.unique(groups, return_index=True)
    named = [(int(g), dataset.table.group(int(i))) for g, i in zip(values, first, strict=True) if g >= 0]
    return {str(name): np.flatnonzero(groups == g) for g, name in named}


def _one(
    command: str,
    dataset: Dataset,
    numbers: npt.NDArray[np.int64],
    out: str | Path,
    columns: Sequence[str] | None,
    *,
    shard_size: float | None,
    name: str | None = None,
    classes: tuple[str, ...] = (),
    **options: Any,
) -> Operation:
    """The operation that copies some samples of one data set."""
    return Operation(
        command=command,
        parts=(Part(dataset, numbers),),
        name=name or _name(out),
        classes=classes or dataset.classes,
        columns=None if columns is None else tuple(columns),
        shard_size=_shard_size(_planned_size(dataset) if shard_size is None else shard_size),
        options=options,
    )


def _open(url: str | Path, columns: Sequence[str] | None) -> Dataset:
    """With the first of the columns that will be copied open."""
    meta = read_meta(open_storage(url))
    return open_dataset(url, columns=column_order(meta, columns)[:1])


def _classes(dataset: Dataset, patterns: Sequence[str]) -> tuple[str, ...]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in dataset.classes):
            raise UserError(
                f"no class of {dataset.url} is named {pattern!r}; it has: {', '.join(dataset.classes) or 'none'}"
            )
    return tuple(name for name in dataset.classes if any(fnmatchcase(name, pattern) for pattern in patterns))


def _planned_size(dataset: Dataset) -> float:
    planned: Mapping[str, Any] = read_plan(dataset.storage).options if dataset.storage.exists("plan.jsonl") else {}
    size = planned.get("shard_size")
    return float(size) if isinstance(size, (int, float)) and size >= 1 else SHARD_SIZE


def _shard_size(size: float | None) -> int | None:
    if size is not None and size < 1:
        raise UserError(f"shard size is {size} bytes; it must be at least 1")
    return None if size is None else int(size)


def _name(out: str | Path) -> str:
    return str(out).rstrip("/").rpartition("/")[2] or "data"
