"""How far a data set is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from shards.errors import DataError
from shards.storage import open_storage
from tests.vidprep.farm.sets import FLOW, OPTIONS, write_set
from tests.vidprep.farm.test_beats import write
from vidprep.farm.append import append
from vidprep.farm.beats import Beat
from vidprep.farm.finish import finish
from vidprep.farm.status import Watch
from vidprep.farm.work import Job, run
from vidprep.planning import plan
from vidprep.runs import Part, ignore


def beat(shard: int, *, state: str = "running", age: float = 0, column: str = "rgb") -> Beat:
    now = time.time()
    return Beat(
        column=column,
        shard=shard,
        owner="x",
        host="node7",
        pid=5,
        machine="there",
        state=state,  # type: ignore[arg-type]
        began=now - age - 100,
        at=now - age,
        expires=60,
        done=1,
        total=2,
        item="k1",
        message="disk full" if state == "failed" else "",
    )


def test_from_a_plan_to_the_end(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "videos", (9, 12, 20, 7, 11, 15), bad=False)
    dest = tmp_path / "set"
    with pytest.raises(DataError, match="vidprep pack MANIFEST"):
        Watch(str(dest))
    planned = plan(manifest, dest, workers=1, columns=("rgb", "flow"), flow=FLOW, **{**OPTIONS, "shard_size": 20_000})
    watch = Watch(str(dest))
    rgb, flow = watch.status().columns
    assert (rgb.shards, rgb.done, rgb.waiting, rgb.items, rgb.items_done) == (planned.shards, 0, planned.shards, 6, 0)
    assert (flow.column, flow.shards, flow.in_force) == ("flow", planned.shards, False)
    assert rgb.eta_seconds is None and watch.status().next == f"vidprep run {dest}"

    run(Job(url=str(dest), workers=1), Part(index=0, of=planned.shards), on_event=ignore)
    write(dest, beat(1))
    write(dest, beat(2, state="failed"))
    write(dest, beat(3, age=61))
    rgb = watch.status().columns[0]
    assert (rgb.done, rgb.running, rgb.failed, rgb.lost) == (1, 1, 1, 1)
    assert [(it.shard, it.state) for it in rgb.shards_at] == [(1, "running"), (2, "failed"), (3, "lost")]
    assert rgb.shards_at[1].message == "disk full" and rgb.shards_at[0].host == "node7"
    assert rgb.core_hours >= 0.08 and rgb.eta_seconds is not None and rgb.eta_seconds > 0

    for shard in (1,):
        open_storage(dest).remove(f".run/rgb.{shard:06d}.json")
    run(Job(url=str(dest), workers=1), on_event=ignore)
    assert watch.status().columns[0].done == planned.shards and watch.status().next == f"vidprep finalize {dest}"
    finish(Job(url=str(dest)), began=0, now=0)
    status = watch.status()
    assert status.columns[0].in_force and status.next == f"vidprep run {dest} --column flow" and not status.finished
    run(Job(url=str(dest), column="flow", workers=1), on_event=ignore)
    finish(Job(url=str(dest), column="flow"), began=0, now=0)
    status = watch.status()
    assert status.finished and status.next == "" and status.columns[1].folder == "flow"
    assert not (dest / ".run").exists()

    append(write_set(tmp_path / "more", (7,), bad=False, first=6), dest, workers=1)
    status = watch.status()
    assert not status.finished and status.columns[0].waiting == 1 and status.next == f"vidprep run {dest}"


def test_verdicts_are_counted(manifest: Path, tmp_path: Path) -> None:
    dest = tmp_path / "set"
    plan(manifest, dest, workers=1, **OPTIONS)
    run(Job(url=str(dest), workers=1), on_event=ignore)
    [rgb] = Watch(str(dest)).status().columns
    assert rgb.bad == 1 and rgb.verdicts == {"not-a-video": 1}
