"""From finished shards to a data set: index.bin, the sample table and, last and in one step, dataset.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards import captions as texts
from shards.errors import DataError, UserError
from shards.index import SAMPLE, SHARD, ShardIndex, build_index, parse_idx
from shards.meta import NAME, ColumnMeta, Meta, read_meta, write_meta
from shards.plan import read_plan
from shards.receipts import Receipt, finished_shards, read_receipt, stem
from shards.samples import SampleRow, SampleTable, write_samples
from shards.storage import MissingError, Storage, open_storage
from shards.tarwriter import read_info


@dataclass(frozen=True)
class Finished:
    """A finished shard: its receipt and index, proved to belong together."""

    receipt: Receipt
    index: ShardIndex


@dataclass(frozen=True)
class _Shard(Finished):
    videos: Sequence[Mapping[str, Any]]


def finalize(dest: str | Path | Storage, *, producer: str = "vidprep pack") -> Meta:
    """Make the finished shards of the `rgb` column a data set. Needs nothing but plan, receipts and indexes.

    Running it again changes nothing; labels given by `vidprep annotate` stay, also when shards were written anew.

    Args:
        dest: the data set's folder.
        producer: the command that wrote the shards, named where they have to be written anew.

    Raises:
        UserError: shards are missing (says how many), or no video could be packed.
        DataError: a shard's files do not belong together, or two samples have the same key.
    """
    storage = dest if not isinstance(dest, (str, Path)) else open_storage(dest)
    plan = read_plan(storage)
    folder = "rgb"
    planned = list(plan.shards())
    again = _again(producer)
    loaded = load_shards(storage, folder, len(planned), again=again)
    shards = [_Shard(it.receipt, it.index, videos) for it, (_, videos) in zip(loaded, planned, strict=True)]
    samples, records = join(shards)
    if not len(samples):
        bad = sum(verdict.level == "bad" for shard in shards for verdict in shard.receipt.verdicts)
        raise UserError(
            f"{storage.url} would be empty: none of the planned videos has a sample ({bad} bad ones); the receipts in "
            f"{storage.url}/{folder} say why"
        )
    _refuse_duplicates(shards, samples)
    index = build_index(samples, records)
    column = ColumnMeta(
        kind="rgb",
        folder=folder,
        producer=producer,
        parameters=common_parameters(storage, shards, again=again),
    )
    segmented = plan.options.get("segment_frames") is not None
    rows = [row for shard in shards for row in _rows(storage, folder, shard, segmented=segmented, again=again)]
    meta = Meta(
        name=str(plan.options["name"]),
        columns={"rgb": column},
        size=dict(plan.options["size"]),
        classes=tuple(plan.options["classes"]),
        splits=tuple(sorted({name for row in rows for name in row.splits})),
        samples=len(samples),
        shards=len(shards),
    )
    return put_in_force(storage, meta, index, rows)


def put_in_force(storage: Storage, meta: Meta, index: bytes, rows: list[SampleRow]) -> Meta:
    """Write index.bin of the `rgb` column, the sample table and, last, dataset.json; what was annotated stays."""
    where = f"{meta.columns['rgb'].folder}/index.bin"
    if storage.exists(NAME):
        present = read_meta(storage)
        table = SampleTable(storage, present)
        if storage.exists(where) and storage.read(where) == index and present.samples == meta.samples:
            return present
        # Some shards were written anew: what was annotated since then stays.
        known = {row.key: row for row in table.rows()}
        rows = [known.get(row.key, row) for row in rows]
        splits = tuple(sorted({name for row in rows for name in row.splits}))
        extra = tuple(name for name in meta.classes if name not in present.classes)
        columns = {**present.columns, **meta.columns}
        meta = replace(present, columns=columns, samples=meta.samples, shards=meta.shards)
        meta = replace(meta, classes=present.classes + extra, splits=splits)
        name = write_samples(storage, rows, classes=meta.classes, splits=splits)
    else:
        name = write_samples(storage, rows, classes=meta.classes, splits=meta.splits, stem="samples")
    meta = replace(meta, samples_stem=name)
    storage.put(where, index, replace=True)
    write_meta(storage, meta)
    return meta


def _again(producer: str) -> str:
    return f"run the same {producer} command again"


def load_shards(storage: Storage, folder: str, count: int, *, again: str) -> list[Finished]:
    """Shards 0 to count − 1 of a column; `again`: what to run for what is missing.

    Raises:
        UserError: shards are missing (says how many).
        DataError: a shard's files do not belong together.
    """
    missing = sorted(set(range(count)).difference(finished_shards(storage, folder, count)))
    if missing:
        raise UserError(
            f"{len(missing)} of {count} shards of {storage.url} are not finished (the first: "
            f"{stem(folder, missing[0])}); {again}, it goes on where it stopped"
        )
    return list(storage.together([partial(_load, storage, folder, number, again=again) for number in range(count)]))


def _load(storage: Storage, folder: str, number: int, *, again: str) -> Finished:
    receipt = read_receipt(storage, folder, number)
    name = f"{storage.url}/{stem(folder, number)}"
    repair = f"remove {name}.json and {again} to write the shard anew"
    try:
        data = storage.read(f"{stem(folder, number)}.idx")
        tar_size = storage.size(f"{stem(folder, number)}.tar")
    except MissingError as error:
        raise DataError(f"{error} though its receipt does; {repair}") from error
    if hashlib.sha256(data).hexdigest() != receipt.idx_sha256:
        raise DataError(f"{name}.idx is not the one its receipt describes; {repair}")
    if tar_size != receipt.tar_size:
        raise DataError(f"{name}.tar has {tar_size} bytes instead of {receipt.tar_size}; {repair}")
    index = parse_idx(np.frombuffer(data, np.uint8), f"{name}.idx")
    if int(index.header["shard"]) != number:
        raise DataError(f"{name}.idx is that of shard {index.header['shard']}; {repair}")
    return Finished(receipt, index)


def join(shards: Sequence[Finished]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
    """Records of all samples and of all shards."""
    records = np.zeros(len(shards), SHARD)
    parts = [shard.index.samples for shard in shards]
    first = 0
    for record, shard in zip(records, shards, strict=True):
        header = shard.index.header
        record["tar_size"] = header["tar_size"]
        record["idx_size"] = shard.receipt.idx_size
        record["first"] = first
        record["samples"] = header["samples"]
        record["idx_crc32"] = header["crc32"]
        record["tar_digest"] = header["tar_digest"]
        record["frames"] = header["frames"]
        first += int(header["samples"])
    return np.concatenate([np.empty(0, SAMPLE), *parts]), records


def _refuse_duplicates(shards: Sequence[_Shard], samples: npt.NDArray[np.void]) -> None:
    values, counts = np.unique(samples["key_hash"], return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    seen: dict[str, int] = {}
    for number, shard in enumerate(shards):
        for key, value in zip(shard.index.all_keys(), shard.index.samples["key_hash"].tolist(), strict=True):
            if value in suspects and key in seen:
                raise DataError(
                    f"key {key} stands in shard {seen[key]} and in shard {number}; keys must be unique: mend the "
                    "manifest and pack it into an empty folder"
                )
            seen[key] = number


def planned_rows(storage: Storage, meta: Meta) -> list[SampleRow]:
    """The sample table's rows as the plan and the finished shards have them, without what was annotated since.

    Raises: as `finalize`.
    """
    plan, column = read_plan(storage), next(iter(meta.columns.values()))
    planned, again = list(plan.shards()), _again(column.producer)
    loaded = load_shards(storage, column.folder, len(planned), again=again)
    segmented = plan.options.get("segment_frames") is not None
    return [
        row
        for it, (_, videos) in zip(loaded, planned, strict=True)
        for row in _rows(storage, column.folder, _Shard(it.receipt, it.index, videos), segmented=segmented, again=again)
    ]


def _rows(storage: Storage, folder: str, shard: _Shard, *, segmented: bool, again: str) -> Iterator[SampleRow]:
    """The sample table's rows of a shard: the plan's, repeated for every segment of a video.

    Segments without group get the video's key: they must never stand on both sides of a split.
    """
    videos = {str(video["key"]): video for video in shard.videos}
    keys = shard.index.all_keys()
    for place, key in enumerate(keys):
        owner = _video_of(storage, folder, shard, place) if segmented else key
        video = videos.get(owner)
        if video is None:
            raise DataError(
                f"sample {key} of {storage.url}/{stem(folder, shard.receipt.shard)}.tar is of no video that the plan "
                f"gave to this shard; remove its .json and {again} to write the shard anew"
            )
        yield SampleRow(
            key=key,
            label=video.get("label"),
            splits=tuple(video.get("splits") or ()),
            group=video.get("group") or (owner if segmented else None),
            captions=texts.of(video.get("caption")),
            video=owner if segmented else video.get("video"),
        )


def _video_of(storage: Storage, folder: str, shard: _Shard, place: int) -> str:
    """The key of the video that a segment belongs to, from its KEY.json."""
    member = shard.index.members[place]
    name = f"{stem(folder, shard.receipt.shard)}.tar"
    data = storage.get_range(name, int(member["info_offset"]), int(member["info_size"]))
    try:
        return str(read_info(data).get("video"))
    except ValueError as error:
        raise DataError(
            f"{storage.url}/{name}, sample {shard.index.key(place)}: its description is not JSON ({error}); "
            f"run vidprep check {storage.url}"
        ) from error


def common_parameters(storage: Storage, shards: Sequence[Finished], *, again: str) -> dict[str, Any]:
    """The parameters that all shards were made with. Raises DataError: they are not the same."""
    first = dict(shards[0].receipt.parameters)
    for shard in shards[1:]:
        receipt = shard.receipt
        if dict(receipt.parameters) != first:
            raise DataError(
                f"{storage.url}/{stem(receipt.column, receipt.shard)} was made with {dict(receipt.parameters)}, "
                f"the first shard with {first}; remove its .json and {again} to write the shard anew"
            )
    return first
