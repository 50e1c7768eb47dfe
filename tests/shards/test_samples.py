"""`annotate`: labels, splits, groups and captions without touching a tar."""

import json

import pytest

from shards.dataset import open_dataset
from shards.errors import StorageError, UserError
from shards.finalize import finalize
from shards.samples import SampleRow, annotate, build_samples


@pytest.fixture
def dest(tiny_dataset):
    return tiny_dataset(samples=6)


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(dest):
    return {sample.key: sample for sample in map(open_dataset(dest).__getitem__, range(6))}


def test_json_lines_change_what_they_name(dest, tmp_path):
    before = rows(dest)
    tars = {path: path.read_bytes() for path in (dest / "rgb").iterdir()}
    opened = open_dataset(dest)
    file = lines(
        tmp_path / "new.jsonl",
        {"key": "video_001", "label": "jump", "splits": ["val", "train"]},
        {"key": "video_002", "caption": None, "group": "someone"},
        {"key": "video_003", "label": "run"},
        {"key": "video_005", "label": None},
    )
    report = annotate(str(dest), file)
    after = rows(dest)
    assert (report.lines, report.changed, report.without_sample) == (4, 4, 0)
    assert report.classes == ("run", "walk", "jump") and report.splits == ("test", "train", "val")
    assert (after["video_001"].label, after["video_001"].label_index) == ("jump", 2)
    assert after["video_001"].splits == ("val", "train")
    assert after["video_001"].group == before["video_001"].group
    assert (after["video_002"].caption, after["video_002"].group) == (None, "someone")
    assert after["video_002"].label == before["video_002"].label
    assert after["video_003"].label_index == 0
    assert (after["video_005"].label, after["video_005"].label_index) == (None, -1)
    assert after["video_004"] == before["video_004"]
    assert open_dataset(dest).select(split="val").tolist() == [1]
    assert {path: path.read_bytes() for path in (dest / "rgb").iterdir()} == tars
    # Who had it open before keeps what was in force then.
    assert opened[1].label == "walk"


def test_finishing_again_keeps_annotations(dest, tmp_path):
    annotate(dest, lines(tmp_path / "new.jsonl", {"key": "video_001", "label": "jump"}))
    meta = finalize(dest)
    assert meta.samples_stem != "samples" and rows(dest)["video_001"].label == "jump"


def test_the_same_file_twice_changes_nothing(dest, tmp_path):
    file = lines(tmp_path / "new.jsonl", {"key": "video_001", "label": "jump"})
    first = annotate(dest, file)
    again = annotate(dest, file)
    assert (again.changed, again.samples_stem) == (0, first.samples_stem)


def test_csv(dest, tmp_path):
    file = tmp_path / "new.csv"
    file.write_text('key,splits,caption\nvideo_000,train;val,"one, two"\nvideo_004,,\n', encoding="utf-8-sig")
    annotate(dest, file)
    after = rows(dest)
    assert (after["video_000"].splits, after["video_000"].caption) == (("train", "val"), "one, two")
    assert (after["video_004"].splits, after["video_004"].caption, after["video_004"].label) == ((), None, "run")


def test_a_manifest_is_a_file_of_labels(dest, tmp_path):
    line = {"key": "video_000", "path": "a.avi", "root": "/x", "label": "walk", "label_index": 9, "fps": 25.0}
    annotate(dest, lines(tmp_path / "manifest.jsonl", line))
    assert (rows(dest)["video_000"].label, rows(dest)["video_000"].label_index) == ("walk", 1)


def test_a_class_list(dest, tmp_path):
    file = lines(tmp_path / "new.jsonl", {"key": "video_000", "label": "walk"})
    report = annotate(dest, file, classes=["walk", "sit", "run"])
    assert report.classes == ("walk", "sit", "run")
    assert open_dataset(dest).labels.tolist() == [0, 0, 2, 0, 2, 0]
    with pytest.raises(UserError, match=r"labels that the class list of 1 has not: 'run'"):
        annotate(dest, file, classes=["walk"])
    with pytest.raises(UserError, match="twice"):
        annotate(dest, file, classes=["walk", "run", "walk"])
    assert open_dataset(dest).classes == ("walk", "sit", "run")


def test_unknown_keys_are_refused_and_nothing_changes(dest, tmp_path):
    before = (dest / "dataset.json").read_bytes()
    strangers = [{"key": f"nobody_{i}", "label": "run"} for i in range(7)]
    with pytest.raises(UserError, match=r"7 keys that .* has not: nobody_0, .*nobody_4 and 2 more"):
        annotate(dest, lines(tmp_path / "new.jsonl", {"key": "video_001", "label": "x"}, *strangers))
    assert (dest / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.xml", "", "allowed are .jsonl"),
        ("a.jsonl", "", "has no line"),
        ("a.jsonl", '{"key": "a"\n', r"a\.jsonl:1: not JSON"),
        ("a.jsonl", "\n[1]\n", r"a\.jsonl:2: .* not an object"),
        ("a.jsonl", '{"label": "a"}\n', "key is None"),
        ("a.jsonl", '{"key": "video_001", "lable": "a"}\n', "unknown column 'lable'; allowed: key, label"),
        ("a.jsonl", '{"key": "video_001", "label": 3}\n', "label is 3; it must be text"),
        ("a.jsonl", '{"key": "video_001", "splits": [1]}\n', r"splits is \[1\]"),
        ("a.jsonl", '{"key": "video_001"}\n{"key": "video_001"}\n', r":2: key 'video_001' already stands on line 1"),
        ("a.csv", "key,label\nvideo_001\n", r"a\.csv:2: .* cells"),
        ("a.csv", "key,label\nvideo_001,a,b\n", r"a\.csv:2: .* cells"),
        ("a.csv", "name,label\nvideo_001,a\n", "key is None"),
    ],
)
def test_files_that_cannot_be_understood(dest, tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=match):
        annotate(dest, tmp_path / name)


def test_files_that_cannot_be_read(dest, tmp_path):
    with pytest.raises(StorageError, match="cannot read"):
        annotate(dest, tmp_path / "absent.csv")
    (tmp_path / "latin.csv").write_bytes("key,label\nvideo_001,é\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        annotate(dest, tmp_path / "latin.csv")


def test_too_many_splits():
    splits = [f"s{i}" for i in range(65)]
    with pytest.raises(UserError, match="at most 64"):
        build_samples([SampleRow(key="a", splits=tuple(splits))], classes=(), splits=splits)
    build_samples([SampleRow(key="a", splits=("s63",))], classes=(), splits=splits[:64])
