"""The shards of a derived column: what is to be written, and into which folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shards import captions
from shards.columns import COLUMNS
from shards.dataset import Dataset, open_dataset
from shards.derived import folder_for, source_digests, stale_sources
from shards.errors import UserError
from shards.meta import read_meta
from shards.plan import NAME as PLAN
from shards.plan import read_plan
from shards.receipts import Receipt, Verdict
from shards.samples import SampleTable
from shards.storage import Storage
from vidprep.deriving.makers import ColumnPlan
from vidprep.deriving.work import At, DeriveTask, Maker, shard_samples, verdict
from vidprep.runs import Work

_DERIVE_SHARD = "vidprep.deriving.work:derive_shard"


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """A derived column of a data set as it is now.

    Attributes:
        dataset: with the columns it is made from open.
        plan: of the column; maker: what makes it.
        folder: where its shards are.
    """

    dataset: Dataset
    plan: ColumnPlan
    maker: Maker
    folder: str

    @classmethod
    def of(cls, storage: Storage, plan: ColumnPlan) -> Derivation:
        """Raises UserError: a source is not there, not finished or stale, or the column cannot have this name."""
        maker = plan.maker()
        _check_appended(storage)
        dataset = open_dataset(storage.url, columns=_read(storage, maker))
        _check_name(dataset, maker, plan.column)
        for source in (name for name in maker.sources if name in dataset.meta.columns):
            if stale := stale_sources(dataset.storage, dataset.meta, source):
                raise UserError(
                    f"column {source} of {dataset.url} is stale: {', '.join(stale)} changed since; regenerate it first "
                    f"with {dataset.meta.columns[source].producer}"
                )
        digests = source_digests(dataset.storage, dataset.meta, maker.sources)
        folder = folder_for(dataset.storage, dataset.meta, plan.column, parameters=maker.parameters(), digests=digests)
        return cls(dataset=dataset, plan=plan, maker=maker, folder=folder)

    def work(self, *, scratch: str | None = None) -> Work:
        return Work(
            folder=self.folder,
            target=_DERIVE_SHARD,
            total=len(self.dataset),
            shards=lambda: self._tasks(scratch),
            condemn=_condemn,
            check=_take_all,
        )

    def _tasks(self, scratch: str | None) -> Iterator[tuple[int, int, DeriveTask]]:
        for shard in range(self.dataset.meta.shards):
            task = DeriveTask(dataset=self.dataset, maker=self.maker, folder=self.folder, shard=shard, scratch=scratch)
            yield shard, len(shard_samples(self.dataset, shard)), task


def _read(storage: Storage, maker: Maker) -> tuple[str, ...]:
    """The columns that are open while a column is made: its sources; where it is made from captions, the main one."""
    if maker.sources != (captions.SOURCE,):
        return maker.sources
    meta = read_meta(storage)
    if not any(map(captions.lines, (row.captions for row in SampleTable(storage, meta).rows()))):
        raise UserError(
            f"no sample of {storage.url} has a caption, so there is no text to pack; vidprep annotate {storage.url} "
            "FILE brings captions in (docs/columns.md lists the forms of FILE)"
        )
    return (next(iter(meta.columns)),)


def _check_appended(storage: Storage) -> None:
    """Columns are made of the data set's shards; those that were planned since have to be put in force first."""
    if not storage.exists(PLAN) or not (appended := read_plan(storage).options.get("appended")):
        return
    planned = appended[-1]["first"] + appended[-1]["shards"]
    if read_meta(storage).shards < planned:
        raise UserError(
            f"{storage.url} was planned to have {planned} shards and has {read_meta(storage).shards}; write the others "
            f"first: vidprep run {storage.url}, then vidprep finalize {storage.url}"
        )


def _check_name(dataset: Dataset, maker: Maker, column: str) -> None:
    if column in maker.sources:
        raise UserError(f"column {column} cannot be made from itself; choose another --column")
    present = dataset.meta.columns.get(column)
    if present is None:
        return
    old, new = COLUMNS[present.kind], COLUMNS[maker.kind]
    if (old.framed, old.planes, old.text) != (new.framed, new.planes, new.text):
        raise UserError(
            f"{dataset.url} has a column {column} of kind {present.kind}, which a {maker.kind} column would replace; "
            "choose another --column"
        )


def _condemn(at: At, code: str, reason: str) -> Verdict:
    return verdict(at, "bad", code, reason)


def _take_all(receipts: list[Receipt], done: int) -> None:
    """A derived column is never refused for its failures: it says explicitly which samples it does not have."""
