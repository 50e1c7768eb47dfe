"""Contact sheets: what is shown, in which order, and that text is there whatever its letters."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from shards.dataset import open_dataset
from shards.errors import UserError
from tests.tiny import build_dataset
from vidprep import preview
from vidprep.preview import contact_sheet


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(build_dataset(tmp_path_factory.mktemp("preview"), samples=10, frames=(12, 3, 1)))


def _shown(dataset, monkeypatch, **options) -> list[int]:
    seen: list[int] = []
    strip = preview._strip
    monkeypatch.setattr(preview, "_strip", lambda d, i, *rest: (seen.append(i), strip(d, i, *rest))[1])
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
    assert preview._spread(12, 4).tolist() == [0, 4, 7, 11]
    assert preview._spread(3, 8).tolist() == [0, 1, 2]
    assert preview._spread(1, 8).tolist() == [0]
    height, width = 72, 96  # 24x32, three times as large
    strip = preview._strip(dataset, 0, 4, 100)
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
        canvas = preview._paper(40, 60)
        preview._write(canvas, letter, 10, 30, 24, (0, 0, 0))
        assert (canvas != preview._paper(40, 60)).any()
        looks.add(canvas.tobytes())
    assert len(looks) == len(letters)


def test_long_text_is_cut_to_its_place():
    text = preview._fit("a very long class name " * 10, 200, 16)
    assert text.endswith("…")
    assert 150 < preview._text_width(text, 16) <= 200
    assert preview._fit("short", 200, 16) == "short"


def test_sets_without_labels_and_large_frames(tmp_path: Path):
    dest = build_dataset(tmp_path / "plain", samples=3, frames=2, size=(200, 120), classes=())
    sheet = contact_sheet(open_dataset(dest), frame_height=50, columns=5)
    assert sheet.shape[0] < 300
    with pytest.raises(UserError, match="count is 0"):
        contact_sheet(open_dataset(dest), count=0)
