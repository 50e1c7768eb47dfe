"""Opening, reading and selecting; what damage looks like."""

import json
import pickle
import threading

import numpy as np
import pytest

from shards import reader
from shards.dataset import Dataset, open_dataset
from shards.errors import DataError, UserError
from shards.index import SAMPLE, SHARD, build_index
from shards.keys import key_hash
from shards.meta import ColumnMeta, Meta, write_meta
from shards.samples import SampleRow, write_samples
from shards.storage import open_storage
from tests.tiny import frame


@pytest.fixture
def dest(tiny_dataset):
    return tiny_dataset(samples=10, frames=(12, 7, 30), per_shard=4)


@pytest.fixture
def data(dest):
    return open_dataset(dest)


def close_to(images, sample, numbers):
    expected = np.stack([frame(sample, number) for number in numbers]).astype(int)
    return images.shape == expected.shape and np.abs(images - expected).mean() < 4


def test_what_a_sample_tells(data):
    assert len(data) == 10 and data.classes == ("run", "walk") and data.splits == ("test", "train")
    sample = data[4]
    assert (sample.key, sample.video, sample.label, sample.label_index) == ("video_004", "video_004", "run", 0)
    assert (sample.frames, sample.fps, sample.height, sample.width) == (7, 25.0, 24, 32)
    assert (sample.splits, sample.group, sample.caption) == (("train",), "group_2", "caption of 4")
    assert sample.info == {"key": "video_004", "source": "run/video 4.avi", "fps": 25.0, "frames": 7}
    assert data[-1].key == "video_009" and data[-1].caption is None
    assert data.labels.tolist() == [0, 1] * 5 and data.labels.dtype == np.int32
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert data.frame_counts.tolist() == [12, 7, 30] * 3 + [12]
    for i in (10, -11):
        with pytest.raises(IndexError, match="has 10"):
            data[i]


def test_by_key(data):
    assert [data.by_key(f"video_{i:03d}").number for i in range(10)] == list(range(10))
    with pytest.raises(UserError, match="no sample 'nobody'"):
        data.by_key("nobody")


def test_by_key_does_not_trust_the_hash(data, monkeypatch):
    monkeypatch.setattr("shards.dataset.key_hash", lambda key: int(data.records["key_hash"][3]))
    assert data.number("video_003") == 3
    with pytest.raises(UserError, match="no sample"):
        data.number("stranger with the same hash")


def test_frames(data):
    for i, numbers in [(0, [0, 4, 8]), (1, range(7)), (2, np.arange(29, -1, -1)), (9, [3, 3, 0, 3]), (-1, [11])]:
        assert close_to(data.frames(i, numbers), i % 10, numbers)
    assert data.frames(0, []).shape == (0, 24, 32, 3)
    out = np.zeros((2, 24, 32, 3), np.uint8)
    assert data.frames(5, [1, 2], out=out) is out and close_to(out, 5, [1, 2])
    with pytest.raises(ValueError, match="out is"):
        data.frames(5, [1], out=out)


@pytest.mark.parametrize("wanted", [[7], [-1], [0, 1, 99]])
def test_frames_that_do_not_exist(data, wanted):
    with pytest.raises(IndexError, match=r"video_001 does not exist; it has frames 0 to 6"):
        data.frames(1, wanted)


def test_facts(data):
    facts = data.facts(2)
    assert (facts.frames, facts.height, facts.width) == (30, 24, 32)
    assert facts.times_us.tolist() == [40_000 * k for k in range(30)]


def test_only_the_bytes_of_the_wanted_frames_are_read(data):
    stats = data.storage.stats
    sizes = [len(image) for image in data.jpegs(2, range(30))]
    for wanted, reads in [([0, 4, 8], 3), (range(10, 20), 1), ([5, 5, 5, 6], 1), ([9, 2, 1], 2), ([29], 1)]:
        before = (stats.bytes, stats.reads)
        data.frames(2, wanted)
        assert stats.bytes - before[0] == sum(sizes[number] for number in set(wanted))
        assert stats.reads - before[1] == reads
    before = stats.bytes
    data.facts(8), data[8], open_dataset(data.url).select(split="train")
    assert stats.bytes == before


def test_a_pickled_data_set_reopens_as_it_was(data, dest):
    copy = pickle.loads(pickle.dumps(data))
    assert isinstance(copy, Dataset) and copy.meta == data.meta
    assert np.array_equal(copy.frames(3, [1, 5]), data.frames(3, [1, 5]))
    assert pickle.loads(pickle.dumps(data[3])).info == data[3].info
    assert len(pickle.dumps(data)) < 2000


def test_threads_share_a_data_set_with_few_open_shards(data, monkeypatch):
    monkeypatch.setattr(reader, "_OPEN_SHARDS", 1)
    expected = [data.frames(i, [0, 6]) for i in range(10)]
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 10, 60):
            if not np.array_equal(data.frames(int(i), [0, 6]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(data._main._open) <= 4


def test_places_that_are_no_data_set(tmp_path, dest):
    with pytest.raises(UserError, match=r"not a packed data set.*vidprep pack MANIFEST"):
        open_dataset(tmp_path)
    with pytest.raises(UserError, match="no column 'flow'; it has: rgb"):
        open_dataset(dest, columns=("rgb", "flow"))
    (dest / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"not finished.*same vidprep pack command"):
        open_dataset(dest)


# --- damage


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def frame_offset(dest, i, number):
    data = open_dataset(dest)
    record = data.records[i]
    index = data._main._shard(int(record["shard"])).index
    row = index.frames[index.first_frame(int(record["place"])) + number]
    return int(record["offset"]) + int(row["offset"]) + int(row["size"]) // 2


def test_a_flipped_byte_is_found_in_its_frame_only(dest):
    flip(dest / "rgb/000001.tar", frame_offset(dest, 5, 8))
    data = open_dataset(dest)
    data.frames(5, [0, 1, 7, 9])
    with pytest.raises(DataError, match=r"rgb/000001\.tar, sample video_005: frame 8.*vidprep check.*000001\.json"):
        data.frames(5, [7, 8])
    data.frames(4, range(7))


def test_a_truncated_tar(dest):
    path = dest / "rgb/000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    data = open_dataset(dest)
    data.frames(0, [0])
    with pytest.raises(DataError, match=r"rgb/000001\.tar: it has \d+ bytes instead of \d+; vidprep check"):
        data.frames(5, [0])


def test_a_tar_truncated_while_open(dest):
    data = open_dataset(dest)
    data.frames(5, [0])
    path = dest / "rgb/000001.tar"
    with path.open("r+b") as file:
        file.truncate(frame_offset(dest, 5, 8))
    with pytest.raises(DataError, match="video_005: frame 8"):
        data.frames(5, [8])


@pytest.mark.parametrize("extension", ["tar", "idx"])
def test_a_missing_shard(dest, extension):
    (dest / f"rgb/000002.{extension}").unlink()
    with pytest.raises(DataError, match=rf"000002\.{extension} does not exist; vidprep check"):
        open_dataset(dest).frames(8, [0])


def test_an_index_of_another_tar(dest, tiny_dataset):
    other = tiny_dataset(samples=10, frames=(12, 7, 31), per_shard=4)
    (dest / "rgb/000001.idx").write_bytes((other / "rgb/000001.idx").read_bytes())
    with pytest.raises(DataError, match=r"000001\.tar: its \.idx is that of another tar"):
        open_dataset(dest).frames(5, [0])


def test_another_tar_of_the_same_length(dest):
    first = dest / "rgb/000000.tar"
    content = first.read_bytes()
    swapped = content.replace(b"\xff\xd8", b"\xff\xd7")
    first.write_bytes(swapped)
    with pytest.raises(DataError, match="video_000: frame 0"):
        open_dataset(dest).jpegs(0, [0])


def test_a_flipped_byte_in_the_indexes(dest):
    flip(dest / "rgb/000000.idx", 300)
    flip(dest / "rgb/index.bin", 64 + 64 * 5 + 9)
    data = open_dataset(dest)
    with pytest.raises(DataError, match=r"000000\.idx does not agree with its own checksum"):
        data.frames(0, [0])
    with pytest.raises(DataError, match=r"index\.bin of another data set"):
        data.frames(5, [0])


def test_a_truncated_index(dest):
    path = dest / "rgb/index.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="header announces"):
        open_dataset(dest)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is not an index"):
        open_dataset(dest)
    path.unlink()
    with pytest.raises(DataError, match="same vidprep pack command"):
        open_dataset(dest)


@pytest.mark.parametrize("name", ["dataset.json", "rgb/index.bin", "rgb/000000.idx", "samples.bin"])
def test_a_newer_format(dest, name):
    path = dest / name
    if name.endswith("json"):
        path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    else:
        path.write_bytes(path.read_bytes()[:8] + b"\x02" + path.read_bytes()[9:])
    with pytest.raises(DataError, match="format version 2; this vidprep reads up to 1: pip install -U vidprep"):
        open_dataset(dest).frames(0, [0])


@pytest.mark.parametrize("length_stays", [True, False])
def test_a_sample_table_edited_by_hand(dest, length_stays):
    path = dest / "samples.jsonl"
    path.write_text(path.read_text().replace("walk", "jump" if length_stays else "jumping"))
    with pytest.raises(DataError, match=r"samples\.jsonl was changed.*vidprep annotate"):
        open_dataset(dest)


def test_a_sample_table_of_another_data_set(dest, tiny_dataset):
    other = tiny_dataset(samples=10, classes=("run",))
    for end in ("jsonl", "bin"):
        text = (other / f"samples.{end}").read_bytes()
        (dest / f"samples.{end}").write_bytes(text)
    open_dataset(dest)  # the same keys: no contradiction
    write_samples(
        open_storage(dest), [SampleRow(key=f"x{i}") for i in range(10)], classes=(), splits=(), stem="samples"
    )
    with pytest.raises(DataError, match="not of the same samples"):
        open_dataset(dest)


def test_dataset_json_that_is_something_else(dest):
    (dest / "dataset.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(DataError, match="cannot be understood"):
        open_dataset(dest)


# --- size


def test_many_samples_cost_no_memory_at_opening(tmp_path):
    """A table of 40,000 samples (a smaller copy of the promise for 1,000,000): nothing of it is read by `select` but
    labels, splits and hashes, nothing by opening but the sample table's checksum."""
    n, storage = 40_000, open_storage(tmp_path)
    rows = [SampleRow(key=f"v{i}", label=f"c{i % 7}", splits=("train",) if i % 4 else ("val",)) for i in range(n)]
    classes = [f"c{i}" for i in range(7)]
    write_samples(storage, rows, classes=classes, splits=["train", "val"], stem="samples")
    records = np.zeros(n, SAMPLE)
    records["key_hash"] = [key_hash(row.key) for row in rows]
    records["frames"] = 300
    storage.put("rgb/index.bin", build_index(records, np.zeros(40, SHARD)))
    column = {"rgb": ColumnMeta(kind="rgb", folder="rgb")}
    meta = Meta(
        name="n", columns=column, size={}, classes=tuple(classes), splits=("train", "val"), samples=n, shards=40
    )
    write_meta(storage, meta)
    data = open_dataset(tmp_path)
    for mapped in (data.records, data.table.records):
        assert not mapped.flags.owndata and not mapped.flags.writeable
    assert data.storage.stats.bytes == (tmp_path / "dataset.json").stat().st_size
    assert data.by_key("v33333").number == 33_333
    assert len(data.select(split="val")) == n // 4


# --- selection


def test_splits(data):
    assert data.select().tolist() == list(range(10))
    assert data.select(split="test").tolist() == [0, 5]
    with pytest.raises(UserError, match="no split 'valid'; splits of this data set: test, train"):
        data.select(split="valid")


def test_keep_takes_the_same_share_of_every_class(tiny_dataset):
    data = open_dataset(tiny_dataset(samples=60, frames=1, classes=("a", "b", "c"), per_shard=60))
    for keep in (0.1, "0.1", 0.25, 1.0, 0.001):
        kept = data.select(keep=keep, seed=3)
        assert np.bincount(data.labels[kept]).tolist() == [max(1, round(float(keep) * 20))] * 3
        assert (np.diff(kept) > 0).all() and kept.dtype == np.int64
    assert data.select(keep=0.5, seed=1).tolist() == data.select(keep=0.5, seed=1).tolist()
    assert data.select(keep=0.5, seed=1).tolist() != data.select(keep=0.5, seed=2).tolist()
    assert set(data.select(keep=0.1)) <= set(data.select(keep=0.3))
    train = data.select(split="train", keep=0.25)
    assert set(train) <= set(data.select(split="train")) and len(train) == 3 * 4


def test_keep_does_not_depend_on_other_classes(tiny_dataset):
    two = open_dataset(tiny_dataset(samples=40, frames=1, classes=("a", "b"), per_shard=40))
    four = open_dataset(tiny_dataset(samples=40, frames=1, classes=("a", "x", "y", "z"), per_shard=40))
    # Class a of the second has every other sample of class a of the first; ranks within it stay.
    assert two.classes[0] == four.classes[0] == "a"
    half = [i for i in two.select(keep=0.5, seed=9) if two.labels[i] == 0]
    assert len(half) == 10 and sum(four.labels == 0) == 10
    quarter = {i for i in four.select(keep=0.2, seed=9) if four.labels[i] == 0}
    best = [i for i in two.select(keep=1.0) if i % 4 == 0]
    assert quarter <= set(best) and len(quarter) == 2


@pytest.mark.parametrize("keep", [0, -0.5, 1.5, "2", "nan"])
def test_fractions_that_make_no_sense(data, keep):
    with pytest.raises(UserError, match="above 0 and up to 1"):
        data.select(keep=keep)


def test_keep_a_list(data, tmp_path):
    path = tmp_path / "keys.txt"
    path.write_text("video_007\n\nvideo_002\nvideo_005\nvideo_007\n")
    assert data.select(keep=path).tolist() == [2, 5, 7]
    assert data.select(keep=str(path), split="train").tolist() == [2, 7]
    path.write_text("video_005\n")
    with pytest.raises(UserError, match=r"no sample of .* is left"):
        data.select(keep=path, split="train")
    path.write_text("video_005\nnobody\nnothing\n")
    with pytest.raises(UserError, match=r"2 keys that .* has not: nobody, nothing"):
        data.select(keep=path)
    with pytest.raises(UserError, match="cannot read the list of keys"):
        data.select(keep=tmp_path / "absent.txt")
