"""Frames as members of plain WebDataset tars, KEY.000.jpg and so on, for code that knows stock webdataset only."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shards import captions
from shards.dataset import Dataset
from shards.storage import Storage
from shards.storage.base import Writing
from shards.text import to_json
from vidprep.export.images import frame_jpegs
from vidprep.export.naming import Named


def tar_name(shard: int) -> str:
    return f"{shard:06d}.tar"


def by_shard(dataset: Dataset, named: Sequence[Named]) -> Iterator[tuple[int, list[Named]]]:
    """Shards of the data set that hold some of the samples, with these."""
    for shard in range(dataset.meta.shards):
        first, count = dataset.shard_span(shard)
        inside = [it for it in named if first <= it.number < first + count]
        if inside:
            yield shard, inside


def write_tar(
    storage: Storage,
    dataset: Dataset,
    shard: int,
    named: Sequence[Named],
    *,
    column: str,
    quality: int,
    tell: Callable[[Named], None],
) -> tuple[int, int]:
    """Write one tar: (members, bytes). The same samples give the same bytes.

    Raises:
        DataError: stored bytes are damaged. StorageError: it cannot be written.
    """
    members = 0
    aside = storage.create(tar_name(shard))
    try:
        for it in named:
            members += _add_sample(aside, dataset, it, column=column, quality=quality)
            tell(it)
        aside.write(
            bytes(-(-(aside.size + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - aside.size)
        )
        aside.publish()
    finally:
        aside.discard()
    return members, aside.size


def _add_sample(aside: Writing, dataset: Dataset, named: Named, *, column: str, quality: int) -> int:
    sample = dataset[named.number]
    about: dict[str, Any] = {
        "key": sample.key,
        "label": sample.label,
        "splits": list(sample.splits),
        "group": sample.group,
    }
    about |= {"caption": captions.tree(sample.captions), "frames": sample.frames, "fps": sample.fps}
    about |= {"height": sample.height, "width": sample.width}
    texts = {"json": to_json({name: value for name, value in about.items() if value not in (None, [])}).encode()}
    if sample.label_index >= 0:
        texts["cls"] = str(sample.label_index).encode()
    if sample.captions:
        # A single caption as it is, whatever its lines; of several a line each.
        several = len(sample.captions) > 1
        texts["txt"] = captions.encode(sample.captions) if several else sample.captions[0].encode("utf-8", "replace")
    for extension, data in texts.items():
        _add_member(aside, f"{sample.key}.{extension}", data)
    digits = max(3, len(str(sample.frames - 1)))
    count = 0
    for number, data in enumerate(frame_jpegs(dataset, named.number, column=column, quality=quality)):
        _add_member(aside, f"{sample.key}.{number:0{digits}d}.jpg", data)
        count += 1
    return count + len(texts)


def _add_member(aside: Writing, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(data), 0o444
    aside.write(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
    aside.write(data)
    aside.write(bytes(-len(data) % tarfile.BLOCKSIZE))
