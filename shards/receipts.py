"""Receipts: what a finished shard holds and how it was made. A shard exists when its receipt does."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from shards.errors import DataError
from shards.storage import Storage
from shards.text import to_json

VERSION = 1
_TOGETHER = 64  # receipts that are read at a time
_REPAIR = "remove it and run the same command again to write this shard anew"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was wrong with one video.

    Attributes:
        key: the video's key.
        source: where it is, relative to the manifest's root.
        level: "bad" (it has no sample) or "warning" (packed all the same).
        code: short word to count by, such as `truncated`.
        message: what is wrong, for people.
        command: what repairs it, ready to paste; empty where nothing does.
    """

    key: str
    source: str
    level: Literal["bad", "warning"]
    code: str
    message: str
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Of one shard of one column.

    Attributes:
        column: the column's folder, `rgb`.
        shard: its number.
        samples, frames: how many it holds.
        payload_bytes: bytes of all payloads, without tar headers and descriptions.
        tar_size, tar_sha256, idx_size, idx_sha256: its two files.
        parameters: what its bytes depend on besides the source.
        sources: of a derived column, SHA-256 of the shard's tar in each column it was made from.
        verdicts: on the videos the plan gave to this shard.
        versions: of the packages that made it.
        run: times, host, … ; the only part that differs between two runs.
    """

    column: str
    shard: int
    samples: int
    frames: int
    payload_bytes: int
    tar_size: int
    tar_sha256: str
    idx_size: int
    idx_sha256: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


def stem(folder: str, shard: int) -> str:
    """Name of a shard's files without extension: `rgb/000007`."""
    return f"{folder}/{shard:06d}"


def package_versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages, of Python, and the instruction set: what bytes may depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_receipt(storage: Storage, receipt: Receipt) -> None:
    """Publish the receipt, which finishes its shard. An existing one is a StorageError."""
    data = {"receipt": VERSION, **asdict(receipt)}
    storage.put(f"{stem(receipt.column, receipt.shard)}.json", (to_json(data, indent=1) + "\n").encode())


def has_receipt(storage: Storage, folder: str, shard: int) -> bool:
    return storage.exists(f"{stem(folder, shard)}.json")


def read_receipt(storage: Storage, folder: str, shard: int) -> Receipt:
    """Raises: MissingError: the shard is not finished. DataError: the file is not a receipt."""
    name = f"{stem(folder, shard)}.json"
    try:
        data = json.loads(storage.read(name))
        number = data.pop("receipt")
        if number > VERSION:
            raise DataError(
                f"{storage.url}/{name} has format version {number}; this vidprep reads up to {VERSION}: "
                "pip install -U vidprep"
            )
        verdicts = tuple(Verdict(**verdict) for verdict in data.pop("verdicts"))
        receipt = Receipt(**data, verdicts=verdicts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{storage.url}/{name} is not a receipt ({error}); {_REPAIR}") from error
    if (receipt.column, receipt.shard) != (folder, shard):
        other = stem(receipt.column, receipt.shard)
        raise DataError(f"{storage.url}/{name} is the receipt of {other}; {_REPAIR}")
    return receipt


def finished_shards(storage: Storage, folder: str, count: int) -> list[int]:
    """Which of shards 0 to count − 1 are finished."""
    listed = set(_listed(storage, folder)) if storage.lists else set()
    # A store may list a new object late, but knows it when asked.
    asked = [number for number in range(count) if number not in listed]
    found = storage.together([partial(has_receipt, storage, folder, number) for number in asked])
    return sorted(
        listed.intersection(range(count)).union(n for n, is_there in zip(asked, found, strict=True) if is_there)
    )


def read_receipts(storage: Storage, folder: str, *, count: int | None = None) -> Iterator[Receipt]:
    """All receipts of a column in the order of shards.

    Args:
        count: of the column's shards, where the storage cannot list them.
    """
    numbers = _listed(storage, folder) if storage.lists or count is None else finished_shards(storage, folder, count)
    for start in range(0, len(numbers), _TOGETHER):
        some = numbers[start : start + _TOGETHER]
        yield from storage.together([partial(read_receipt, storage, folder, number) for number in some])


def _listed(storage: Storage, folder: str) -> list[int]:
    """Numbers of the shards whose receipts a folder lists."""
    parts = (name.partition(".") for name in storage.list(folder))
    return [int(base) for base, _, extension in parts if extension == "json" and base.isdecimal()]
