"""Split files in all forms, how their names find videos, held-out patterns, groups on both sides."""

import json
from pathlib import Path

import pytest

from shards.errors import StorageError, UserError
from vidprep.catalog import index
from vidprep.records import Video
from vidprep.split_files import read_list
from vidprep.splits import assign_lists, hold_out, shared_groups


def _videos(*paths: str) -> list[Video]:
    """Videos labelled by their first folder."""
    return [
        Video(key=f"k{i}", path=path, root="/r", label=path.split("/")[0] if "/" in path else None)
        for i, path in enumerate(paths)
    ]


def _splits(videos: list[Video], name: str | None, file: Path, **options) -> list[tuple[str, ...]]:
    return [video.splits for video in assign_lists(videos, [(name, file)], **options)[0]]


VIDEOS = _videos("run/a.avi", "run/b 1.avi", "walk/a.avi", "walk/c.mp4", "walk/d.avi")


@pytest.mark.parametrize(
    ("file", "text", "form"),
    [
        ("l.txt", "run/a.avi\r\nwalk/c.mp4\r\n", "UCF101 list"),
        ("l.txt", "run/a.avi 1\nwalk/c.mp4 2\n", "UCF101 list with class ids"),
        ("l.txt", "run/a 0 120\nwalk/c 0 99\n", "list of names with numbers"),
        ("l.txt", "c\nrun\\a.avi\n", "list of names"),
        ("l.txt", "/data/UCF/run/a.avi\n/data/UCF/walk/c.mp4\n", "UCF101 list"),
        ("l.csv", "path\nrun/a.avi\nwalk/c.mp4\n", "CSV, names in column path"),
        ("l.csv", "./run/a.avi\nc.mp4\n", "CSV, one column of names"),
        ("l.tsv", "Key\tlabel\nk0\tx\nk3\tx\n", "CSV, names in column key"),
        ("l.json", '["run/a.avi", "c"]', "JSON list of names"),
    ],
)
def test_lists_of_members(tmp_path: Path, file: str, text: str, form: str):
    (tmp_path / file).write_text(text)
    assert _splits(VIDEOS, "mine", tmp_path / file) == [("mine",), (), (), ("mine",), ()]
    assert assign_lists(VIDEOS, [("mine", tmp_path / file)])[1][0].form == form
    with pytest.raises(UserError, match="--split-file NAME="):
        assign_lists(VIDEOS, [(None, tmp_path / file)])


SIDED = {
    "l.csv": "split;video\ntrain;run/a.avi\ntest;walk/c.mp4\n;walk/d.avi\n",
    "split.json": '{"train": ["run/a.avi"], "test": ["c"]}',
    "cpd.json": json.dumps(
        {
            "labels": ["run", "walk"],
            "database": {
                "a": {"subset": "training", "annotations": {"label": "run"}},
                "c": {"subset": "testing", "annotations": {"label": "walk"}},
            },
        }
    ),
}


@pytest.mark.parametrize("file", SIDED)
def test_lists_with_sides(tmp_path: Path, file: str):
    (tmp_path / file).write_text(SIDED[file])
    assert _splits(VIDEOS, None, tmp_path / file) == [("train",), (), (), ("test",), ()]
    assert _splits(VIDEOS, "mine", tmp_path / file)[0] == ("mine-train",)


def test_hmdb51_files_one_split_or_all(tmp_path: Path):
    for number, (one, two) in enumerate([(1, 2), (2, 0)], 1):
        (tmp_path / f"run_test_split{number}.txt").write_text(f"a.avi {one} \nb 1.avi {two} \n\n")
        (tmp_path / f"walk_test_split{number}.txt").write_text(f"a.avi {two} \nd.avi {one} \n")
    one = f"{tmp_path}/*_test_split1.txt"
    assert _splits(VIDEOS, "h", one) == [("h-train",), ("h-test",), ("h-test",), (), ("h-train",)]
    both = assign_lists(VIDEOS, [("h", tmp_path)])
    assert both[0][0].splits == ("h-1-train", "h-2-test")
    assert both[1][0].unused == 2
    assert _splits(VIDEOS, None, tmp_path / "run_test_split2.txt")[:3] == [("test",), (), ()]


def test_numbers_that_belong_to_names_stay(tmp_path: Path):
    videos = _videos("clip 1.mp4", "clip 2.mp4", "clip.mp4")
    (tmp_path / "l.txt").write_text("clip 1\nclip 2\n")
    assert _splits(videos, "s", tmp_path / "l.txt") == [("s",), ("s",), ()]


def test_letter_case_is_ignored_only_where_nothing_fits_exactly(tmp_path: Path):
    trap = _videos("HandStandPushups/v_HandStandPushups_g01_c01.avi", "x/A.avi", "x/a.avi")
    (tmp_path / "l.txt").write_text("HandstandPushups/v_HandStandPushups_g01_c01.avi\nx/a.avi\n")
    videos, (report,) = assign_lists(trap, [("s", tmp_path / "l.txt")])
    assert [v.splits for v in videos] == [("s",), (), ("s",)]
    assert report.by_case == 1
    assert report.problems == ""


def test_composed_and_decomposed_names_are_the_same(tmp_path: Path):
    (tmp_path / "l.txt").write_text("cafe\u0301/a.avi\n", encoding="utf-8")
    assert _splits(_videos("caf\u00e9/a.avi"), "s", tmp_path / "l.txt") == [("s",)]


def test_unmatched_and_ambiguous_entries_are_counted_listed_and_errors_when_strict(tmp_path: Path):
    (tmp_path / "l.txt").write_text("run/a.avi\na\nrun/none.avi\nwalk/b 1.avi\n")
    videos, (report,) = assign_lists(VIDEOS, [("s", tmp_path / "l.txt")])
    assert [v.splits for v in videos] == [("s",), (), (), (), ()]
    assert report.unmatched == ("run/none.avi", "walk/b 1.avi")  # b 1 is of another class
    assert report.ambiguous == ("a",)
    assert report.problems == (
        "2 entries without a video: run/none.avi, walk/b 1.avi; 1 entries that fit several videos: a"
    )
    with pytest.raises(UserError, match="2 entries without a video"):
        assign_lists(VIDEOS, [("s", tmp_path / "l.txt")], strict=True)
    (tmp_path / "l.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match=r"no entry of .*l\.txt fits a video .*paths such as run/a\.avi"):
        assign_lists(VIDEOS, [("s", tmp_path / "l.txt")])


def test_folders_that_are_no_classes_do_not_matter(tmp_path: Path):
    (tmp_path / "l.txt").write_text("videos/c.mp4\nvideos/d.avi\n")
    assert _splits(VIDEOS, "s", tmp_path / "l.txt") == [(), (), (), ("s",), ("s",)]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("l.txt", "  \n", "is empty"),
        ("l.csv", "label,youtube_id\na,b\n", "no column names the video"),
        ("l.csv", "path,split\na\n", "row 2 has 1 columns"),
        ("l.json", '{"a": 3}', "allowed are a JSON list"),
        ("l.json", "{", "l.json:1: not JSON"),
        ("l.json", '{"database": {"a": {}}}', "'a' of the database has no subset"),
        ("run_test_split1.txt", "a.avi 3\n", "split1.txt:1: 'a.avi 3' is not a name and 0, 1 or 2"),
        ("run_test_split1.txt", "a.avi 0\n", "no video into train"),
    ],
)
def test_files_of_no_form(tmp_path: Path, file: str, text: str, words: str):
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError) as caught:
        read_list(tmp_path / file)
    assert words in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path):
    with pytest.raises(StorageError, match=r"none\.txt"):
        read_list(tmp_path / "none.txt")
    with pytest.raises(StorageError, match="no file fits"):
        read_list(f"{tmp_path}/*.csv")
    with pytest.raises(UserError, match="HMDB51"):
        read_list(tmp_path)


def test_held_out_patterns():
    assert [v.splits[0] for v in hold_out(VIDEOS, ["d.*", "run/*"])] == ["test", "test", "train", "train", "test"]
    with pytest.raises(UserError, match="fits no video"):
        hold_out(VIDEOS, ["a.*", "e.*"])
    with pytest.raises(UserError, match="fits all 5 videos"):
        hold_out(VIDEOS, ["*"])
    with pytest.raises(UserError, match="test is there already"):
        hold_out(hold_out(VIDEOS, ["a.*"]), ["a.*"])


def test_sides_that_share_groups_or_videos_are_warned_of():
    def video(i: int, group: str | None, *splits: str) -> Video:
        return Video(key=f"k{i}", path=f"{i}.mp4", root="/r", group=group, splits=splits)

    fine = [video(0, "a", "train", "u-test"), video(1, "b", "test", "u-train"), video(2, None, "train")]
    assert shared_groups(fine) == []
    bad = [*fine, video(3, "b", "train"), video(4, "c", "u-train", "u-val")]
    assert shared_groups(bad) == ["train and test share 1 groups: b", "u-train and u-val share 1 videos: 4.mp4"]


def _fabricate(root: Path, names: list[str]) -> Path:
    for folder in {name.split("/")[0] for name in names}:
        (root / folder).mkdir(parents=True)
    for name in names:
        (root / name).touch()
    return root


@pytest.mark.data
def test_official_ucf101_lists(research_data: Path, tmp_path: Path):
    lists = research_data / "annotations" / "ucf101"
    official = lists / "ucfTrainTestlist"
    names = [
        line.split()[0]
        for file in ("trainlist01.txt", "testlist01.txt")
        for line in (official / file).read_text().splitlines()
    ]
    found = index(
        _fabricate(tmp_path / "UCF-101", names),
        classes=official / "classInd.txt",
        split_files=[
            *((f"ucf{n}-train", official / f"trainlist0{n}.txt") for n in (1, 2)),
            *((f"ucf{n}-test", official / f"testlist0{n}.txt") for n in (1, 2)),
            ("cpd", lists / "cpd_json" / "ucf101_01.json"),
            ("pace", lists / "train_ucf101_split1.list"),
        ],
        strict=True,
    )
    assert found.split_counts() == {
        "cpd-train": 9537,
        "cpd-val": 3783,
        "pace": 9537,
        "ucf1-test": 3783,
        "ucf1-train": 9537,
        "ucf2-test": 3734,
        "ucf2-train": 9586,
    }
    assert found.classes[0] == "ApplyEyeMakeup"
    assert found.classes[100] == "YoYo"
    assert found.warnings == ()
    # 101 classes of 25 source videos, and the official lists keep them apart.
    assert len({v.group for v in found.videos}) == 2525
    assert {report.source.rpartition("/")[2]: report.by_case for report in found.lists if report.by_case} == {
        "train_ucf101_split1.list": 100
    }


@pytest.mark.data
def test_official_hmdb51_lists(research_data: Path, tmp_path: Path):
    lists = research_data / "annotations" / "hmdb51"
    files = sorted((lists / "testTrainMulti_7030_splits").glob("*_test_split1.txt"))
    names = [
        f"{file.name.split('_test_split')[0]}/{line.strip().rpartition(' ')[0]}"
        for file in files
        for line in file.read_text().splitlines()
    ]
    found = index(
        _fabricate(tmp_path / "hmdb51", names),
        split_files=[
            ("hmdb1", f"{lists}/testTrainMulti_7030_splits/*_test_split1.txt"),
            ("cpd", lists / "cpd_json" / "hmdb51_1.json"),
        ],
        strict=True,
    )
    assert len(found.classes) == 51
    assert found.split_counts() == {
        "cpd-train": 3570,
        "cpd-val": 1530,
        "hmdb1-test": 1530,
        "hmdb1-train": 3570,
    }
    assert found.lists[0].unused == len(found.videos) - 5100
