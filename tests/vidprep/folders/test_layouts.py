"""Which field belongs to which frames, and where folders are found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shards.errors import UserError
from tests.vidprep.folders.trees import write_frames
from vidprep.folders.layouts import Fields, Leads, match_fields, ucf_name
from vidprep.folders.scan import Lookup, find_folders, frame_folders


def pairs(frames: range, fields: range, leads: Leads) -> Fields:
    return match_fields(list(frames), list(fields), leads=leads)


@pytest.mark.parametrize(
    ("frames", "fields", "leads", "numbers", "unused"),
    [
        # gpu_flow, the two-stream release
        (range(1, 6), range(1, 5), "from", (1, 2, 3, 4), ()),
        # T fields: the last one leads to a frame that is not there
        (range(1, 6), range(1, 6), "from", (1, 2, 3, 4), (5,)),
        # denseflow, and its flow beside frames that OpenCV wrote
        (range(5), range(4), "from", (0, 1, 2, 3), ()),
        (range(1, 6), range(4), "from", (0, 1, 2, 3), ()),
        # dense_flow stores the frame that a field leads to: the first field leads from a frame that is not there
        (range(1, 6), range(1, 6), "to", (2, 3, 4, 5), (1,)),
        (range(1, 6), range(5), "to", (1, 2, 3, 4), (0,)),
        # a part of a video
        (range(11, 16), range(1, 31), "from", (11, 12, 13, 14), tuple(n for n in range(1, 31) if not 11 <= n < 15)),
        ([3], range(3, 3), "from", (), ()),
    ],
)
def test_fields_are_matched_by_number(
    frames: range, fields: range, leads: Leads, numbers: tuple[int, ...], unused: tuple[int, ...]
) -> None:
    assert pairs(frames, fields, leads) == Fields(numbers=numbers, missing=(), unused=unused)


def test_a_missing_field_shifts_none() -> None:
    found = match_fields([1, 2, 3, 4, 5], [1, 3, 4], leads="from")
    assert (found.numbers, found.missing) == ((1, 2, 3, 4), (2,))
    assert match_fields([1, 2, 3], [], leads="from").missing == (1, 2)
    assert match_fields([1, 2, 3, 4], [2, 3], leads="from").missing == (1,)


def test_ucf_names() -> None:
    assert ucf_name("v_HandstandPushups_g01_c02") == ("HandstandPushups", "v_HandstandPushups_g01")
    assert ucf_name("v_Archery_g01") is None


def test_frame_folders_at_any_depth(tmp_path: Path) -> None:
    for path in ("a/one", "b/deep/two", "three", "a/v_YoYo_g02_c01"):
        write_frames(tmp_path / path, 0, range(1, 3))
    write_frames(tmp_path / "a/one/TSP_flows", 0, range(1, 3))  # below a video: not a video
    write_frames(tmp_path / ".done/x", 0, range(1, 3))
    (tmp_path / "b/loop").symlink_to(tmp_path)
    (tmp_path / "b/notes.txt").write_text("x")
    notes: list[str] = []
    videos = frame_folders(tmp_path, layout="pace", note=notes.append)
    assert [(video.path, video.label, video.group) for video in videos] == [
        ("a/one", "a", None),
        ("a/v_YoYo_g02_c01", "a", "v_YoYo_g02"),
        ("b/deep/two", "deep", None),
        ("three", None, None),
    ]
    assert videos[0].key == "a--one" and notes == ["1 of 4 videos have no class: no folder above them, no UCF101 name"]


def test_nothing_found_names_the_layout_that_fits(tmp_path: Path) -> None:
    write_frames(tmp_path / "a/b", 0, range(1, 3), "image_%05d.jpg")
    with pytest.raises(UserError, match=r"no frame of layout pace .*named as in --layout svc"):
        frame_folders(tmp_path, layout="pace")
    with pytest.raises(UserError, match="is the folder of one video"):
        frame_folders(tmp_path / "a/b", layout="svc")
    with pytest.raises(UserError, match="does not exist"):
        frame_folders(tmp_path / "c", layout="svc")


def test_folders_may_differ_in_letter_case_only_by_name(tmp_path: Path) -> None:
    for name in ("v_HandStandPushups_g01_c01", "v_A_g01_c01", "v_a_g01_c01", "twice"):
        (tmp_path / name).mkdir()
    lookup = Lookup(tmp_path, repeated={"twice"})
    assert lookup.find("HandstandPushups/v_HandstandPushups_g01_c01") == "v_HandStandPushups_g01_c01"
    assert [lookup.find(name) for name in ("v_A_g01_c01", "v_a_g01_c01")] == ["v_A_g01_c01", "v_a_g01_c01"]
    assert lookup.find("v_B_g01_c01") is None
    assert lookup.find("a/twice") is None  # of which class?


def test_links_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").symlink_to(tmp_path)
    assert find_folders(tmp_path, re.compile("x")) == ([], [])
