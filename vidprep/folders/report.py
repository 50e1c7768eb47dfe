"""What an import says: how much of a tree became samples, and when too little of it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shards.errors import UserError
from shards.receipts import Receipt, stem
from shards.storage import Storage
from vidprep.records import Video

_FIRST_FEW = 5


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What a data set holds after an import.

    Attributes:
        videos: found; bad: those that have no sample; warned: those imported with a warning.
        samples, frames, bytes: of the rgb column.
        flow: samples with flow, None where no flow was imported; flow_bytes: of the flow column.
        verdicts: how many of each code.
        seconds: this run took.
    """

    url: str
    videos: int
    samples: int
    frames: int
    bytes: int
    shards: int
    bad: int
    warned: int
    flow: int | None
    flow_bytes: int
    verdicts: Mapping[str, int]
    seconds: float

    def __str__(self) -> str:
        flow = "" if self.flow is None else f"; {self.flow:,} with flow, {self.flow_bytes / 1e6:,.1f} MB"
        return (
            f"{self.url}: {self.samples:,} samples, {self.frames:,} frames, {self.bytes / 1e6:,.1f} MB in "
            f"{self.shards} shards{flow}; {self.bad} bad, {self.warned} with warnings"
        )


@dataclass(frozen=True)
class Limit:
    """Stops a run that would publish a column of holes."""

    url: str
    folder: str
    videos: int
    max_bad: float

    def __call__(self, receipts: list[Receipt], done: int) -> None:
        bad = [
            (receipt.shard, it)
            for receipt in sorted(receipts, key=lambda receipt: receipt.shard)
            for it in receipt.verdicts
            if it.level == "bad"
        ]
        if len(bad) <= self.max_bad * self.videos:
            return
        counts = ", ".join(f"{count} {code}" for code, count in Counter(it.code for _, it in bad).most_common())
        few = "\n".join(f"  {it.source}: {it.message} ({it.code})" for _, it in bad[:_FIRST_FEW])
        named = list(dict.fromkeys(f"{stem(self.folder, shard)}.json" for shard, _ in bad))
        more = f" and {len(named) - _FIRST_FEW} more" if len(named) > _FIRST_FEW else ""
        again = f"{', '.join(named[:_FIRST_FEW])}{more}"
        raise UserError(
            f"{len(bad)} of {self.videos} videos cannot be imported into {self.folder}"
            f"{'' if done == self.videos else ' so far'} ({counts}), more than --max-bad {100 * self.max_bad:g}% "
            f"allows. The first:\n{few}\nTo leave them out run the same command with --max-bad 100%; to try mended "
            f"folders again remove the receipts of their shards first, in {self.url}: {again}. "
            "Finished shards are kept"
        )


def import_report(
    storage: Storage, videos: Sequence[Video], receipts: list[Receipt], flow: list[Receipt] | None, *, seconds: float
) -> ImportReport:
    """From the receipts of the columns; `flow`: None where no flow was imported."""
    verdicts = [it for receipt in [*receipts, *(flow or ())] for it in receipt.verdicts]
    failed = sum(it.level == "bad" for receipt in flow or () for it in receipt.verdicts)
    samples = sum(receipt.samples for receipt in receipts)
    return ImportReport(
        url=storage.url,
        videos=len(videos),
        samples=samples,
        frames=sum(receipt.frames for receipt in receipts),
        bytes=sum(receipt.tar_size for receipt in receipts),
        shards=len(receipts),
        bad=sum(it.level == "bad" for receipt in receipts for it in receipt.verdicts),
        warned=len({it.key for it in verdicts if it.level == "warning"}),
        flow=None if flow is None else samples - failed,
        flow_bytes=sum(receipt.tar_size for receipt in flow or ()),
        verdicts=dict(Counter(it.code for it in verdicts).most_common()),
        seconds=seconds,
    )
