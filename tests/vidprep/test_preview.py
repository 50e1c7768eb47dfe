"""Contact sheets: what is shown, in which order and size, and that text is there whatever its letters."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from shards.columns import COLUMNS, ColumnKind
from shards.dataset import open_dataset
from shards.errors import UserError
from shards.meta import ColumnMeta
from tests.tiny import build_dataset
from tests.vidprep.drawing.columns import add_flow, add_table, row
from vidprep import preview
from vidprep.drawing import canvas
from vidprep.preview import contact_sheet


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(build_dataset(tmp_path_factory.mktemp("preview"), samples=10, frames=(12, 3, 1)))


def _shown(dataset, monkeypatch, **options) -> list[int]:
    seen: list[int] = []
    cell = preview._cell
    with monkeypatch.context() as patch:
        patch.setattr(preview, "_cell", lambda sample, *rest: (seen.append(sample.number), cell(sample, *rest))[1])
        contact_sheet(dataset, **options)
    return seen


def test_a_sheet_is_an_image_and_depends_on_the_seed_only(dataset):
    sheet = contact_sheet(dataset, count=4)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert sheet.shape[2] == 3
    assert (sheet == contact_sheet(dataset, count=4)).all()
    assert sheet.shape != contact_sheet(dataset, count=8).shape
    different = [contact_sheet(dataset, count=4, seed=seed) for seed in range(4)]
    assert any(other.shape != sheet.shape or (other != sheet).any() for other in different)


def test_classes_take_turns(dataset, monkeypatch):
    shown = _shown(dataset, monkeypatch, count=6, seed=1)
    assert len(set(shown)) == 6
    assert Counter(dataset[i].label for i in shown) == {"run": 3, "walk": 3}
    labels = [dataset[i].label_index for i in shown]
    assert labels == sorted(labels)
    assert len(_shown(dataset, monkeypatch, count=1)) == 1
    assert sorted(_shown(dataset, monkeypatch, count=99)) == list(range(10))


def test_only_the_split_that_was_asked_for(dataset, monkeypatch):
    assert sorted(_shown(dataset, monkeypatch, split="test")) == [0, 5]
    with pytest.raises(UserError, match="test, train"):
        contact_sheet(dataset, split="val")


def test_frames_are_evenly_spread_and_real(dataset):
    assert preview._spread(12, 4) == [0, 4, 7, 11]
    assert preview._spread(3, 8) == [0, 1, 2]
    assert preview._spread(1, 8) == [0]
    assert preview._tile(dataset, 0, "rgb", 50) == (50, 67)
    height, width = preview._tile(dataset, 0, "rgb", 100)
    assert (height, width) == (72, 96)  # 24x32, three times as large
    strip = preview._strip(dataset, 0, [0, 4, 7, 11], "rgb", (height, width))
    assert strip.shape == (height, 4 * width + 3 * 2, 3)
    for place, frame in enumerate(dataset.frames(0, [0, 4, 7, 11])):
        drawn = strip[:, place * (width + 2) :][:, :width]
        small = cv2.resize(drawn, (32, 24), interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - frame).mean() < 4


@pytest.mark.parametrize("label", ["walk", "Žluťoučký kůň", "Приседание", "舞踏", "رقص"])
def test_letters_of_all_scripts_are_drawn(label: str):
    """The font has a shape of its own for every letter: no two different letters look the same."""
    looks = set()
    letters = set(label) - {" "}
    for letter in letters:
        picture = canvas.paper(40, 60)
        canvas.write(picture, letter, 10, 30, 24, (0, 0, 0))
        assert (picture != canvas.paper(40, 60)).any()
        looks.add(picture.tobytes())
    assert len(looks) == len(letters)


def test_long_text_is_cut_to_its_place():
    text = canvas.fit("a very long class name " * 10, 200, 16)
    assert text.endswith("…")
    assert 150 < canvas.text_width(text, 16) <= 200
    assert canvas.fit("short", 200, 16) == "short"


def test_sets_without_labels_and_large_frames(tmp_path: Path):
    dest = build_dataset(tmp_path / "plain", samples=3, frames=2, size=(200, 120), classes=())
    sheet = contact_sheet(open_dataset(dest), frame_height=50, side_by_side=5)
    assert sheet.shape[0] < 300
    with pytest.raises(UserError, match="count is 0"):
        contact_sheet(open_dataset(dest), count=0)


@pytest.fixture(scope="module")
def columns(tmp_path_factory) -> Path:
    """Ten samples with two flow and two statistics columns; sample 4 failed in `flow`, sample 7 in `statistics`."""
    dest = build_dataset(tmp_path_factory.mktemp("columns"), samples=10)
    fields = np.zeros((11, 24, 32, 2), np.float32)
    fields[:, 8:16, 8:24] = (1.5, 0)
    add_flow(dest, lambda i: None if i == 4 else fields)
    add_flow(dest, lambda i: fields, name="flow-raft", codec="lossless")
    labels = {"p1_u_block": 6, "p1_u_angle": 1}
    add_table(dest, lambda i: None if i == 7 else [row(n, n, 2 * n, n % 2, **labels) for n in range(4)])
    add_table(dest, lambda i: [row()], name="statistics-224")
    return dest


TITLE, STRIP, LINE = 25 + 22, 72, 22  # heights of a cell's words, of a strip, and of a line of text
FLOW = LINE + 3 * STRIP + 2 * 2  # field, boundaries of u and v
PANEL = LINE + 2 * (192 + 25) + 6  # two lines of pictures with captions
STRIPS = 8 * 96 + 7 * 2


@pytest.mark.parametrize(
    ("names", "height", "width"),
    [
        ("rgb", STRIP, STRIPS),
        ("flow", FLOW + STRIP + 2, STRIPS + 46),  # its frames come with it
        ("flow-raft", FLOW + STRIP + 2, STRIPS + 46),
        ("rgb,flow", STRIP + 10 + FLOW, STRIPS + 46),
        ("statistics", PANEL, 4 * 192 + 3 * 14),
        ("flow,statistics", FLOW + STRIP + 2 + 10 + PANEL, STRIPS + 46),
        ("statistics-224,flow-raft,rgb", PANEL + 10 + FLOW + 10 + STRIP, STRIPS + 46),
    ],
)
def test_sheets_have_the_promised_sizes(columns, names, height, width):
    dataset = open_dataset(columns)
    chosen = tuple(names.split(","))
    one, two, three = (contact_sheet(dataset, columns=chosen, count=n, side_by_side=1) for n in (1, 2, 3))
    assert one.shape[1] == two.shape[1] == width + 2 * 28
    assert two.shape[0] - one.shape[0] == three.shape[0] - two.shape[0] == TITLE + height + 22
    wide = contact_sheet(dataset, columns=chosen, count=2, side_by_side=2)
    assert wide.shape[1] == one.shape[1] + width + 22
    assert (one == contact_sheet(dataset, columns=chosen, count=1, side_by_side=1)).all()


def test_columns_stand_in_the_order_that_was_asked_for(columns):
    dataset = open_dataset(columns)
    frames_first, flow_first = (contact_sheet(dataset, columns=c, count=1) for c in (("rgb", "flow"), ("flow", "rgb")))
    assert frames_first.shape == flow_first.shape
    above = frames_first[-28 - FLOW - 10 - STRIP : -28 - FLOW - 10]
    assert (above == flow_first[-28 - STRIP : -28]).all()
    assert (frames_first[-28 - FLOW : -28] == flow_first[-28 - STRIP - 10 - FLOW : -28 - STRIP - 10]).all()


def test_the_seed_draws_the_row(columns):
    dataset = open_dataset(columns)
    sheets = [contact_sheet(dataset, columns=["statistics"], count=10, seed=seed) for seed in (0, 0, 1)]
    assert (sheets[0] == sheets[1]).all()
    assert (sheets[0] != sheets[2]).any()


def test_failed_samples_are_left_out(columns, monkeypatch):
    dataset = open_dataset(columns)
    rest = set(range(10))
    assert set(_shown(dataset, monkeypatch, columns=["flow"], count=10)) == rest - {4}
    assert set(_shown(dataset, monkeypatch, columns=["statistics"], count=10)) == rest - {7}
    assert set(_shown(dataset, monkeypatch, columns=["flow", "statistics"], count=10)) == rest - {4, 7}
    assert set(_shown(dataset, monkeypatch, columns=["flow-raft", "statistics-224"], count=10)) == rest
    assert len(_shown(dataset, monkeypatch, columns=["flow-raft"])) == 8
    assert len(_shown(dataset, monkeypatch)) == 10


def test_columns_that_cannot_be_drawn(columns, monkeypatch):
    monkeypatch.setitem(COLUMNS, "sound", ColumnKind(suffix="flac", framed=False))
    dataset = open_dataset(columns)
    sound = ColumnMeta(kind="sound", folder="sound")
    dataset.meta = replace(dataset.meta, columns={**dataset.meta.columns, "sound": sound})
    with pytest.raises(UserError, match="'sound' holds sound, which is not drawn; draw rgb, flow, flow-raft, statist"):
        contact_sheet(dataset, columns=["rgb", "sound"])
    with pytest.raises(UserError, match="name at least one column"):
        contact_sheet(dataset, columns=[])


def test_clips_of_one_field_leave_room_for_words(tmp_path: Path):
    dest = build_dataset(tmp_path / "data", samples=2, frames=2)
    add_flow(dest, lambda i: np.zeros((1, 24, 32, 2), np.float32))
    assert contact_sheet(open_dataset(dest), columns=["flow"]).shape[1] > 800


def test_nothing_to_show(tmp_path: Path):
    dest = build_dataset(tmp_path / "data", samples=6)
    add_flow(dest, lambda i: None)
    dataset = open_dataset(dest)
    with pytest.raises(UserError, match=r"no sample to show: 6 failed in rgb or flow; vidprep info"):
        contact_sheet(dataset, columns=["flow"])
    with pytest.raises(UserError, match=r"no sample to show in split 'test': 2 failed"):
        contact_sheet(dataset, columns=["rgb", "flow"], split="test")
    with pytest.raises(UserError, match="no column 'statistics'; .*vidprep labels"):
        contact_sheet(dataset, columns=["statistics"])
    assert contact_sheet(dataset).shape[0] > 100
