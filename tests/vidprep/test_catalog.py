"""Indexing folders: which files are videos, their order, keys, classes, groups; catalogs of the user's own."""

import os
from pathlib import Path

import pytest

from shards.errors import UserError
from vidprep.catalog import index, write_index
from vidprep.classes import classes_path, read_classes, write_classes
from vidprep.folder import folder
from vidprep.records import read_manifest


def _touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def _paths(root: Path, **options) -> list[str]:
    return [video.path for video in index(root, **options).videos]


def test_class_folders_in_byte_order_with_all_containers(tmp_path: Path):
    root = _touch(tmp_path, "walk/b.MP4", "walk/a 1.webm", "Run/z.264", "Run/deep/er/c.mkv", "über/é.avi", "top.mov")
    found = index(root)
    assert [(v.path, v.label, v.label_index) for v in found.videos] == [
        ("Run/deep/er/c.mkv", "Run", 0),
        ("Run/z.264", "Run", 0),
        ("top.mov", None, None),
        ("walk/a 1.webm", "walk", 1),
        ("walk/b.MP4", "walk", 1),
        ("über/é.avi", "über", 2),
    ]
    assert found.classes == ("Run", "walk", "über")
    assert len({v.key for v in found.videos}) == 6
    assert all(v.root == str(root) and Path(v.location).exists() for v in found.videos)


def test_files_that_differ_in_their_suffix_only_get_different_keys(tmp_path: Path):
    found = index(_touch(tmp_path, "a/x.mp4", "a/x.avi", "a/y.mp4"))
    keys = [video.key for video in found.videos]
    assert len(set(keys)) == 3
    assert keys[2] == "a--y"
    assert all(key.startswith("a--x-") for key in keys[:2])


def test_what_is_no_video_is_counted_and_named(tmp_path: Path):
    root = _touch(tmp_path, "a/x.mp4", "a/x.txt", "a/y.txt", "b/z.weird", "a/README", "a/._x.mp4", ".git/x.mp4")
    (root / "a" / "gone.mp4").symlink_to(root / "nowhere")
    found = index(root)
    assert len(found.videos) == 1
    assert found.notes == (
        "7 entries that are no videos: .txt (2), hidden (2), .weird (1), broken links (1), no suffix (1)",
    )
    assert _paths(root, options={"suffixes": ["weird"]}) == ["a/x.mp4", "b/z.weird"]
    assert _paths(root, options={"suffixes": [".WEIRD"]}) == ["a/x.mp4", "b/z.weird"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    _touch(tmp_path, "store/clip.mp4", "root/a/x.mp4")
    root = tmp_path / "root"
    (root / "b").symlink_to(tmp_path / "store")
    (root / "a" / "linked.mp4").symlink_to(tmp_path / "store" / "clip.mp4")
    (root / "a" / "up").symlink_to(root)
    found = index(root)
    assert [v.path for v in found.videos] == ["a/linked.mp4", "a/x.mp4", "b/clip.mp4"]
    assert "lead back into themselves (1)" in found.notes[0]


def test_names_that_are_not_utf8_survive(tmp_path: Path):
    name = os.fsdecode(b"a/\xff.mp4")
    try:
        _touch(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = index(tmp_path)
    write_index(found, tmp_path / "m.jsonl")
    assert [v.path for v in read_manifest(tmp_path / "m.jsonl")] == [name]
    _touch(tmp_path, os.fsdecode(b"\xfe/x.mp4"))
    with pytest.raises(UserError, match="cannot be a class name"):
        index(tmp_path)


def test_split_folders_are_recognised_and_reported(tmp_path: Path):
    root = _touch(tmp_path, "train/a/x.mp4", "train/b/y.mp4", "Validation/a/z.mp4", "test/loose.mp4")
    found = index(root)
    assert [(v.path, v.label, v.splits) for v in found.videos] == [
        ("Validation/a/z.mp4", "a", ("val",)),
        ("test/loose.mp4", None, ("test",)),
        ("train/a/x.mp4", "a", ("train",)),
        ("train/b/y.mp4", "b", ("train",)),
    ]
    assert found.notes == ("splits by folder: Validation/ is val, test/ is test, train/ is train",)


def test_a_class_named_train_stays_a_class(tmp_path: Path):
    found = index(_touch(tmp_path, "train/x.mp4", "bus/y.mp4"))
    assert [(v.label, v.splits) for v in found.videos] == [("bus", ()), ("train", ())]
    assert "taken for a class" in found.notes[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ([], "is empty"),
        (["notes.txt"], r"\.txt \(1\)"),
        (None, "does not exist"),
    ],
)
def test_roots_without_videos(tmp_path: Path, make, words: str):
    root = tmp_path / "root"
    if make is not None:
        root.mkdir()
        _touch(root, *make)
    with pytest.raises(UserError, match=words):
        index(root)


def test_one_class_only_is_suspicious(tmp_path: Path):
    assert "one folder too high" in index(_touch(tmp_path, "videos/a/x.mp4", "videos/b/y.mp4")).warnings[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classInd.txt", "1 walk\r\n2 run fast\r\n3 über\r\n"),
        ("zero.txt", "0 walk\n2 über\n1 run fast\n"),
        ("names.txt", "walk\n\nrun fast\nüber\n"),
        ("list.json", '["walk", "run fast", "über"]'),
        ("table.json", '{"über": "2", "walk": "0", "run fast": "1"}'),
    ],
)
def test_class_tables(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_classes(tmp_path / name) == ("walk", "run fast", "über")
    root = _touch(tmp_path / "root", "über/a.mp4", "walk/b.mp4")
    found = index(root, classes=tmp_path / name)
    assert [v.label_index for v in found.videos] == [0, 2]
    assert found.notes == ("1 of 3 classes have no video here",)
    write_index(found, tmp_path / "m.jsonl")
    assert read_classes(classes_path(tmp_path / "m.jsonl")) == found.classes


def test_class_tables_fix_letter_case_and_refuse_other_classes(tmp_path: Path):
    write_classes(tmp_path / "c.txt", ["HandstandPushups", "Archery"])
    root = _touch(tmp_path / "root", "HandStandPushups/a.mp4")
    found = index(root, classes=tmp_path / "c.txt")
    assert (found.videos[0].label, found.videos[0].label_index) == ("HandstandPushups", 0)
    assert "letter case" in found.notes[0]
    _touch(root, "Rowing/a.mp4", "Rowing/b.mp4")
    with pytest.raises(UserError, match="2 videos are of classes that --classes does not name: Rowing"):
        index(root, classes=tmp_path / "c.txt")


@pytest.mark.parametrize(
    "names", [["walk", "run"], ["2 kicks", "1 kick"], ["[something] falls", "1"], ["[1]"], ["é {}", "{"]]
)
def test_written_class_tables_are_read_back(tmp_path: Path, names: list[str]):
    write_classes(tmp_path / "c.txt", names)
    assert list(read_classes(tmp_path / "c.txt")) == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no class"),
        ("walk\nwalk\n", "'walk' stands there more than once"),
        ("1 walk\n3 run\n", "3 \\('run'\\) stands where 2 should"),
        ("2 walk\n3 run\n", "2 \\('walk'\\) stands where 0 should"),
        ('{"walk": "a"}', "JSON list of names"),
        ('["walk"', ":1: not JSON"),
    ],
)
def test_wrong_class_tables(tmp_path: Path, text: str, words: str):
    file = tmp_path / ("c.json" if text[:1] in ("[", "{") else "c.txt")
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_classes(file)


def test_groups_of_ucf_names_and_of_a_pattern(tmp_path: Path):
    root = _touch(tmp_path, "Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g01_c02.avi", "Archery/own_7.avi")
    groups = [v.group for v in index(root).videos]
    assert groups == [None, "v_Archery_g01", "v_Archery_g01"]
    found = index(root, group=r"_(.)[^_/]*$")
    assert [v.group for v in found.videos] == ["7", "c", "c"]
    assert index(root, group="own").notes == ("--group fits 1 of 3 videos; the others have no group",)
    with pytest.raises(UserError, match="fits no path"):
        index(root, group="person")
    with pytest.raises(UserError, match="not a regular expression"):
        index(root, group="(")


def test_an_index_without_labels_leaves_no_class_table(tmp_path: Path):
    root = _touch(tmp_path / "root", "a.mp4")
    classes_path(tmp_path / "m.jsonl").write_text("of an earlier run\n")
    write_index(index(root), tmp_path / "m.jsonl")
    assert not classes_path(tmp_path / "m.jsonl").exists()


OWN = """
from pathlib import Path
from vidprep.records import Video

def clips(root, *, limit="3", **options):
    options["note"]("own catalog")
    for i in range(int(limit)):
        yield Video(key=f"clip{i}", path=f"{i}.mp4", root=str(root), label="ab"[i % 2], caption=f"number {i}")

def plain(root):
    return [Video(key="k", path="p.mp4", root=str(root))]

def numbered(root):
    for key, label, i in (("x", "late", 1), ("y", "early", 0)):
        yield Video(key=key, path=f"{key}.mp4", root=str(root), label=label, label_index=i)

def gaps(root):
    yield Video(key="x", path="x.mp4", root=str(root), label="late", label_index=4)

def twice(root):
    return [Video(key="k", path=p, root=str(root)) for p in ("p.mp4", "q.mp4")]

def wrong(root):
    return ["p.mp4"]

value = 3
"""


def test_own_catalogs(tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN)

    def run(name: str, **options):
        return index(tmp_path, format=f"{tmp_path}/own.py:{name}", options=options)

    found = run("clips", limit="4")
    assert [(v.key, v.label_index) for v in found.videos] == [
        ("clip0", 0),
        ("clip1", 1),
        ("clip2", 0),
        ("clip3", 1),
    ]
    assert (found.classes, found.notes) == (("a", "b"), ("own catalog",))
    assert run("plain").videos[0].key == "k"
    assert run("numbered").classes == ("early", "late")
    with pytest.raises(UserError, match="from 0 without gaps"):
        run("gaps")
    with pytest.raises(UserError, match=r"'k' stands for p\.mp4 and for q\.mp4"):
        run("twice")
    with pytest.raises(UserError, match=r"must give vidprep\.records\.Video"):
        run("wrong")
    with pytest.raises(UserError, match="no option 'colour'; it has: none"):
        run("plain", colour="red")
    with pytest.raises(UserError, match="no function"):
        run("value")
    with pytest.raises(UserError, match="has no 'missing'"):
        run("missing")
    with pytest.raises(UserError, match=r"allowed: folder, or file\.py:Name"):
        index(tmp_path, format="kinetics")


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = _touch(tmp_path, *(f"{c}/{n}.mp4" for c in "zaq" for n in range(12)))
    before = folder(root)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: list(scandir(path))[::-1])
    assert folder(root) == before


@pytest.mark.data
def test_weizmann(research_data: Path):
    root = research_data / "clips" / "weizmann"
    found = index(root, group=r"([a-z]+)_\w+\.avi$", holdout=["lena_*", "ido_*"])
    assert len(found.videos) == 63
    assert len(found.classes) == 9
    assert found.split_counts() == {"test": 18, "train": 45}
    assert len({v.group for v in found.videos}) == 7
    assert found.warnings == ()
