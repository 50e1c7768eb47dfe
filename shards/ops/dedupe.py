"""Finding samples that show the same: exact copies, and copies that were compressed, scaled or cut differently."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.dataset import Dataset
from shards.errors import UserError
from shards.ops.build import OnceMore, OnEvent
from shards.ops.compare import Likeness, compare
from shards.ops.items import Ints, Items, exact_pairs, find_items, find_twins, representatives
from shards.ops.pictures import FrameHashes, Thumbnails, hash_video
from shards.ops.suspects import NO_SUSPECTS, Suspects, find_suspects
from shards.procs import notify, run_tasks
from shards.storage import open_storage
from shards.text import to_json

THRESHOLD = 0.8
LEAST_SHARE = 0.5

_HASH = "shards.ops.dedupe:hash_task"
_COMPARE = "shards.ops.dedupe:compare_task"
_TASK = 256  # videos or pairs of one task
_CACHED = 256  # videos whose thumbnails are kept meanwhile


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two samples that show the same.

    Attributes:
        drop: key of the one to drop; keep: of the other; keep_in: the other data set, where it is there.
        exact: their frames are the same bytes.
        score: 1 where exact; see `shards.ops.compare.Likeness`.
        offset: seconds: what `drop` shows at t, `keep` shows at t − offset.
        overlap: seconds that both show.
    """

    drop: str
    keep: str
    exact: bool
    score: float
    offset: float
    overlap: float
    keep_in: str | None = None


@dataclass(frozen=True, kw_only=True)
class DedupeReport:
    """What was found.

    Attributes:
        url, splits, against, threshold: what was asked.
        samples: how many were compared; in_several: samples that are in several of the splits themselves.
        flat: samples without a frame that tells anything (black, say): only exact copies of them are found.
        compared: pairs whose pictures were compared.
        capped: samples with more similar ones than were compared; with many of them the list may not be complete.
        pairs: most similar first.
        drop: keys of samples to drop, so that no pair is left; keep: all others of the data set that were compared.
    """

    url: str
    splits: tuple[str, ...]
    against: str | None
    threshold: float
    samples: int
    in_several: int
    flat: int
    compared: int
    capped: int
    pairs: tuple[Pair, ...]
    drop: tuple[str, ...]
    keep: tuple[str, ...]

    def tree(self) -> dict[str, Any]:
        """For a report file: all but the lists of keys that other files have."""
        return {name: value for name, value in asdict(self).items() if name != "keep"}

    def __str__(self) -> str:
        exact = sum(pair.exact for pair in self.pairs)
        return (
            f"{self.url}: {self.samples:,} samples, {exact:,} exact and {len(self.pairs) - exact:,} near duplicates; "
            f"{len(self.drop):,} to drop"
        )


def dedupe(
    url: str | Path,
    *,
    splits: Sequence[str] = (),
    against: str | Path | None = None,
    threshold: float = THRESHOLD,
    least_share: float = LEAST_SHARE,
    column: str = "rgb",
    workers: int = 1,
    on_event: OnEvent | None = None,
) -> DedupeReport:
    """Find duplicates in a data set, across its splits, or between two data sets.

    Args:
        splits: only pairs across these splits; of a pair the sample in the split named first is dropped, so name the
            training split first. Without splits and `against` all pairs; of each the first sample stays.
        against: only pairs with this data set; the sample of `url` is dropped.
        threshold: score from which on two samples show the same; near duplicates are not looked for above 1.
        least_share: of the shorter of two videos that both must show.
        column: of frames.
        workers: processes.

    Raises:
        UserError: no such data set, split or column, or a wrong threshold.
        DataError: stored frames are damaged.
    """
    if not threshold > 0.5:
        raise UserError(f"threshold is {threshold}; scores of unlike videos reach 0.5: give more than that, up to 1")
    if not 0 < least_share <= 1:
        raise UserError(f"least_share is {least_share}; it must be above 0 and at most 1")
    if len(splits) == 1 or len(set(splits)) < len(splits):
        raise UserError(f"splits are {', '.join(splits)}; give two or more different ones, such as train,test")
    tell = on_event or (lambda event: None)
    items, several = find_items(url, splits, against, column)
    across = bool(splits) or against is not None
    twins = find_twins(items)
    exact = list(exact_pairs(items, twins, across=across))
    first = representatives(items, twins, across=across)
    near: list[tuple[int, int, Likeness]] = []
    suspects, flat = NO_SUSPECTS, 0
    if threshold <= 1 and len(first) > 1:
        tell({"event": "start", "total": len(first), "done": 0})
        hashes = _hash(items, first, workers, tell)
        flat = sum(not len(video.times) for video in hashes)
        suspects = find_suspects(hashes, items.rank[first], items.owner[first], across=across)
        suspects = suspects.where(twins[first[suspects.first]] != twins[first[suspects.second]])
        tell({"event": "note", "message": f"comparing {len(suspects.first):,} pairs of similar samples"})
        near = _compare(items, first, suspects, threshold, least_share, workers)
    return _report(
        items,
        exact,
        near,
        twins,
        url=items.datasets[0].url,
        splits=tuple(splits),
        against=None if against is None else items.datasets[1].url,
        threshold=threshold,
        in_several=several,
        flat=flat,
        compared=len(suspects.first),
        capped=suspects.capped,
        across=across,
    )


@dataclass(frozen=True)
class HashTask:
    """Videos to hash: their places, data set and numbers."""

    places: tuple[int, ...]
    dataset: Dataset
    numbers: tuple[int, ...]

    def __repr__(self) -> str:
        return f"{len(self.numbers)} samples of {self.dataset.url} from {self.numbers[0]} on"


def hash_task(task: HashTask) -> list[tuple[int, FrameHashes]]:
    """Place and hashes of every video of a task."""
    done = []
    for place, number in zip(task.places, task.numbers, strict=True):
        done.append((place, hash_video(task.dataset, number)))
        notify(len(done))
    return done


def _hash(items: Items, first: Ints, workers: int, tell: OnEvent) -> list[FrameHashes]:
    found: dict[int, FrameHashes] = {}

    def tasks() -> Iterator[HashTask]:
        for d, dataset in enumerate(items.datasets):
            places = np.flatnonzero(items.dataset[first] == d)
            for start in range(0, len(places), _TASK):
                part = places[start : start + _TASK]
                yield HashTask(tuple(part.tolist()), dataset, tuple(items.number[first[part]].tolist()))

    for done in _run(_HASH, hash_task, tasks(), workers):
        found.update(done)
        tell({"event": "progress", "done": len(found), "total": len(first)})
    return [found[place] for place in range(len(first))]


@dataclass(frozen=True)
class CompareTask:
    """Pairs to compare: ((data set, number) of both, offset) of each, and the least share of the shorter video."""

    datasets: tuple[Dataset, ...]
    pairs: tuple[tuple[tuple[int, int], tuple[int, int], float], ...]
    places: tuple[int, ...]
    threshold: float
    least_share: float

    def __repr__(self) -> str:
        return f"pairs {self.places[0]} to {self.places[-1]}"


def compare_task(task: CompareTask) -> list[tuple[int, Likeness]]:
    """Place and likeness of the pairs that reach the threshold."""
    done = []
    recent: OrderedDict[tuple[int, int], Thumbnails] = OrderedDict()

    def thumbnails(at: tuple[int, int]) -> Thumbnails:
        if at not in recent:
            recent[at] = Thumbnails(task.datasets[at[0]], at[1])
        recent.move_to_end(at)
        while len(recent) > _CACHED:
            recent.popitem(last=False)
        return recent[at]

    for place, (first, second, offset) in zip(task.places, task.pairs, strict=True):
        a, b = thumbnails(first), thumbnails(second)
        found = compare(
            a,
            b,
            lengths=(a.length, b.length),
            offsets=tuple(dict.fromkeys((offset, 0.0))),
            least_score=task.threshold,
            least_share=task.least_share,
        )
        notify(place)
        if found is not None:
            done.append((place, found))
    return done


def _length(dataset: Dataset, i: int) -> float:
    times = dataset.times_us(i, dataset.columns[0])
    return float(times[-1]) / 1e6


def _compare(
    items: Items, first: Ints, suspects: Suspects, threshold: float, least_share: float, workers: int
) -> list[tuple[int, int, Likeness]]:
    a, b = first[suspects.first], first[suspects.second]

    def tasks() -> Iterator[CompareTask]:
        for start in range(0, len(a), _TASK):
            places = tuple(range(start, min(start + _TASK, len(a))))
            pairs = tuple((_at(items, a[p]), _at(items, b[p]), float(suspects.offset[p])) for p in places)
            yield CompareTask(items.datasets, pairs, places, threshold, least_share)

    found = [line for done in _run(_COMPARE, compare_task, tasks(), workers) for line in done]
    return [(int(a[place]), int(b[place]), likeness) for place, likeness in sorted(found, key=lambda line: line[0])]


def _at(items: Items, item: Any) -> tuple[int, int]:
    return int(items.dataset[item]), int(items.number[item])


def _run(target: str, function: Callable[[Any], Any], tasks: Iterator[Any], workers: int) -> Iterator[Any]:
    if workers <= 1:
        yield from map(function, tasks)
    else:
        yield from run_tasks(target, tasks, workers=workers, on_lost=OnceMore())


def _report(
    items: Items,
    exact: Sequence[tuple[int, int]],
    near: Sequence[tuple[int, int, Likeness]],
    twins: Ints,
    *,
    across: bool,
    **asked: Any,
) -> DedupeReport:
    """Of near duplicates the first one is dropped across ranks, the later one otherwise; its twins with it."""
    lines = []
    for drop, keep in exact:
        dataset, number = items.datasets[int(items.dataset[drop])], int(items.number[drop])
        lines.append((drop, keep, True, Likeness(1.0, 0.0, round(_length(dataset, number), 3))))
    for a, b, it in near:
        drop, keep, offset = (a, b, it.offset) if across else (b, a, -it.offset)
        lines.append((drop, keep, False, Likeness(round(it.score, 4), offset, it.overlap)))
    lines.sort(key=lambda line: (-line[2], -line[3].score, line[0], line[1]))
    dropped = _dropped(items, lines, twins, across=across)
    main = np.flatnonzero(items.dataset == 0).tolist()
    return DedupeReport(
        samples=len(items),
        pairs=tuple(
            Pair(
                drop=items.key(drop),
                keep=items.key(keep),
                exact=same,
                score=it.score,
                offset=it.offset,
                overlap=it.overlap,
                keep_in=items.datasets[1].url if items.dataset[keep] == 1 else None,
            )
            for drop, keep, same, it in lines
        ),
        drop=tuple(items.key(item) for item in main if item in dropped),
        keep=tuple(items.key(item) for item in main if item not in dropped),
        **asked,
    )


def _dropped(items: Items, lines: Sequence[tuple[int, int, bool, Likeness]], twins: Ints, *, across: bool) -> set[int]:
    """So few samples that no pair is left: in order of samples, one goes if it is like one that stays."""
    if across:
        gone = {drop for drop, *_ in lines}
        near = {(int(twins[drop]), int(items.rank[drop])) for drop, _, same, _ in lines if not same}
        gone.update(i for i, at in enumerate(zip(twins.tolist(), items.rank.tolist(), strict=True)) if at in near)
        return gone
    partners: dict[int, list[int]] = {}
    for drop, keep, *_ in lines:
        partners.setdefault(max(drop, keep), []).append(min(drop, keep))
    gone = set()
    for item in sorted(partners):
        if any(other not in gone for other in partners[item]):
            gone.add(item)
    return gone


def write_lists(
    report: DedupeReport,
    *,
    output: Path | None = None,
    drop_list: Path | None = None,
    keep_list: Path | None = None,
) -> None:
    """Write a report as JSON, and the keys to drop or to keep, one a line; each file in one step.

    Raises:
        StorageError: a file cannot be written.
    """
    contents = {
        output: to_json(report.tree(), indent=1) + "\n",
        drop_list: "".join(f"{key}\n" for key in report.drop),
        keep_list: "".join(f"{key}\n" for key in report.keep),
    }
    for path, text in contents.items():
        if path is not None:
            open_storage(path.absolute().parent).put(path.name, text.encode(), replace=True)
