"""Tars: their bytes, how they appear, and who can read them."""

import errno
import io
import json
import os
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from shards import jpeg, publish
from shards.columns import ColumnKind
from shards.errors import StorageError, UserError
from shards.receipts import Verdict, read_receipt, read_receipts
from shards.storage import MissingError, open_storage
from shards.tarwriter import ShardWriter
from tests.tiny import SIZE, build_dataset, frame


def jpegs(sample, count=3):
    return [jpeg.encode(frame(sample, number)) for number in range(count)]


def files(folder: Path):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_input_gives_the_same_bytes(tiny_dataset):
    assert files(tiny_dataset()) == files(tiny_dataset())


@pytest.mark.filterwarnings("ignore")
def test_stock_webdataset_reads_shards(tiny_dataset):
    webdataset = pytest.importorskip("webdataset")
    url = f"{tiny_dataset(samples=10, per_shard=4)}/rgb/{{000000..000002}}.tar"
    samples = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"video_{i:03d}" for i in range(10)]
    for i, sample in enumerate(samples):
        assert sample["mjpg"] == b"".join(jpegs(i, 12))
        assert json.loads(sample["json"])["key"] == sample["__key__"]


def test_a_payload_is_a_stream_that_ffmpeg_plays(tiny_dataset):
    with tarfile.open(tiny_dataset() / "rgb/000000.tar") as tar:
        payload = tar.extractfile("video_001.mjpg").read()
    with av.open(io.BytesIO(payload), format="mjpeg") as container:
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    assert len(pictures) == 12
    for number, picture in enumerate(pictures):
        assert np.abs(picture.astype(int) - frame(1, number)).mean() < 8


def test_odd_keys_and_sizes_survive(tmp_path):
    storage = open_storage(tmp_path)
    keys = ["größe-" + "ü" * 40, "k" * 100, "a"]
    with ShardWriter(storage, 0) as writer:
        for i, key in enumerate(keys):
            writer.add(key, {}, jpegs(i, i + 1), fps=30, size=SIZE)
        writer.finish()
    with tarfile.open(tmp_path / "rgb/000000.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == [f"{key}.{end}" for key in keys for end in ("json", "mjpg")]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in members} == {
            (0, 0, 0, 0o444, "vidprep", "vidprep")
        }
    assert (tmp_path / "rgb/000000.tar").stat().st_size % tarfile.RECORDSIZE == 0


def test_other_kinds_of_columns(tmp_path):
    storage = open_storage(tmp_path)
    kind = ColumnKind(suffix="text", framed=False)
    with ShardWriter(storage, 0, folder="text", kind=kind) as writer:
        writer.add("a", {}, b"a word")
        writer.add("b", {}, b"", failed=True)
        writer.finish()
    with tarfile.open(tmp_path / "text/000000.tar") as tar:
        assert [(m.name, m.size) for m in tar] == [("a.text", 6), ("b.text", 0)]


@pytest.mark.parametrize(
    ("key", "payload", "options", "match"),
    [
        ("a.b", [b"x"], {"fps": 1}, "key"),
        ("first", [b"x"], {"fps": 1}, "used before"),
        ("a", [], {"fps": 1}, "0 bytes"),
        ("a", [b"x"], {}, "frame rate"),
        ("a", [b"x"], {"times_us": [0, 1]}, "as many times"),
        ("a", [b"x"], {"fps": 1, "failed": True}, "failed"),
    ],
)
def test_mistakes_of_the_caller(tmp_path, key, payload, options, match):
    with ShardWriter(open_storage(tmp_path), 0) as writer:
        writer.add("first", {}, jpegs(0), fps=25, size=SIZE)
        with pytest.raises(ValueError, match=match):
            writer.add(key, {}, payload, **options)


def test_nothing_is_visible_before_the_end_and_nothing_left_after_giving_up(tmp_path):
    storage = open_storage(tmp_path)
    with ShardWriter(storage, 0) as writer:
        writer.add("a", {}, jpegs(0), fps=25, size=SIZE)
        assert storage.list("rgb") == []
    assert list((tmp_path / "rgb").iterdir()) == []


def test_the_receipt_comes_last(tmp_path, monkeypatch):
    order = []
    publish_one = publish.Aside.publish
    monkeypatch.setattr(
        publish.Aside, "publish", lambda self, **k: (order.append(self.path.name), publish_one(self, **k))[1]
    )
    with ShardWriter(open_storage(tmp_path), 0) as writer:
        writer.finish()
    assert order == ["000000.tar", "000000.idx", "000000.json"]


@pytest.mark.parametrize("killed_after", ["000000.tar", "000000.idx"])
def test_what_a_killed_run_left_is_written_anew(tmp_path, monkeypatch, killed_after):
    build_dataset(tmp_path / "whole", samples=2)
    publish_one = publish.Aside.publish

    def publish_then_die(self, **options):
        publish_one(self, **options)
        if self.path.name == killed_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publish.Aside, "publish", publish_then_die)
        # A kill leaves the files that are aside as they are.
        patch.setattr(publish.Aside, "discard", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            build_dataset(tmp_path / "killed", samples=2)
    (tmp_path / "killed/rgb/.000000.tar.123.part").write_bytes(b"half")
    (tmp_path / "killed/plan.jsonl").unlink()
    build_dataset(tmp_path / "killed", samples=2)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_finished_shard_is_never_overwritten(tmp_path):
    storage = open_storage(tmp_path)
    first = ShardWriter(storage, 0)
    second = ShardWriter(storage, 0)
    first.add("a", {}, jpegs(0), fps=25, size=SIZE)
    first.finish()
    before = files(tmp_path)
    with pytest.raises(StorageError, match="never overwritten"):
        second.finish()
    second.discard()
    with pytest.raises(StorageError, match=r"remove its \.json"):
        ShardWriter(storage, 0)
    assert {k: v for k, v in files(tmp_path).items() if not k.endswith(".part")} == {
        k: v for k, v in before.items() if not k.endswith(".part")
    }


def test_create_only_works_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    storage = open_storage(tmp_path)
    storage.put("a", b"1")
    with pytest.raises(StorageError, match="never overwritten"):
        storage.put("a", b"2")
    storage.put("a", b"3", replace=True)
    assert files(tmp_path) == {"a": b"3"}


def test_two_writers_at_once(tmp_path):
    storage = open_storage(tmp_path)
    first, second = storage.create("a"), storage.create("a")
    first.write(b"1")
    first.publish()  # takes the other for what a killed run left
    second.write(b"2")
    with pytest.raises(StorageError, match=r"published by another process.*run the same command again"):
        second.publish()
    second.discard()
    assert files(tmp_path) == {"a": b"1"}


def test_a_full_disk_fails_the_run_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    storage = open_storage(tmp_path)
    monkeypatch.setattr(publish.os, "fsync", full)
    with (
        pytest.raises(StorageError, match=r"000000\.tar: No space left.*free some space"),
        ShardWriter(storage, 0) as writer,
    ):
        writer.add("a", {}, jpegs(0), fps=25, size=SIZE)
        writer.finish()
    assert files(tmp_path) == {}


def test_a_destination_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="Not a directory"):
        ShardWriter(open_storage(tmp_path / "file"), 0)


def test_receipts_come_back(tmp_path):
    storage = open_storage(tmp_path)
    verdict = Verdict(key="b", source="b.avi", level="bad", code="truncated", message="kaputt ✗", command="ffmpeg …")
    with ShardWriter(storage, 3, parameters={"quality": 90}, versions={"av": "1"}) as writer:
        writer.add("a", {}, jpegs(0, 5), fps=25, size=SIZE)
        receipt = writer.finish(verdicts=[verdict], run={"host": "here"})
    assert read_receipt(storage, "rgb", 3) == receipt
    assert list(read_receipts(storage, "rgb")) == [receipt]
    assert (receipt.samples, receipt.frames, receipt.verdicts) == (1, 5, (verdict,))
    assert receipt.tar_size == (tmp_path / "rgb/000003.tar").stat().st_size


def test_places(tmp_path):
    assert open_storage(f"file://{tmp_path}/a%20b").url == str(tmp_path / "a b")
    with pytest.raises(UserError, match="s3://bucket/folder"):
        open_storage("ftp://host/data")
    with pytest.raises(MissingError):
        open_storage(tmp_path).read("nothing")
    assert open_storage(tmp_path / "none").list("rgb") == []
