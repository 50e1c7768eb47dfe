"""The shards of the rgb column: what is to be written, and when a run has too many bad videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from shards.errors import UserError
from shards.plan import Plan
from shards.receipts import Receipt, Verdict, stem
from shards.storage import Storage
from vidprep.packing.options import PackOptions
from vidprep.packing.planning import shards_of
from vidprep.packing.work import FOLDER, ShardTask, verdict
from vidprep.records import Video
from vidprep.runs import Work
from vidprep.verdicts import repair

_PACK_SHARD = "vidprep.packing.work:pack_shard"
_FIRST_FEW = 5


def rgb_work(
    storage: Storage, plan: Plan, *, roots: Sequence[str] | None, max_bad: float, scratch: str | None = None
) -> Work:
    """The shards of a plan.

    Args:
        roots: as for `vidprep.packing.planning.shards_of`.
        max_bad: share of the planned videos without a frame above which the run ends.
        scratch: folder on the worker's machine that shards are written in before they are published.

    Raises:
        UserError: the plan is not one of videos.
    """
    options = PackOptions.of_plan(plan.options, dest=storage.url)
    again = retried(plan)
    total = len({entry.video["key"] for entry in plan}) if again else sum(1 for _ in plan)
    return Work(
        folder=FOLDER,
        target=_PACK_SHARD,
        total=total,
        shards=partial(_tasks, plan, options, url=storage.url, roots=roots, scratch=scratch),
        condemn=_condemn,
        check=Limit(storage.url, total, max_bad, again),
    )


def _tasks(
    plan: Plan, options: PackOptions, *, url: str, roots: Sequence[str] | None, scratch: str | None
) -> Iterator[tuple[int, int, ShardTask]]:
    for shard, members in shards_of(plan, dest=url, roots=roots):
        yield shard, len(members), ShardTask(url=url, shard=shard, videos=members, options=options, scratch=scratch)


def _condemn(video: Video, code: str, reason: str) -> Verdict:
    return verdict(video, "bad", code, reason, repair(code, video.location))


@dataclass(frozen=True)
class Limit:
    """Ends a run that has too many bad videos. `again`: videos that were retried, with the shard of the last time."""

    url: str
    total: int
    max_bad: float
    again: Mapping[str, int]

    def __call__(self, receipts: list[Receipt], done: int) -> None:
        bad_of = bad_videos(receipts, self.again)
        bad = [found for shard in sorted(bad_of) for found in bad_of[shard]]
        if len(bad) <= self.max_bad * self.total:
            return
        finished = done >= self.total
        counts = ", ".join(f"{count} {code}" for code, count in Counter(f.code for f in bad).most_common())
        few = "\n".join(f"  {f.source}: {f.message} ({f.code})" for f in bad[:_FIRST_FEW])
        named = [f"{stem(FOLDER, shard)}.json" for shard in sorted(bad_of) if bad_of[shard]]
        more = f" and {len(named) - _FIRST_FEW} more" if len(named) > _FIRST_FEW else ""
        enough = f"{min(100.0, -(-1000 * len(bad) // self.total) / 10):g}%" if finished else "100%"
        raise UserError(
            f"{len(bad)} of {self.total} videos give no frame{'' if finished else ' so far'} ({counts}), more than "
            f"--max-bad {100 * self.max_bad:g}% allows. The first:\n{few}\nTo leave them out run the same command "
            f"with --max-bad {enough}; to try mended files again remove the receipts of their shards first, in "
            f"{self.url}: {', '.join(named[:_FIRST_FEW])}{more}. Finished shards are kept"
        )


def bad_videos(receipts: Sequence[Receipt], again: Mapping[str, int]) -> dict[int, list[Verdict]]:
    """Verdicts on videos without a frame, by shard; of a video that was retried only the last one counts."""
    return {
        receipt.shard: [
            found
            for found in receipt.verdicts
            if found.level == "bad" and again.get(found.key, receipt.shard) == receipt.shard
        ]
        for receipt in receipts
    }


def retried(plan: Plan) -> dict[str, int]:
    """Keys of the videos that were put into a further shard, with the last shard that has them."""
    spans = [
        (it["first"], it["first"] + it["shards"]) for it in plan.options.get("appended", ()) if it["why"] == "retry"
    ]
    if not spans:
        return {}
    return {
        str(entry.video["key"]): entry.shard
        for entry in plan
        if any(first <= entry.shard < stop for first, stop in spans)
    }
