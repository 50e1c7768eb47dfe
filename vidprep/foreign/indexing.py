"""`vidprep index-shards`: an index for WebDataset tars that other tools wrote, which stay where and as they are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import UserError
from shards.foreign import Tars, read_tars, split_url, write_tars
from shards.meta import Meta
from shards.receipts import Receipt
from shards.storage import MissingError, Storage, open_storage
from vidprep.classes import read_classes
from vidprep.foreign.finishing import PRODUCER, finish, read_shard
from vidprep.foreign.members import VIDEOS, Group, Walk
from vidprep.foreign.places import find_tars
from vidprep.foreign.samples import KINDS, IndexOptions
from vidprep.foreign.shards import FOLDER, IndexTask, condemn
from vidprep.runs import OnEvent, ShardRun, Work, ignore, worker_count

_TARGET = "vidprep.foreign.shards:index_shard"
_FIRST_FEW = 5


@dataclass(frozen=True, kw_only=True)
class ForeignReport:
    """What was indexed.

    Attributes:
        url: of the data set. tars, samples, frames: counts. bytes: of the tars.
        bad: verdicts of this level; warned: samples and tars with warnings. verdicts: how many of each code.
        ignored: members of no use here, by extension. seconds: this run took.
    """

    url: str
    kind: str
    tars: int
    samples: int
    frames: int
    bytes: int
    bad: int
    warned: int
    classes: int
    verdicts: Mapping[str, int]
    ignored: Mapping[str, int]
    seconds: float

    def __str__(self) -> str:
        counts = f"; verdicts: {', '.join(f'{n} {code}' for code, n in self.verdicts.items())}" if self.verdicts else ""
        left = ", ".join(f"{count} .{kind}" for kind, count in self.ignored.items())
        return (
            f"{self.url}: {self.samples:,} samples ({self.kind}) with {self.frames:,} frames in {self.tars:,} tars, "
            f"{self.classes:,} classes; {self.bad} bad{counts}{f'; ignored members: {left}' if left else ''}"
        )


def index_shards(
    urls: Sequence[str | Path],
    dest: str | Path | None = None,
    *,
    kind: str | None = None,
    fps: float = 25.0,
    label_field: str | None = None,
    caption_field: str | None = None,
    group_field: str | None = None,
    prefix_keys: bool = False,
    classes: str | Path | None = None,
    splits: Sequence[tuple[str, str]] = (),
    name: str | None = None,
    workers: int | None = None,
    max_bad: float = 0.02,
    timeout: float = 600,
    on_event: OnEvent | None = None,
) -> ForeignReport:
    """Index tars; going on where a run stopped. Further tars may be named behind those of an earlier run.

    Args:
        urls: see `vidprep.foreign.places.find_tars`.
        dest: folder of the index; None: the folder that all tars lie in.
        kind: "video" or "jpegs" (sequences of numbered JPEGs); None: what the first sample of a tar is.
        fps: of JPEG sequences whose JSON does not say theirs.
        label_field, caption_field, group_field: fields of the JSON, see `vidprep.foreign.samples.IndexOptions`.
        prefix_keys: put the name of its tar before every key, for tars that use the same keys.
        classes: class table, which numbers as labels refer to.
        splits: (name, pattern of names of tars) pairs.
        name: what reports call the data set; the folder's name by default.
        workers: processes; one a core by default.
        max_bad: share of bad samples above which nothing is put in force.
        timeout: seconds without progress after which a sample is given up.
        on_event: as in `vidprep.pack.pack`; items are tars.

    Raises:
        UserError: wrong options, no tar, no sample, keys that occur in two tars, too many bad samples.
        StorageError: a tar cannot be read or the index cannot be written.
    """
    began, tell = time.monotonic(), on_event or ignore
    if kind not in (None, *KINDS):
        raise UserError(f"kind is {kind!r}; allowed are {' and '.join(KINDS)}")
    if not 0 < fps < 1000 or not 0 <= max_bad <= 1:
        raise UserError(f"fps is {fps} and max_bad {max_bad}; allowed are 0 to 1000, and a share from 0 to 1")
    table = None if classes is None else read_classes(classes)
    found = find_tars(urls)
    storage = open_storage(_common_folder(found) if dest is None else dest)
    options = IndexOptions(
        kind=kind or _kind(storage, found),
        fps=float(fps),
        label_field=label_field,
        caption_field=caption_field,
        group_field=group_field,
        prefix_keys=prefix_keys,
    )
    tars = _plan(storage, found, options)
    run = ShardRun(
        storage,
        Work(
            folder=FOLDER,
            target=_TARGET,
            total=len(found),
            shards=lambda: _tasks(storage, tars, options),
            condemn=condemn,
            check=_Check(storage, tars, max_bad),
        ),
        workers=worker_count(workers),
        timeout=timeout,
        tell=tell,
    )
    run.write()
    unused = [split for split, pattern in splits if not any(_matches(it, pattern) for it in found)]
    if unused:
        raise UserError(f"no tar is of split {unused[0]}: its pattern fits none of {split_url(found[0])[1]}, …")
    name = name or storage.url.rstrip("/").rpartition("/")[2] or "data"
    meta = finish(storage, tars, name=name, splits=splits, classes=table)
    report = _report(storage, meta, run.receipts, options, seconds=time.monotonic() - began)
    tell({"event": "done", "message": str(report), **asdict(report)})
    return report


def _matches(url: str, pattern: str) -> bool:
    return fnmatchcase(split_url(url)[1], pattern)


def _common_folder(tars: Sequence[str]) -> str:
    folders = sorted({split_url(tar)[0] for tar in tars})
    if len(folders) > 1:
        raise UserError(
            f"the tars lie in {len(folders)} folders ({folders[0]}, {folders[1]}, …); name one with -o DEST"
        )
    return folders[0]


def _kind(storage: Storage, tars: Sequence[str]) -> str:
    """What an earlier run took the tars for, else what the first sample is."""
    try:
        return str(read_tars(storage, FOLDER).options["kind"])
    except MissingError:
        pass
    for tar in tars:
        folder, name = split_url(tar)
        reader = open_storage(folder).open(name)
        try:
            for group in Walk(reader):
                if isinstance(group, Group) and (group.videos or group.frames):
                    return "video" if group.videos else "jpegs"
        finally:
            reader.close()
    known = ", ".join(f".{it}" for it in VIDEOS)
    raise UserError(f"no sample of the {len(tars)} tars has a video ({known}) or numbered JPEGs (KEY.000.jpg, …)")


def _plan(storage: Storage, tars: Sequence[str], options: IndexOptions) -> Tars:
    """Fix which tar is which shard, or compare with what an earlier run fixed."""
    own = storage.url.rstrip("/")
    names = [split_url(tar)[1] if split_url(tar)[0] == own else tar for tar in tars]
    try:
        present = read_tars(storage, FOLDER)
    except MissingError:
        if storage.exists("dataset.json") or storage.list(FOLDER):
            raise UserError(
                f"{storage.url} holds a data set that {PRODUCER} did not make; choose another DEST"
            ) from None
        write_tars(storage, FOLDER, asdict(options), names)
        return read_tars(storage, FOLDER)
    for option, value in asdict(options).items():
        if present.options.get(option) != value:
            raise UserError(
                f"{storage.url} was indexed with {option} {present.options.get(option)}, this command asks for "
                f"{value}; give the same, or another DEST"
            )
    if names[: len(present.names)] != list(present.names):
        raise UserError(
            f"{storage.url} is the index of {len(present.names)} other tars, or in another order; finished "
            "shards never change: name those first and in their order, new ones behind them, or choose another DEST"
        )
    if len(names) > len(present.names):
        write_tars(storage, FOLDER, asdict(options), names)
    return read_tars(storage, FOLDER)


def _tasks(storage: Storage, tars: Tars, options: IndexOptions) -> Iterator[tuple[int, int, IndexTask]]:
    for shard in range(len(tars.names)):
        yield shard, 1, IndexTask(url=storage.url, shard=shard, tar=tars.where(shard), options=options)


class _Check:
    """Called after every shard: ends the run where keys clash or too many samples are bad."""

    def __init__(self, storage: Storage, tars: Tars, max_bad: float) -> None:
        self._storage, self._tars, self._max_bad = storage, tars, max_bad
        self._hashes: dict[int, npt.NDArray[np.uint64]] = {}  # of keys, by shard
        self._compared = 0

    def __call__(self, receipts: list[Receipt], done: int) -> None:
        for receipt in receipts:
            if receipt.shard not in self._hashes:
                self._hashes[receipt.shard] = read_shard(self._storage, receipt.shard).samples["key_hash"].copy()
        is_last = done == len(self._tars.names)
        # Early, for clashes show in the first tars already, and seldom, for all keys are compared.
        if len(self._hashes) >= 2 * self._compared or is_last:
            self._compared = len(self._hashes)
            self._compare()
        if is_last:
            self._limit(receipts)

    def _compare(self) -> None:
        hashes = np.concatenate([np.empty(0, np.uint64), *self._hashes.values()])
        values, counts = np.unique(hashes, return_counts=True)
        if not (counts > 1).any():
            return
        wanted = values[counts > 1][0]
        one, other, *_ = sorted(shard for shard, found in self._hashes.items() if wanted in found)
        place = int(np.flatnonzero(self._hashes[one] == wanted)[0])
        raise UserError(
            f"key {read_shard(self._storage, one).key(place)} stands in {self._tars.where(one)} and in "
            f"{self._tars.where(other)}; keys must be unique in a data set: --prefix-keys puts the name of its tar "
            "before every key; give it another DEST, or remove this one's folder rgb first"
        )

    def _limit(self, receipts: Sequence[Receipt]) -> None:
        bad = [it for receipt in receipts for it in receipt.verdicts if it.level == "bad"]
        total = len(bad) + sum(receipt.samples for receipt in receipts)
        if len(bad) <= self._max_bad * total or len(bad) == total:
            return
        counts = ", ".join(f"{count} {code}" for code, count in Counter(it.code for it in bad).most_common())
        few = "\n".join(f"  {it.source}: {it.message} ({it.code})" for it in bad[:_FIRST_FEW])
        raise UserError(
            f"{len(bad)} of {total} samples are bad ({counts}), more than --max-bad {100 * self._max_bad:g}% allows. "
            f"The first:\n{few}\nTo leave them out run the same command with --max-bad 100%; finished indexes are kept"
        )


def _report(
    storage: Storage, meta: Meta, receipts: Sequence[Receipt], options: IndexOptions, *, seconds: float
) -> ForeignReport:
    verdicts = [it for receipt in receipts for it in receipt.verdicts]
    ignored: Counter[str] = Counter()
    for receipt in receipts:
        counts: Mapping[str, Any] = receipt.run.get("ignored", {})
        ignored.update(counts)
    return ForeignReport(
        url=storage.url,
        kind=options.kind,
        tars=len(receipts),
        samples=meta.samples,
        frames=sum(receipt.frames for receipt in receipts),
        bytes=sum(receipt.tar_size for receipt in receipts),
        bad=sum(it.level == "bad" for it in verdicts),
        warned=len({it.source for it in verdicts if it.level == "warning"}),
        classes=len(meta.classes),
        verdicts=dict(Counter(it.code for it in verdicts).most_common()),
        ignored=dict(ignored.most_common()),
        seconds=seconds,
    )
