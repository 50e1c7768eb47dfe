"""Retried and new videos: new shards at the end, nothing before them changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shards.check import check
from shards.dataset import open_dataset
from shards.errors import DataError, UserError
from shards.samples import annotate
from tests.vidprep.clips import noise_frames, write_clip
from tests.vidprep.farm.sets import FLOW, LABELS, OPTIONS, contents, write_set
from vidprep.derive import add_flow, add_labels
from vidprep.farm.append import append, retry
from vidprep.farm.engines import Local, complete
from vidprep.farm.finish import finish_all
from vidprep.farm.work import Job, run
from vidprep.pack import pack
from vidprep.records import Video, read_manifest, write_manifest
from vidprep.runs import ignore

FINISHED = (".tar", ".idx")


def finished(dest: Path) -> dict[str, str]:
    """Shards and their receipts."""
    return {name: digest for name, digest in contents(dest).items() if "/0" in name}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Two good videos, a broken one and a file that is none, with flow."""
    manifest = write_set(tmp_path / "videos", (9, 6))
    dest = tmp_path / "set"
    pack(manifest, dest, workers=1, columns=("rgb", "flow"), flow=FLOW, **{**OPTIONS, "max_bad": 0.5})
    return dest


def test_new_videos(packed: Path, tmp_path: Path) -> None:
    before, keys = finished(packed), [open_dataset(packed).key(i) for i in range(2)]
    old = list(read_manifest(tmp_path / "videos/set.jsonl"))
    more = list(read_manifest(write_set(tmp_path / "more", (7, 8, 5), bad=False, first=2)))
    more[2] = replace(more[2], label="aa")  # a class that is new, and comes between the others in the alphabet
    write_manifest(tmp_path / "grown.jsonl", [*old[:1], *more, *old[1:]])
    added = append(tmp_path / "grown.jsonl", packed, workers=1)
    assert (added.videos, added.known, added.first) == (3, 3, 1)
    assert "shard 1" in str(added)
    # Readers see nothing of it until it is finished.
    assert len(open_dataset(packed, columns=("rgb", "flow"))) == 2
    with pytest.raises(UserError, match="vidprep run"):
        add_flow(packed, workers=1, **FLOW)
    run(Job(url=str(packed), workers=1), on_event=ignore)
    told: list[str] = []
    assert finish_all(str(packed), max_bad=None, tell=lambda event: told.append(event["message"])) == ("flow",)
    assert "column flow lacks 1 of 2 shards" in told[-1]
    data = open_dataset(packed)
    assert [data.key(i) for i in range(5)] == [*keys, "k2", "k3", "k4"]
    assert data.classes == ("a", "b", "aa") and [data[i].label for i in range(5)] == ["a", "b", "a", "b", "aa"]
    with pytest.raises(DataError, match=r"2 samples .* 5.*run the same vidprep flow"):
        open_dataset(packed, columns=("rgb", "flow"))
    add_flow(packed, workers=1, **FLOW)
    assert len(open_dataset(packed, columns=("rgb", "flow"))) == 5
    add_labels(packed, workers=1, **LABELS)
    assert list(check(packed)) == []
    now = finished(packed)
    assert {name: now[name] for name in before} == before
    assert not append(tmp_path / "grown.jsonl", packed, workers=1).videos


def test_the_command_that_packed_it_finishes_what_was_added(packed: Path, tmp_path: Path) -> None:
    more = write_set(tmp_path / "more", (7,), bad=False, first=2)
    append(more, packed, workers=1)
    again = {**OPTIONS, "max_bad": 0.5}
    report = pack(tmp_path / "videos/set.jsonl", packed, workers=1, columns=("rgb", "flow"), flow=FLOW, **again)
    assert (report.videos, report.samples, report.shards) == (4, 3, 2)
    assert len(open_dataset(packed, columns=("rgb", "flow"))) == 3


def test_retrying_a_mended_video(packed: Path, tmp_path: Path) -> None:
    before = finished(packed)
    annotate_file = tmp_path / "labels.csv"
    annotate_file.write_text("key,label\nk0,b\n")
    annotate(packed, annotate_file)
    with pytest.raises(UserError, match=r"given up as 'timeout'; reasons there are: not-a-video \(1\)"):
        retry(packed, reasons=("timeout",))
    write_clip(tmp_path / "videos/bad.mp4", noise_frames(10, seed=9))
    added = retry(packed, reasons=("not-a-video",), workers=1)
    assert (added.videos, added.first, added.shards) == (1, 1, 1)
    assert retry(packed, workers=1).videos == 0  # it is waiting to be tried already
    complete(Job(url=str(packed), workers=1), Local(), ignore)
    data = open_dataset(packed, columns=("rgb", "flow"))
    assert [data.key(i) for i in range(3)] == ["k0", "k1", "broken"]
    assert [data[i].label for i in range(3)] == ["b", "b", "a"] and data[2].frames == 10
    assert list(check(packed)) == []
    now = finished(packed)
    assert {name: now[name] for name in before} == before
    # It is no bad video any more.
    report = pack(tmp_path / "videos/set.jsonl", packed, workers=1, **{**OPTIONS, "max_bad": 0})
    assert (report.videos, report.samples, report.bad) == (3, 3, 0)
    with pytest.raises(UserError, match="reasons there are: none"):
        retry(packed, reasons=("not-a-video",))


def test_retrying_what_was_mended_elsewhere(packed: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "fixed/again.mp4", noise_frames(4, seed=9))
    lines = [Video(key="broken", path="again.mp4", root=str(tmp_path / "fixed"))]
    write_manifest(tmp_path / "fixed.jsonl", lines)
    retry(packed, manifest=tmp_path / "fixed.jsonl", workers=1)
    complete(Job(url=str(packed), workers=1), Local(), ignore)
    data = open_dataset(packed)
    assert data[2].key == "broken" and data[2].label == "a" and data[2].info["source"] == "again.mp4"


def test_a_video_that_is_bad_again_counts_once(packed: Path, tmp_path: Path) -> None:
    retry(packed, workers=1)
    complete(Job(url=str(packed), workers=1), Local(), ignore)
    report = pack(tmp_path / "videos/set.jsonl", packed, workers=1, **{**OPTIONS, "max_bad": 0.5})
    assert (report.videos, report.samples, report.bad, report.shards) == (3, 2, 1, 2)
    assert retry(packed, workers=1).videos == 1


def test_class_tables_only_grow(packed: Path, tmp_path: Path) -> None:
    more = write_set(tmp_path / "more", (7,), bad=False, first=2)
    (tmp_path / "classes.txt").write_text("b\na\n")
    with pytest.raises(UserError, match="does not begin with the 2 classes"):
        append(more, packed, classes=tmp_path / "classes.txt")
