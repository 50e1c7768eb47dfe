"""Which samples a run uses: a split, thinned out without copying anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shards.errors import StorageError, UserError
from shards.samples import SampleTable


class _Selectable(Protocol):
    url: str
    table: SampleTable

    @property
    def valid(self) -> npt.NDArray[np.bool_]: ...
    @property
    def records(self) -> npt.NDArray[np.void]: ...
    def __len__(self) -> int: ...
    def number(self, key: str) -> int: ...


def select(
    dataset: _Selectable, *, split: str | None = None, keep: float | str | Path | None = None, seed: int = 0
) -> npt.NDArray[np.int64]:
    """(n,) ascending sample numbers, without samples that failed in one of the open columns.

    Args:
        split: samples of this split; None for all.
        keep: a fraction in (0, 1]: of the n samples of each class round(keep·n), at least 1 (samples without
            label count as one class). Which ones depends on seed and key alone, so other classes do not matter, and a
            smaller fraction is a part of a larger one. Or a file with one key a line: those that are also in the
            split. Text is a fraction if it reads as a number, else a file.
        seed: selects the samples a fraction keeps.

    Raises:
        UserError: unknown split (lists the splits), fraction outside (0, 1], unknown key, nothing left.
    """
    numbers = np.arange(len(dataset), dtype=np.int64)
    if split is not None:
        numbers = numbers[dataset.table.mask(split)]
    chosen = len(numbers)
    numbers = numbers[dataset.valid[numbers]]
    failed = chosen - len(numbers)
    fraction = fraction_of(keep)
    if fraction is not None:
        numbers = thin(dataset, numbers, fraction, seed)
    elif keep is not None:
        numbers = np.intersect1d(numbers, listed(dataset, Path(keep)))  # type: ignore[arg-type]
    if not len(numbers):
        why = f": {failed} failed in an open column; vidprep info {dataset.url} counts the reasons" if failed else ""
        raise UserError(f"no sample of {dataset.url} is left by split {split!r} and keep {keep!s}{why}")
    return numbers


def fraction_of(keep: float | str | Path | None) -> float | None:
    """The number, if `keep` is one; None for a file or nothing. Raises UserError outside (0, 1]."""
    if keep is None or isinstance(keep, Path):
        return None
    try:
        fraction = float(keep)
    except ValueError:
        return None
    if not 0 < fraction <= 1:
        raise UserError(f"keep is {keep}; allowed are a fraction above 0 and up to 1, or a file with one key a line")
    return fraction


def thin(dataset: _Selectable, numbers: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """(m,) ascending: a share of each class among these samples; see `keep` of `select`."""
    if not len(numbers):
        return numbers
    salt = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    rank = _scramble(dataset.records["key_hash"][numbers] ^ salt)
    labels = dataset.table.labels[numbers]
    order = np.lexsort((rank, labels))  # by class, then by rank
    _, first, count = np.unique(labels[order], return_index=True, return_counts=True)
    kept = [
        order[start : start + max(1, round(fraction * n))]
        for start, n in zip(first.tolist(), count.tolist(), strict=True)
    ]
    return np.sort(numbers[np.concatenate(kept)])


def _scramble(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection in which every bit of the hash and of the salt changes half of all bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def listed(dataset: _Selectable, file: Path) -> npt.NDArray[np.int64]:
    """(m,) ascending numbers of the samples whose keys a file lists, one a line. Raises as `select`."""
    found, unknown = find_keys(dataset, read_keys(file))
    if unknown:
        raise unknown_keys(file, unknown, dataset.url)
    return found


def read_keys(file: Path) -> list[str]:
    """The keys of a file with one a line.

    Raises:
        StorageError: it cannot be read. UserError: it is not UTF-8 text.
    """
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise StorageError(
            f"cannot read the list of keys {file}: {error.strerror or error}; keep is a fraction or such a file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}); give one key a line") from error


def find_keys(dataset: _Selectable, keys: Iterable[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Ascending numbers of the samples with these keys, and the keys that no sample has."""
    found, unknown = [], []
    for key in keys:
        try:
            found.append(dataset.number(key))
        except UserError:
            unknown.append(key)
    return np.array(sorted(set(found)), np.int64), unknown


def unknown_keys(file: Path, unknown: Sequence[str], url: str) -> UserError:
    """The error for keys of a file that a data set has not."""
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    return UserError(
        f"{file} lists {len(unknown)} keys that {url} has not: {', '.join(unknown[:5])}{more}; "
        "give one key of samples.jsonl a line"
    )
