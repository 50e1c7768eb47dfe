"""From shards to a data set."""

import pytest

from shards import jpeg
from shards.dataset import open_dataset
from shards.errors import DataError, StorageError, UserError
from shards.finalize import finalize
from shards.plan import Entry, read_plan, write_plan
from shards.receipts import Verdict
from shards.samples import annotate
from shards.storage import open_storage
from shards.tarwriter import ShardWriter
from tests.tiny import SIZE, frame

OPTIONS = {"name": "set", "classes": ["a", "b"], "size": {"short_side": 24}, "segment_frames": None}


def video(key, label="a", **more):
    return {"key": key, "label": label, "splits": ["train"], **more}


def write_shard(storage, shard, samples, **options):
    with ShardWriter(storage, shard, parameters=options.get("parameters")) as writer:
        for i, (key, info) in enumerate(samples):
            writer.add(key, info, [jpeg.encode(frame(i, 0))], fps=25, size=SIZE)
        writer.finish(verdicts=options.get("verdicts", ()))


def planned(dest, *shards, **options):
    storage = open_storage(dest)
    entries = [Entry(shard=number, video=entry) for number, videos in enumerate(shards) for entry in videos]
    write_plan(storage, {**OPTIONS, **options}, entries)
    return storage


def test_missing_shards_are_counted(tmp_path):
    storage = planned(tmp_path, [video("x")], [video("y")], [video("z")])
    write_shard(storage, 1, [("y", {})])
    with pytest.raises(UserError, match=r"2 of 3 shards .*rgb/000000\); run the same vidprep pack command again"):
        finalize(tmp_path)
    assert not (tmp_path / "dataset.json").exists()


def test_it_is_written_last_and_again_changes_nothing(tiny_dataset):
    dest = tiny_dataset()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in dest.rglob("*") if path.is_file()}
    meta = finalize(dest)
    assert meta == open_dataset(dest).meta
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in dest.rglob("*") if path.is_file()}
    assert after == before
    names = sorted((p.stat().st_mtime_ns, p.name) for p in dest.rglob("*") if p.is_file())
    assert names[-1][1] == "dataset.json"


def test_bad_videos_leave_no_hole(tmp_path):
    storage = planned(tmp_path, [video("x"), video("bad"), video("z", "b", caption="last")])
    verdict = Verdict(key="bad", source="bad.avi", level="bad", code="empty-file", message="0 bytes")
    write_shard(storage, 0, [("x", {}), ("z", {})], verdicts=[verdict])
    finalize(tmp_path)
    data = open_dataset(tmp_path)
    assert [data[i].key for i in range(len(data))] == ["x", "z"]
    assert (data[1].label, data[1].caption) == ("b", "last")
    # A file of labels for all videos may name the bad one too.
    (tmp_path / "labels.csv").write_text("key,label\nx,b\nbad,b\n")
    assert annotate(tmp_path, tmp_path / "labels.csv").without_sample == 1


def test_nothing_but_bad_videos(tmp_path):
    storage = planned(tmp_path, [video("bad")])
    verdict = Verdict(key="bad", source="bad.avi", level="bad", code="empty-file", message="0 bytes")
    write_shard(storage, 0, [], verdicts=[verdict])
    with pytest.raises(UserError, match=r"would be empty.*1 bad ones"):
        finalize(tmp_path)


def test_segments_inherit_from_their_video(tmp_path):
    storage = planned(tmp_path, [video("x", "b"), video("y", group="g")], segment_frames=1)
    write_shard(
        storage,
        0,
        [("x_s000", {"video": "x"}), ("x_s001", {"video": "x"}), ("y_s000", {"video": "y"})],
    )
    finalize(storage)
    data = open_dataset(tmp_path)
    assert [(s.key, s.video, s.label, s.group) for s in (data[i] for i in range(3))] == [
        ("x_s000", "x", "b", "x"),
        ("x_s001", "x", "b", "x"),
        ("y_s000", "y", "a", "g"),
    ]
    # Labels may be given by video, and more exactly by segment.
    (tmp_path / "labels.csv").write_text("key,label\nx,a\nx_s001,c\n")
    annotate(tmp_path, tmp_path / "labels.csv")
    assert [open_dataset(tmp_path)[i].label for i in range(3)] == ["a", "c", "a"]


def test_a_shard_written_anew_keeps_annotations(tiny_dataset, tmp_path):
    dest = tiny_dataset(samples=6, per_shard=3)
    (tmp_path / "labels.csv").write_text("key,label\nvideo_004,sit\n")
    annotate(dest, tmp_path / "labels.csv")
    (dest / "rgb/000001.json").unlink()
    with pytest.raises(UserError, match="1 of 2 shards"):
        finalize(dest)
    storage = open_storage(dest)
    with ShardWriter(storage, 1, parameters={"quality": 90}) as writer:
        for i in (3, 5):
            writer.add(f"video_{i:03d}", {}, [jpeg.encode(frame(i, 0))], fps=25, size=SIZE)
        writer.add("video_004", {}, [jpeg.encode(frame(4, 0))] * 2, fps=25, size=SIZE)
        writer.finish()
    finalize(dest)
    data = open_dataset(dest)
    assert [data[i].key for i in range(6)] == [f"video_{i:03d}" for i in (0, 1, 2, 3, 5, 4)]
    assert (data.by_key("video_004").label, data.by_key("video_004").frames) == ("sit", 2)
    assert data.by_key("video_005").label == "walk"


def test_duplicate_keys(tmp_path):
    storage = planned(tmp_path, [video("x")], [video("x")])
    for shard in (0, 1):
        write_shard(storage, shard, [("x", {})])
    with pytest.raises(DataError, match="key x stands in shard 0 and in shard 1"):
        finalize(tmp_path)


def test_shards_made_with_different_parameters(tmp_path):
    storage = planned(tmp_path, [video("x")], [video("y")])
    write_shard(storage, 0, [("x", {})], parameters={"quality": 90})
    write_shard(storage, 1, [("y", {})], parameters={"quality": 80})
    with pytest.raises(DataError, match=r"rgb/000001 was made with .*80.*remove its \.json"):
        finalize(tmp_path)


def test_a_sample_that_was_not_planned(tmp_path):
    storage = planned(tmp_path, [video("x")])
    write_shard(storage, 0, [("stranger", {})])
    with pytest.raises(DataError, match=r"stranger .* is of no video that the plan gave to this shard"):
        finalize(tmp_path)


@pytest.mark.parametrize(
    ("name", "match"), [("000001.idx", "not the one its receipt describes"), ("000001.tar", "instead of")]
)
def test_files_of_another_shard(tiny_dataset, name, match):
    dest = tiny_dataset(samples=8, frames=(5, 9, 13))
    (dest / "rgb" / name).write_bytes((dest / "rgb" / name.replace("1", "0")).read_bytes() * 2)
    with pytest.raises(DataError, match=match):
        finalize(dest)
    (dest / "rgb" / name).unlink()
    with pytest.raises(DataError, match="does not exist though its receipt does"):
        finalize(dest)


def test_a_receipt_that_is_none(tiny_dataset):
    dest = tiny_dataset()
    (dest / "rgb/000000.json").write_text("{}")
    with pytest.raises(DataError, match=r"000000\.json is not a receipt"):
        finalize(dest)


# --- plan.jsonl


def test_plans_come_back_by_shard(tmp_path):
    storage = planned(tmp_path, [video("x"), video("größe \udcff")], [video("z")])
    plan = read_plan(storage)
    assert plan.options == OPTIONS
    assert [(number, [v["key"] for v in videos]) for number, videos in plan.shards()] == [
        (0, ["x", "größe \udcff"]),
        (1, ["z"]),
    ]
    assert plan.videos(1) == [video("z")]
    with pytest.raises(DataError, match="no shard 2"):
        plan.videos(2)
    with pytest.raises(StorageError, match="never overwritten"):
        write_plan(storage, OPTIONS, [])


def test_plans_stream_over_block_borders(tmp_path):
    storage = open_storage(tmp_path)
    videos = [video(f"v{i}", caption="c" * (i % 700)) for i in range(6000)]
    assert write_plan(storage, OPTIONS, (Entry(shard=i // 1000, video=v) for i, v in enumerate(videos))) == 6000
    assert (tmp_path / "plan.jsonl").stat().st_size > 2 << 20
    assert [dict(entry.video) for entry in read_plan(storage)] == videos


def test_shards_of_a_plan_ascend(tmp_path):
    for shards in ([1], [0, 2], [0, 1, 0]):
        with pytest.raises(ValueError, match="cannot follow"):
            write_plan(open_storage(tmp_path), OPTIONS, [Entry(shard=s, video=video("x")) for s in shards])
    assert not (tmp_path / "plan.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not a plan"),
        ("not json", "not JSON"),
        ('{"plan": 2, "options": {}}', "format version 2"),
        ('{"plan": 1, "options": {}}\n{"shard": 0}', "plan.jsonl:2 is not a line"),
    ],
)
def test_plans_that_cannot_be_read(tmp_path, text, match):
    (tmp_path / "plan.jsonl").write_text(text)
    with pytest.raises(DataError, match=match):
        list(read_plan(open_storage(tmp_path)))


def test_no_plan(tmp_path):
    with pytest.raises(DataError, match="not a packed data set"):
        finalize(tmp_path)
