"""Captions from files as data sets publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shards.annotations import read_changes
from shards.caption_files import find_keys, read_caption_file
from shards.dataset import open_dataset
from shards.errors import StorageError, UserError
from shards.samples import annotate
from shards.summary import summarize
from tests.tiny import build_dataset
from vidprep.derive import add_text


def written(file: Path, value: Any) -> Path:
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return file


MSRVTT = {
    "info": {"year": "2017"},
    "videos": [
        {"video_id": "video0", "id": 0, "split": "train", "category": 9, "start time": 1.5},
        {"video_id": "video1", "id": 1, "split": "validate"},
        {"video_id": "video2", "id": 2, "split": "test"},
    ],
    "sentences": [
        {"video_id": "video0", "sen_id": 5, "caption": "un uomo"},
        {"video_id": "video1", "sen_id": 6, "caption": "è una città"},
        {"video_id": "video0", "sen_id": 7, "caption": "un cane corre"},
    ],
}
SOMETHING = [
    {"id": "74225", "label": "spinning cube", "template": "Spinning [something]", "placeholders": ["cube"]},
    {"id": "116154", "label": "a box falling", "template": "[Something] falling", "placeholders": ["a box"]},
]

FORMS = {
    "msrvtt.json": (
        MSRVTT,
        {
            "video0": {"captions": ("un uomo", "un cane corre"), "splits": ("train",)},
            "video1": {"captions": ("è una città",), "splits": ("validate",)},
            "video2": {"splits": ("test",)},
        },
    ),
    "msrvtt1k.csv": (
        'key;vid_key;video_id;sentence\nret0;msr9;video9;"a man; a dog"\nret1;msr7;video7;a cat\n',
        {"video9": {"captions": ("a man; a dog",)}, "video7": {"captions": ("a cat",)}},
    ),
    "commas.csv": (
        '\ufeff"video_id", sentence\nvideo9,a man\nvideo9,\n\nvideo9,a dog\n',
        {"video9": {"captions": ("a man", "a dog")}},
    ),
    "something.json": (
        SOMETHING,
        {
            "74225": {"captions": ("spinning cube",), "label": "Spinning something"},
            "116154": {"captions": ("a box falling",), "label": "Something falling"},
        },
    ),
    "mmaction.json": (
        {"test.mp4": ["A person", "A pool", " "]},
        {"test.mp4": {"captions": ("A person", "A pool")}},
    ),
    "plain.json": ({"a": "one", "b": "two"}, {"a": {"captions": ("one",)}, "b": {"captions": ("two",)}}),
    "cpd.json": (
        {"B0abc": {"subset": "training", "caption": "playing the guitar #music"}},
        {"B0abc": {"captions": ("playing the guitar #music",), "splits": ("training",)}},
    ),
    "activitynet.json": (
        {"v_x": {"duration": 9.5, "timestamps": [[0, 4], [4, 9]], "sentences": ["he sits", "he stands"]}},
        {"v_x": {"captions": ("he sits", "he stands")}},
    ),
    "list.json": (
        [{"video": "a.mp4", "caption": "one"}, {"video": "a.mp4", "caption": ["two", "three"]}],
        {"a.mp4": {"captions": ("one", "two", "three")}},
    ),
    "titles.txt": (
        "abc\ta dance class\tA DANCE class!!\n\ndef\tsurfing\n",
        {"abc": {"captions": ("a dance class",)}, "def": {"captions": ("surfing",)}},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(tmp_path, name):
    value, expected = FORMS[name]
    found = read_caption_file(written(tmp_path / name, value))
    assert found is not None and dict(found.changes) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ours.json", '{"key": "a", "caption": "one"}\n'),
        ("ours.json", '{"key": "a"}\n{"key": "b"}\n'),
        ("ours.csv", "key,label,caption\na,run,one\n"),
        ("ours.tsv", "key\tcaption\na\tone\n"),
        ("ours.jsonl", "[]"),
    ],
)
def test_our_own_files_are_left_to_the_other_reader(tmp_path, name, value):
    assert read_caption_file(written(tmp_path / name, value)) is None


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("test.json", [{"id": "1420"}], "'1420' has no label: this is the list of a test set"),
        ("split.json", {"database": {"v_a": {"subset": "training"}}}, "'database' has no caption, but v_a"),
        ("number.json", {"a": 5}, "caption of 'a' is no text, but '5'"),
        ("labels.json", [{"filename": "a.mp4", "label": {"action": [1]}}], "caption of 'a.mp4' is no text, but 'None'"),
        ("nameless.json", [{"caption": "one"}], "names no video; known are"),
        ("words.json", ["a", "b"], "is JSON of no known form; known are: MSR-VTT"),
        ("short.csv", "video_id,sentence\nvideo9\n", "short.csv:2: the line has 1 cells, the header line 2"),
        ("lines.txt", "no tab here\n", "lines.txt:1: 'no tab here' is not video<tab>caption"),
    ],
)
def test_what_is_not_understood(tmp_path, name, value, match):
    with pytest.raises(UserError, match=match):
        read_caption_file(written(tmp_path / name, value))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(StorageError, match="cannot read"):
        read_caption_file(tmp_path / "absent.json")
    (tmp_path / "latin.txt").write_bytes("a\té\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_caption_file(tmp_path / "latin.txt")


@pytest.mark.parametrize(("header", "read"), [("video_id,sentence", read_caption_file), ("key,caption", read_changes)])
def test_a_quotation_mark_that_is_left_open(tmp_path, header, read):
    """The rest of a large file is one cell then."""
    file = written(tmp_path / "open.csv", f'{header}\na,"a man\n' + "b,another man walks\n" * 10_000)
    with pytest.raises(UserError, match=r"open.csv is no table \(field larger than .*quotation mark left open"):
        read(file)


def test_names_find_keys():
    keys = ["video7", "train--video8", "run--a", "walk--a", "trimmed_resize_x", "c.mp4-x"]
    paths = dict.fromkeys(keys, "") | {
        "surfing_water--my_clip_1-1d2c3b4a": "surfing water/my clip.1.mp4",
        "one--b": "one/b.avi",
        "two--b": "two/b.avi",
    }

    def found(*names: str, template: str = "{}") -> dict[str, str]:
        return find_keys(names, paths, template=template, where="FILE")

    assert found("video7", "video7.mp4", "clips/video7.mp4", "video70") == {
        "video7": "video7",
        "video7.mp4": "video7",
        "clips/video7.mp4": "video7",
    }
    assert found("video8", "train/video8.mp4") == dict.fromkeys(("video8", "train/video8.mp4"), "train--video8")
    for name in ("my clip.1", "my clip.1.mp4", "surfing water/my clip.1.mp4", "surfing water/my clip.1"):
        assert found(name) == {name: "surfing_water--my_clip_1-1d2c3b4a"}
    assert found("two/b.avi", "one/b") == {"two/b.avi": "two--b", "one/b": "one--b"}
    assert found("x", template="trimmed_resize_{}") == {"x": "trimmed_resize_x"}
    assert found("a", template="run--{}") == {"a": "run--a"}
    for name in ("a", "b.avi"):
        with pytest.raises(UserError, match=r"fits 2 samples: (run--a, walk--a|one--b, two--b); say which with --key"):
            found(name)
    with pytest.raises(UserError, match="write {} once"):
        found("a", template="prefix_")


def test_annotate_takes_what_is_here_and_counts_the_rest(tmp_path):
    dest = build_dataset(tmp_path / "data", samples=4, frames=3)
    value = {f"{i:03d}.mp4": {"subset": "training", "caption": [f"text {i}", "more"]} for i in (1, 2, 7)}
    report = annotate(dest, written(tmp_path / "some.json", value), key="video_{}")
    assert (report.form, report.lines, report.changed) == ("captions by video", 3, 2)
    assert (report.without_sample, report.unknown, report.captioned) == (1, ("007.mp4",), (3, 4))
    data = open_dataset(dest)
    assert [data[i].captions for i in range(4)] == [("caption of 0",), ("text 1", "more"), ("text 2", "more"), ()]
    assert data[1].splits == ("training",) and data[0].label == "run"
    with pytest.raises(UserError, match=r"names no video of .*it has 001.mp4, .*the keys are such as video_000; --key"):
        annotate(dest, tmp_path / "some.json")
    twice = written(tmp_path / "twice.json", {"video_001": "a", "video_001.mp4": "b"})
    with pytest.raises(UserError, match="names the sample video_001 twice"):
        annotate(dest, twice)


def test_our_own_forms_take_several_captions_too(tmp_path):
    dest = build_dataset(tmp_path / "data", samples=3, frames=3)
    annotate(dest, written(tmp_path / "a.jsonl", '{"key": "video_001", "caption": ["a", "b"]}\n'))
    assert open_dataset(dest)[1].captions == ("a", "b")
    line = json.loads((dest / f"{open_dataset(dest).meta.samples_stem}.jsonl").read_text().splitlines()[1])
    assert line["caption"] == ["a", "b"]
    annotate(dest, written(tmp_path / "b.csv", "key,caption\nvideo_001,\nvideo_002,one\n"))
    assert [open_dataset(dest)[i].captions for i in (1, 2)] == [(), ("one",)]
    with pytest.raises(UserError, match=r"--key x_{} is for published files of captions"):
        annotate(dest, tmp_path / "b.csv", key="x_{}")
    quoted = '{"key": "video_000", "caption": "says \\", \\"caption\\": \\"", "group": ", \\"caption\\": "}'
    annotate(dest, written(tmp_path / "q.jsonl", quoted + "\n"))
    assert open_dataset(dest)[0].caption == 'says ", "caption": "' and summarize(dest).captioned == 2
    with pytest.raises(UserError, match="caption is \\['a', ''\\]; it must be text, a list of texts, or null"):
        annotate(dest, written(tmp_path / "c.jsonl", '{"key": "video_001", "caption": ["a", ""]}\n'))


PUBLISHED = {
    "msrvtt/videodatainfo_it.sample100.json": ("MSR-VTT captions", 100),
    "msrvtt/MSRVTT_JSFUSION_test.csv": ("table of video_id and sentence", 1000),
    "something_something_v2/something-something-v2-validation.first500.json": ("Something-Something labels", 500),
    "mmaction_samples/video_text_test_list.json": ("captions by video", 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(research_data, tmp_path, name):
    file = research_data / "annotations" / name
    if not file.exists():
        pytest.skip(f"no {name} there")
    form, count = PUBLISHED[name]
    found = read_caption_file(file)
    assert found is not None and (found.form, len(found.changes)) == (form, count)
    assert all(change["captions"] for change in found.changes.values())
    first, last = (list(found.changes)[k] for k in (0, -1))
    own = [f"train--{first.removesuffix('.mp4')}", *([last] if last != first else [])]
    keys = ("other", *own)
    dest = build_dataset(tmp_path / "data", samples=len(keys), frames=2, keys=keys)
    report = annotate(dest, file)
    assert report.changed == len({first, last}) and report.without_sample == count - report.changed
    data = open_dataset(dest)
    assert data.by_key(keys[1]).captions == found.changes[first]["captions"]
    assert data.by_key(keys[-1]).captions == found.changes[last]["captions"] and data[0].captions == ("caption of 0",)
    add_text(dest, workers=1)
    assert open_dataset(dest, columns=("text",)).captions([1], column="text") == data.captions([1])
