"""Heartbeats: who is at a shard, and when that ends."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from shards.errors import StorageError
from shards.storage import open_storage
from shards.text import to_json
from vidprep.farm import beats
from vidprep.farm.beats import Beat, Leases, read_beats


def write(dest: Path, beat: Beat) -> None:
    open_storage(dest).put(
        beats.name(beat.column, beat.shard), to_json({"beat": 1, **asdict(beat)}).encode(), replace=True
    )


def test_one_of_two_gets_a_shard(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with Leases(storage, "rgb") as first, Leases(storage, "rgb") as second:
        assert first.take(3, 10) and not second.take(3, 10) and first.take(3, 10)
        assert second.take(4, 10)
        holder = second.holder(3)
        assert holder is not None and (holder.shard, holder.total, holder.state) == (3, 10, "running")
        assert second.holder(4) is None
        assert [beat.shard for beat in read_beats(storage, "rgb")] == [3, 4]
        assert list(read_beats(storage, "flow")) == []
        first.release(3)
        assert second.take(3, 10)
    assert list(read_beats(storage)) == [] and not (tmp_path / ".run").exists()


def test_they_are_renewed_with_what_is_done(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with Leases(storage, "rgb", interval=0.05) as leases:
        leases.take(0, 10)
        [first] = read_beats(storage)
        leases.note(0, done=4, frames=99, item="k4")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            [beat] = read_beats(storage)
            if beat.done:
                break
        assert (beat.done, beat.frames, beat.item) == (4, 99, "k4")
        assert beat.at > first.at and beat.began == first.began


def test_a_lost_writers_shard_is_free(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    code = (
        "import os, signal, sys; from shards.storage import open_storage; from vidprep.farm.beats import Leases\n"
        f"leases = Leases(open_storage({str(tmp_path)!r}), 'rgb'); assert leases.take(0, 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[3])
    [left] = read_beats(storage)
    assert not left.is_live(time.time())  # its process is known to be gone
    with Leases(storage, "rgb") as leases:
        assert leases.holder(0) is None and leases.take(0, 1)


def test_of_other_machines_only_time_tells(tmp_path: Path) -> None:
    storage, now = open_storage(tmp_path), time.time()
    there = Beat(
        column="rgb",
        shard=0,
        owner="x",
        host="elsewhere",
        pid=1,
        machine="another",
        state="running",
        began=now,
        at=now,
        expires=60,
        done=0,
        total=1,
    )
    assert there.is_live(now + 59) and not there.is_live(now + 61)
    assert not replace(there, state="failed").is_live(now)
    write(tmp_path, there)
    with Leases(storage, "rgb") as leases:
        assert not leases.take(0, 1)
        write(tmp_path, replace(there, at=now - 61))
        assert leases.take(0, 1)


def test_a_failure_stays_to_be_seen_until_the_shard_is_taken_again(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with Leases(storage, "rgb") as leases:
        leases.take(0, 1)
        leases.fail(0, "no such disk")
    [beat] = read_beats(storage)
    assert (beat.state, beat.message) == ("failed", "no such disk")
    with Leases(storage, "rgb") as leases:
        assert leases.take(0, 1)
        [beat] = read_beats(storage)
        assert (beat.state, beat.message) == ("running", "")


def test_what_is_no_heartbeat_is_left_out_and_taken_over(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.put(beats.name("rgb", 0), b"nonsense")
    assert list(read_beats(storage)) == []
    with Leases(storage, "rgb") as leases:
        assert leases.take(0, 1)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".run").write_text("a file")
    with Leases(open_storage(tmp_path), "rgb") as leases, pytest.raises(StorageError, match="cannot write"):
        leases.take(0, 1)
