"""What worker processes of `index-shards` do: the index of one tar."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from shards.foreign import split_url
from shards.index import FRAME, MEMBER, SAMPLE, build_idx
from shards.keys import key_hash
from shards.procs import notify
from shards.receipts import Receipt, Verdict, package_versions, stem, write_receipt
from shards.storage import Storage, open_storage
from shards.text import to_json
from vidprep.foreign.members import PICKLES, Group, Refused, Walk
from vidprep.foreign.samples import Found, IndexOptions, describe
from vidprep.foreign.videos import BadMember
from vidprep.runs import Progress

FOLDER = "rgb"
_PACKAGES = ("vidprep", "av", "simplejpeg")
_WARNINGS = frozenset({"cut-off"})  # what was read before is good


@dataclass(frozen=True, kw_only=True)
class Item:
    """A sample that a worker is at. source: tar and member, for verdicts."""

    key: str
    source: str


@dataclass(frozen=True, kw_only=True)
class IndexTask:
    """One tar to index.

    Attributes:
        url: the data set's folder. shard: number of the tar; tar: its path or URL.
        skip: verdicts on samples that ended or hung an earlier worker, by key.
    """

    url: str
    shard: int
    tar: str
    options: IndexOptions
    skip: Mapping[str, Verdict] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"the index of {self.tar}"

    @property
    def name(self) -> str:
        return split_url(self.tar)[1]


def index_shard(task: IndexTask) -> Receipt:
    """Write the index of a tar; its receipt exists afterwards.

    Raises:
        StorageError: the tar cannot be read or the index cannot be written.
    """
    began, storage = time.time(), open_storage(task.url)
    folder, name = split_url(task.tar)
    reader = open_storage(folder).fetch(name)
    prefix = f"{name.removesuffix('.tar')}/" if task.options.prefix_keys else ""
    walk, table, verdicts = Walk(reader, prefix=prefix), _Table(task.shard), []
    try:
        for at in walk:
            item = Item(key=at.key if isinstance(at, Group) else "", source=f"{name}/{at.name}")
            notify(Progress(shard=task.shard, item=item, items=0, frames=table.frames))
            verdicts += [_refused(task, at)] if isinstance(at, Refused) else list(_add(table, task, at))
    finally:
        reader.close()
    notify(Progress(shard=task.shard, item=None, items=1, frames=table.frames))
    verdicts += _pickles(task, walk)
    run = {"began": round(began, 3), "seconds": round(time.time() - began, 3), "host": platform.node()}
    run["ignored"] = dict(sorted(walk.ignored.items()))
    return table.write(storage, walk, task, verdicts=verdicts, run=run)


class _Table:
    """The records of a tar's samples."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self.keys: dict[str, str] = {}  # → name in the tar
        self._keys_size = self._info_size = self.frames = self._payload = 0
        self._samples: list[tuple[Any, ...]] = []
        self._members: list[tuple[Any, ...]] = []
        self._rows: list[Any] = [np.empty(0, FRAME)]
        self._infos: list[bytes] = []

    def add(self, key: str, name: str, found: Found) -> None:
        size = len(key.encode())
        where = (self._shard, len(self.keys), found.offset, found.size)
        what = (len(found.rows), 0, found.fps, found.height, found.width)
        info = (to_json({"key": key, **found.info}) + "\n").encode()
        self._samples.append((*where, *what, size, self.frames, key_hash(key)))
        self._members.append((self._info_size, len(info), self._keys_size, size, b""))
        self._rows.append(found.rows)
        self._infos.append(info)
        self.keys[key] = name
        self.frames += len(found.rows)
        self._payload += int(np.sum(found.rows["size"])) if len(set(found.rows["offset"].tolist())) > 1 else found.size
        self._keys_size += size
        self._info_size += len(info)

    def write(
        self, storage: Storage, walk: Walk, task: IndexTask, *, verdicts: list[Verdict], run: Mapping[str, Any]
    ) -> Receipt:
        """Publish descriptions, index and receipt."""
        name = stem(FOLDER, task.shard)
        idx = build_idx(
            shard=task.shard,
            samples=np.array(self._samples, SAMPLE),
            members=np.array(self._members, MEMBER),
            frames=np.concatenate(self._rows),
            keys="".join(self.keys).encode(),
            tar_size=walk.size,
            tar_sha256=walk.sha256,
        )
        storage.put(f"{name}.info", b"".join(self._infos), replace=True)
        index = storage.create(f"{name}.idx")
        try:
            index.write(idx)
            index.publish(replace=True)
        finally:
            index.discard()
        receipt = Receipt(
            column=FOLDER,
            shard=task.shard,
            samples=len(self.keys),
            frames=self.frames,
            payload_bytes=self._payload,
            tar_size=walk.size,
            tar_sha256=walk.sha256,
            idx_size=index.size,
            idx_sha256=index.sha256,
            parameters=asdict(task.options),
            verdicts=tuple(verdicts),
            versions=package_versions(*_PACKAGES),
            run=dict(run),
        )
        write_receipt(storage, receipt)
        return receipt


def _add(table: _Table, task: IndexTask, group: Group) -> Iterator[Verdict]:
    """Index a sample; yields what was wrong with it."""
    source = f"{task.name}/{group.name}"
    if not (group.videos or group.frames or group.texts):
        return  # nothing but members that are ignored
    if group.key in task.skip:
        yield task.skip[group.key]
        return
    if group.key in table.keys:
        text = f"the key {group.key} stands in the tar before, as {table.keys[group.key]}; keys must be unique"
        yield _verdict(group.key, source, "bad", "key-twice", text)
        return
    try:
        found = describe(group, task.options)
    except BadMember as bad:
        yield _verdict(group.key, source, "bad", bad.code, bad.reason)
        return
    table.add(group.key, group.name, found)
    for code, message in found.notes:
        yield _verdict(group.key, source, "warning", code, message)


def _refused(task: IndexTask, refused: Refused) -> Verdict:
    level: Literal["bad", "warning"] = "warning" if refused.code in _WARNINGS else "bad"
    source = f"{task.name}/{refused.name}" if refused.name else task.name
    return _verdict("", source, level, refused.code, refused.message)


def _pickles(task: IndexTask, walk: Walk) -> list[Verdict]:
    found = {kind: count for kind, count in walk.ignored.items() if kind in PICKLES}
    if not found:
        return []
    listed = ", ".join(f"{count} .{kind}" for kind, count in sorted(found.items()))
    text = f"members that only pickle reads are ignored ({listed}): unpickling runs code that the file brings along"
    return [_verdict("", task.name, "warning", "pickle", text)]


def _verdict(key: str, source: str, level: Literal["bad", "warning"], code: str, message: str) -> Verdict:
    return Verdict(key=key, source=source, level=level, code=code, message=message)


def condemn(item: Item, code: str, reason: str) -> Verdict:
    """On a sample that ended or hung workers."""
    return _verdict(item.key, item.source, "bad", code, reason)
