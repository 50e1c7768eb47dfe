"""Writing one shard of a column from samples of other data sets: what worker processes of operations do."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from shards import captions
from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.errors import DataError
from shards.index import FAILED
from shards.meta import ColumnMeta
from shards.procs import notify
from shards.reader import ColumnReader
from shards.receipts import Receipt, Verdict, read_receipt
from shards.storage import open_storage
from shards.tarwriter import ShardWriter, read_info


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A sample to copy: number of its part, its number there, its key and video from now on."""

    part: int
    number: int
    key: str
    video: str | None = None


@dataclass(frozen=True, kw_only=True)
class CopyTask:
    """One shard to write.

    Attributes:
        url: of the new data set; shard: its number there.
        name: of the column; column: what it is there, without digests.
        parts: the data sets that are copied from.
        refs: the samples, in order.
        verdicts: on videos of this shard.
        folders: of the columns this one was made from, in the new data set, by name.
    """

    url: str
    shard: int
    name: str
    column: ColumnMeta
    parts: tuple[Dataset, ...]
    refs: tuple[Ref, ...]
    verdicts: tuple[Verdict, ...] = ()
    folders: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"shard {self.shard} of {self.column.folder} in {self.url}"


def copy_shard(task: CopyTask) -> Receipt:
    """Write the shard; its receipt exists afterwards.

    Raises:
        DataError: a sample that is copied is damaged.
        StorageError: it cannot be read, or the shard cannot be written.
    """
    began = time.time()
    storage = open_storage(task.url)
    sources = {name: read_receipt(storage, folder, task.shard).tar_sha256 for name, folder in task.folders.items()}
    if captions.SOURCE in task.column.sources:
        rows = ((ref.key, task.parts[ref.part].table.captions(ref.number)) for ref in task.refs)
        sources[captions.SOURCE] = captions.sha256(rows)
    readers = [ColumnReader(part.storage, task.name, part.meta.columns[task.name], part.meta) for part in task.parts]
    with ShardWriter(
        storage,
        task.shard,
        folder=task.column.folder,
        kind=COLUMNS[task.column.kind],
        parameters=task.column.parameters,
        sources=sources,
        versions=_versions(task, readers),
    ) as writer:
        for done, ref in enumerate(task.refs):
            _copy(writer, readers[ref.part], ref)
            notify((task.shard, done + 1))
        run = {"began": round(began, 3), "seconds": round(time.time() - began, 3), "host": platform.node()}
        return writer.finish(verdicts=task.verdicts, run=run)


def _copy(writer: ShardWriter, reader: ColumnReader, ref: Ref) -> None:
    record = reader.samples[ref.number]
    info = {}
    if reader.kind.describes:
        try:
            info = read_info(reader.info(ref.number))
        except ValueError as error:
            what = f"its description is not JSON ({error})"
            raise reader.damaged(int(record["shard"]), int(record["place"]), what) from error
        info.pop("key", None)
        if ref.video is not None and "video" in info:
            info["video"] = ref.video
    failed = bool(record["flags"] & FAILED)
    count = int(record["frames"])
    if not failed and count < 1:
        raise reader.damaged(int(record["shard"]), int(record["place"]), "it has no frame and has not failed")
    frames = reader.read(ref.number, range(count))
    parts = [bytes(frames[number]) for number in range(count)]
    writer.add(
        ref.key,
        info,
        parts if reader.kind.framed else b"".join(parts),
        fps=float(record["fps"]),
        size=(int(record["height"]), int(record["width"])),
        times_us=reader.times_us(ref.number) if reader.kind.framed and not failed else None,
        failed=failed,
    )


def _versions(task: CopyTask, readers: list[ColumnReader]) -> dict[str, str]:
    """Of the packages that made the payloads; several, separated by commas, where shards of different making meet."""
    shards = sorted({(ref.part, int(readers[ref.part].samples[ref.number]["shard"])) for ref in task.refs})
    found: dict[str, set[str]] = {}
    for part, shard in shards:
        dataset = task.parts[part]
        try:
            receipt = read_receipt(dataset.storage, dataset.meta.columns[task.name].folder, shard)
        except DataError as error:
            raise DataError(f"{error}; vidprep check {dataset.url} lists all damage") from error
        for package, version in receipt.versions.items():
            found.setdefault(package, set()).update(version.split(", "))
    return {package: ", ".join(sorted(versions)) for package, versions in sorted(found.items())}
