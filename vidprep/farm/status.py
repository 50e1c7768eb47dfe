"""How far a planned data set is: from its plan, receipts and heartbeats, whoever works on it and wherever."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from shards.meta import NAME as META
from shards.meta import Meta, read_meta
from shards.plan import read_plan
from shards.receipts import Receipt, read_receipt
from shards.storage import MissingError, Storage, open_storage
from vidprep.deriving.makers import ColumnPlan, column_plans
from vidprep.farm.beats import Beat, read_beats
from vidprep.packing.shards import bad_videos, retried
from vidprep.packing.work import FOLDER


@dataclass(frozen=True, kw_only=True)
class Running:
    """A shard with a heartbeat. `age`: seconds since the last beat; the rest as in `vidprep.farm.beats.Beat`."""

    shard: int
    state: Literal["running", "failed", "lost"]
    host: str
    pid: int
    done: int
    total: int
    item: str | None
    age: float
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class ColumnStatus:
    """One column.

    Attributes:
        column: its name; folder: where its shards are, None where that depends on columns that are not finished.
        shards: planned; done, running, failed, lost: how many of them; the others wait.
        items: videos (of derived columns: samples); items_done: finished, and those that running shards have done.
        bad: items without a sample; verdicts: how many of each code.
        core_hours: of finished and running shards together.
        eta_seconds: at the number of shards that are running now; None where nothing runs or nothing is known yet.
        in_force: dataset.json has the column with all these shards.
        shards_at: those with a heartbeat.
    """

    column: str
    folder: str | None
    shards: int
    done: int
    running: int
    failed: int
    lost: int
    items: int
    items_done: int
    bad: int
    verdicts: Mapping[str, int]
    core_hours: float
    eta_seconds: float | None
    in_force: bool
    shards_at: tuple[Running, ...] = ()

    @property
    def waiting(self) -> int:
        return self.shards - self.done - self.running - self.failed - self.lost


@dataclass(frozen=True, kw_only=True)
class Status:
    """See `Watch.status`. `next`: the command that goes on; empty where all is done."""

    url: str
    name: str
    columns: tuple[ColumnStatus, ...]
    next: str
    at: float = field(compare=False)

    @property
    def finished(self) -> bool:
        return all(column.in_force for column in self.columns)


class Watch:
    """Looks at a data set again and again; finished shards are read once.

    Raises:
        DataError: there is no plan at this place.
    """

    def __init__(self, url: str) -> None:
        self._storage = open_storage(url)
        self._receipts: dict[tuple[str, int], Receipt] = {}
        read_plan(self._storage)

    def status(self) -> Status:
        """How far it is now."""
        storage, now = self._storage, time.time()
        plan = read_plan(storage)
        sizes = Counter(entry.shard for entry in plan)
        meta = read_meta(storage) if storage.exists(META) else None
        beats = list(read_beats(storage))
        columns = [self._column(FOLDER, FOLDER, dict(sizes), meta, beats, now, again=retried(plan))]
        for planned in column_plans(storage):
            folder = self._folder(planned, meta, beats)
            samples = self._samples(sizes)
            columns.append(self._column(planned.column, folder, samples, meta, beats, now, again={}))
        return Status(
            url=storage.url,
            name=str(plan.options.get("name", "")),
            columns=tuple(columns),
            next=_next(storage, columns),
            at=now,
        )

    def _samples(self, planned: Mapping[int, int]) -> dict[int, int]:
        """Samples of every shard: what the rgb column holds, for a shard that is not there as many as are planned."""
        found = {shard: self._receipts.get((FOLDER, shard)) for shard in planned}
        return {shard: planned[shard] if it is None else it.samples for shard, it in found.items()}

    def _folder(self, planned: ColumnPlan, meta: Meta | None, beats: Sequence[Beat]) -> str | None:
        """The folder that is being written, else the one in force, else the column's own name."""
        parameters = planned.maker().parameters()
        known = {planned.column, *(beat.column for beat in beats)}
        if meta is not None and planned.column in meta.columns:
            known.add(meta.columns[planned.column].folder)
        known |= {name for name in self._storage.folders() if name.startswith(f"{planned.column}-")}
        for folder in sorted(known):
            if folder != planned.column and not folder.startswith(f"{planned.column}-"):
                continue
            first = next(iter(_numbers(self._storage, folder)), None)
            if first is None:
                continue
            receipt = self._receipt(folder, first)
            if receipt is not None and dict(receipt.parameters) == parameters:
                return folder
        own = (planned.column, f"{planned.column}-")
        return next((beat.column for beat in beats if beat.column == own[0] or beat.column.startswith(own[1])), None)

    def _column(
        self,
        name: str,
        folder: str | None,
        sizes: Mapping[int, int],
        meta: Meta | None,
        beats: Sequence[Beat],
        now: float,
        *,
        again: Mapping[str, int],
    ) -> ColumnStatus:
        numbers = [] if folder is None else [shard for shard in _numbers(self._storage, folder) if shard in sizes]
        new = [shard for shard in numbers if (folder, shard) not in self._receipts]
        self._storage.together([partial(self._receipt, str(folder), shard) for shard in new])
        receipts = [it for shard in numbers if (it := self._receipt(str(folder), shard)) is not None]
        done = {receipt.shard for receipt in receipts}
        at = [_running(beat, now) for beat in beats if beat.column == folder and beat.shard not in done]
        live = [it for it in at if it.state == "running"]
        items = sum(sizes.values())
        items_done = sum(sizes[shard] for shard in done)
        seconds = sum(float(receipt.run.get("seconds", 0)) for receipt in receipts)
        spent = sum(now - beat.began for beat in beats if beat.column == folder and beat.shard not in done)
        begun = items_done + sum(it.done for it in live)
        each = (seconds + spent) / begun if begun else None
        bad = [found for verdicts in bad_videos(receipts, again).values() for found in verdicts]
        present = None if meta is None else meta.columns.get(name)
        return ColumnStatus(
            column=name,
            folder=folder,
            shards=len(sizes),
            done=len(done),
            running=len(live),
            failed=sum(it.state == "failed" for it in at),
            lost=sum(it.state == "lost" for it in at),
            items=items,
            items_done=begun,
            bad=len(bad),
            verdicts=dict(Counter(found.code for r in receipts for found in r.verdicts).most_common()),
            core_hours=round((seconds + spent) / 3600, 4),
            eta_seconds=round((items - begun) * each / len(live)) if live and each is not None else None,
            in_force=present is not None
            and present.folder == folder
            and self._covers(folder, sizes, meta)
            and len(done) == len(sizes),
            shards_at=tuple(sorted(at, key=lambda it: it.shard)),
        )

    def _covers(self, folder: str, sizes: Mapping[int, int], meta: Meta | None) -> bool:
        """Whether index.bin is of all shards: it has 64 bytes a sample and a shard besides its header."""
        if meta is None or meta.shards != len(sizes):
            return False
        try:
            return self._storage.size(f"{folder}/index.bin") == 64 * (1 + meta.samples + meta.shards)
        except MissingError:
            return False

    def _receipt(self, folder: str, shard: int) -> Receipt | None:
        if (folder, shard) not in self._receipts:
            try:
                self._receipts[folder, shard] = read_receipt(self._storage, folder, shard)
            except MissingError:  # removed since it was listed
                return None
        return self._receipts[folder, shard]


def _numbers(storage: Storage, folder: str) -> list[int]:
    """Shards that have a receipt."""
    parts = (name.partition(".") for name in storage.list(folder))
    return [int(number) for number, _, extension in parts if extension == "json" and number.isdecimal()]


def _running(beat: Beat, now: float) -> Running:
    state: Literal["running", "failed", "lost"] = "failed"
    if beat.state == "running":
        state = "running" if beat.is_live(now) else "lost"
    return Running(
        shard=beat.shard,
        state=state,
        host=beat.host,
        pid=beat.pid,
        done=beat.done,
        total=beat.total,
        item=beat.item,
        age=round(max(0.0, now - beat.at), 1),
        message=beat.message,
    )


def _next(storage: Storage, columns: Sequence[ColumnStatus]) -> str:
    """The command that goes on."""
    for column in columns:
        of = "" if column.column == FOLDER else f" --column {column.column}"
        if column.done + column.running < column.shards:
            return f"vidprep run {storage.url}{of}"
        if column.running:
            return f"vidprep status {storage.url} --watch"
        if not column.in_force:
            return f"vidprep finalize {storage.url}"
    return ""
