"""What worker processes of derived columns do: write one shard from the same shard of other columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.derived import Sources
from shards.errors import UserError
from shards.procs import notify
from shards.receipts import Receipt, Verdict, package_versions
from shards.tarwriter import ShardWriter
from vidprep.farm.scratch import through
from vidprep.runs import Progress, how_it_ran


class BadSample(UserError):  # noqa: N818 - the sample is what is wrong, not the program
    """A sample that this column cannot be made for; `code` is a short word to count by."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{message} ({code})")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A sample of a derived column, as `shards.tarwriter.ShardWriter.add` takes it; `warnings`: code and message."""

    payload: Sequence[bytes] | bytes
    info: Mapping[str, Any] = field(default_factory=dict)
    times_us: npt.NDArray[np.int64] | None = None
    warnings: tuple[tuple[str, str], ...] = ()


class Maker(Protocol):
    """What makes a column. Pickled to the workers.

    Attributes:
        sources: the columns it reads, or "captions".
        packages: whose versions the bytes may depend on.
    """

    packages: ClassVar[tuple[str, ...]]

    @property
    def kind(self) -> str:
        """Key of `shards.columns.COLUMNS`."""

    @property
    def sources(self) -> tuple[str, ...]: ...

    def parameters(self) -> dict[str, Any]:
        """What the bytes depend on besides the sources, as plain JSON values."""

    def make(self, dataset: Dataset, i: int, told: Callable[[int], None]) -> Made:
        """The column's part of sample `i`; `told` is called now and then with the number of finished frames.

        Raises:
            BadSample: there is none.
            DataError: a source is damaged.
        """


@dataclass(frozen=True, kw_only=True)
class DeriveTask:
    """One shard to write. `scratch`, `skip`: as in `vidprep.packing.work.ShardTask`."""

    dataset: Dataset
    maker: Maker
    folder: str
    shard: int
    scratch: str | None = None
    skip: Mapping[str, Verdict] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"shard {self.shard} of {self.folder} in {self.dataset.url}"


@dataclass(frozen=True, kw_only=True)
class At:
    """The sample a worker is at; `source`: of its video, or the key where that is not looked up."""

    key: str
    source: str


def derive_shard(task: DeriveTask) -> Receipt:
    """Write the shard; its receipt exists afterwards.

    Raises:
        DataError: a source is damaged.
        StorageError: it cannot be read or the shard cannot be written.
    """
    began, cpu, dataset, maker = time.time(), time.process_time(), task.dataset, task.maker
    samples = shard_samples(dataset, task.shard)
    sources = Sources(dataset.storage, dataset.meta)
    from_tars = any(name in dataset.meta.columns for name in maker.sources)
    verdicts: list[Verdict] = []
    frames = 0
    with ShardWriter(
        through(dataset.storage, task.scratch),
        task.shard,
        folder=task.folder,
        kind=COLUMNS[maker.kind],
        parameters=maker.parameters(),
        sources={name: sources.sha256(name, task.shard) for name in maker.sources},
        versions=package_versions("vidprep", *maker.packages),
    ) as writer:
        for done, i in enumerate(samples):
            key = dataset.key(i)
            # KEY.json lies in a tar, which is opened only where the column is made from one.
            at = At(key=key, source=str(dataset[i].info.get("source", key)) if from_tars else key)
            record = dataset.records[i]
            fps, size = float(record["fps"]), (int(record["height"]), int(record["width"]))
            tell = _Teller(task.shard, at, done, frames)
            tell(0)
            try:
                if at.key in task.skip:
                    found = task.skip[at.key]
                    raise BadSample(found.code, found.message)
                made = maker.make(dataset, i, tell)
            except BadSample as bad:
                verdicts.append(verdict(at, "bad", bad.code, bad.message))
                writer.add(at.key, {"failed": bad.code}, b"", fps=fps, size=size, failed=True)
                continue
            verdicts += [verdict(at, "warning", code, message) for code, message in made.warnings]
            writer.add(at.key, made.info, made.payload, fps=fps, size=size, times_us=made.times_us)
            frames += int(record["frames"])
        notify(Progress(shard=task.shard, item=None, items=len(samples), frames=frames))
        run = how_it_ran(began, cpu)
        return writer.finish(verdicts=verdicts, run=run)


def shard_samples(dataset: Dataset, shard: int) -> range:
    """Numbers of the samples in a shard."""
    first, count = dataset.shard_span(shard)
    return range(first, first + count)


def verdict(at: At, level: Literal["bad", "warning"], code: str, message: str) -> Verdict:
    return Verdict(key=at.key, source=at.source, level=level, code=code, message=message)


@dataclass(frozen=True)
class _Teller:
    shard: int
    at: At
    items: int
    frames: int

    def __call__(self, frames: int) -> None:
        notify(Progress(shard=self.shard, item=self.at, items=self.items, frames=self.frames + frames))
