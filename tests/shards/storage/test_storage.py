"""What every place promises, on a disk and in a bucket."""

from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest

from shards.errors import StorageError, UserError
from shards.storage import MissingError, open_storage

BIG = os.urandom(1 << 20) * 12


def test_objects_are_written_read_listed_and_removed(place: str) -> None:
    storage = open_storage(place)
    assert not storage.exists("rgb/a.json")
    assert storage.list("rgb") == []
    storage.put("rgb/a.json", b"one")
    storage.put("rgb/b.json", b"")
    storage.put("rgb/deep/c.json", b"three")
    storage.put("dataset.json", b"{}")
    assert {"a.json", "b.json"} <= set(storage.list("rgb")) <= {"a.json", "b.json", "deep"}
    assert storage.folders() == ("rgb",)
    assert storage.read("rgb/a.json") == b"one"
    assert storage.read("rgb/b.json") == b""
    assert storage.map("rgb/b.json").size == 0
    assert storage.size("rgb/a.json") == 3
    assert storage.get_range("rgb/a.json", 1, 100) == b"ne"
    assert storage.get_range("rgb/a.json", 5, 100) == b""
    storage.remove("rgb/a.json")
    assert not storage.exists("rgb/a.json")
    for call in (storage.read, storage.open, storage.fetch, storage.map, storage.size, storage.remove):
        with pytest.raises(MissingError, match=r"rgb/a\.json does not exist"):
            call("rgb/a.json")


def test_what_exists_is_replaced_only_on_request(place: str) -> None:
    storage = open_storage(place)
    storage.put("a", b"first")
    with pytest.raises(StorageError, match="published by another process meanwhile and is never overwritten"):
        storage.put("a", b"second")
    assert storage.read("a") == b"first"
    storage.put("a", b"third", replace=True)
    assert storage.read("a") == b"third"


@pytest.mark.parametrize("size", [1000, len(BIG)])
def test_two_writers_publish_one_object(place: str, size: int) -> None:
    one, two = (open_storage(place).create("rgb/000000.tar") for _ in range(2))
    one.write(BIG[:size])
    two.write(BIG[::-1][:size])
    assert not open_storage(place).exists("rgb/000000.tar")
    one.publish()
    with pytest.raises(StorageError, match="published by another process"):
        two.publish()
    two.discard()
    storage = open_storage(place)
    assert storage.read("rgb/000000.tar") == BIG[:size]
    assert one.sha256 == hashlib.sha256(BIG[:size]).hexdigest()
    assert storage.list("rgb") == ["000000.tar"]


def test_large_objects_are_replaced_whole(place: str) -> None:
    storage = open_storage(place)
    for data in (BIG, BIG[5:]):
        aside = storage.create("big")
        for start in range(0, len(data), 700_001):
            aside.write(memoryview(data)[start : start + 700_001])
        aside.publish(replace=True)
        aside.discard()
        assert storage.read("big") == data
    assert storage.list("") == ["big"]


def test_an_abandoned_object_leaves_nothing(place: str) -> None:
    storage = open_storage(place)
    storage.put("there", b"")
    for size in (10, len(BIG)):
        aside = storage.create("rgb/000001.tar")
        aside.write(BIG[:size])
        aside.discard()
    assert storage.list("rgb") == []
    assert not storage.exists("rgb/000001.tar")


def test_parts_are_read_exactly(place: str) -> None:
    storage = open_storage(place)
    storage.put("big", BIG)
    spans = [(5, 10), (0, 3), (len(BIG) - 4, 100), (3_000_000, 9_000_000), (20, 0), (12, 100), (len(BIG) + 5, 7)]
    for reader in (storage.open("big"), storage.fetch("big")):
        assert reader.size == len(BIG)
        assert [bytes(found) for found in reader.read_many(spans)] == [
            BIG[start : start + size] for start, size in spans
        ]
        assert reader.read(7, 9) == BIG[7:16]
        reader.close()
    mapped = storage.map("big")
    assert mapped.dtype == np.uint8
    assert mapped.tobytes() == BIG
    assert not mapped.flags.writeable


def test_calls_run_together_in_their_order(place: str) -> None:
    storage = open_storage(place)
    for number in range(20):
        storage.put(f"{number}", str(number).encode())
    calls = [lambda name=str(number): storage.read(name) for number in range(20)]
    assert storage.together(calls) == [str(number).encode() for number in range(20)]
    with pytest.raises(MissingError):
        storage.together([*calls, lambda: storage.read("none")])


def test_a_storage_can_be_sent_to_another_process(place: str) -> None:
    open_storage(place).put("a", b"1")
    assert pickle.loads(pickle.dumps(open_storage(place))).read("a") == b"1"


def test_names_stay_inside(s3: str) -> None:
    storage = open_storage(f"{s3}/inner")
    for name in ("../outside", "a/../../b", "/a", "a//b", ""):
        with pytest.raises(StorageError, match="not a name inside"):
            storage.put(name, b"")


def test_what_is_no_address(s3: str) -> None:
    for url in ("s3://", "s3:///folder", "ftp://host/a", "s3://user:secret@host/a", "s3://bucket/a?versionId=1"):
        with pytest.raises(UserError) as caught:
            open_storage(url)
        assert "secret" not in str(caught.value)
