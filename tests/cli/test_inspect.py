"""`vidprep info`, `check` and `preview` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.main import run
from tests.vidprep.clips import noise_frames, write_clip
from tests.vidprep.drawing.columns import add_flow, add_table, row
from vidprep.pack import pack
from vidprep.records import Video, write_manifest


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    lines = []
    for i, fps in enumerate((25, 25, 10)):
        write_clip(root / f"{i}.mp4", noise_frames(6 + i, seed=i), fps=fps)
        label = "walk" if i else "run"
        lines.append(Video(key=f"k{i}", path=f"{i}.mp4", root=str(root), label=label, splits=("train",)))
    (root / "bad.mp4").touch()
    lines.append(Video(key="bad", path="bad.mp4", root=str(root)))
    write_manifest(root / "set.jsonl", lines)
    pack(root / "set.jsonl", root / "data", short_side=24, workers=1, max_bad=0.5)
    return root / "data"


def test_info(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(packed)]) == 0
    shown = capsys.readouterr()
    for words in ("3 in 1 shards", "21 (6 to 8 a sample, median 7)", "walk\t2", "train\t3", "24x32\t3", "25.00\t2"):
        assert words in shown.out
    assert "empty-file\t1" in shown.out
    assert "warning: frame rates are mixed: 1 of 3" in shown.err and "--fps" in shown.err


def test_info_for_programs(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(packed), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["frames"], summary["bad"], summary["mixed"]) == (3, 21, 1, 1)
    assert summary["classes"] == {"run": 1, "walk": 2} and summary["rates"] == {"25.00": 2, "10.00": 1}
    assert summary["columns"]["rgb"]["tar_bytes"] == (packed / "rgb/000000.tar").stat().st_size


@pytest.mark.parametrize("command", ["info", "check"])
def test_what_is_no_data_set(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, str(tmp_path)]) == 1
    assert "vidprep pack MANIFEST" in capsys.readouterr().err


def test_info_counts_nothing_that_is_missing(
    tiny_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_dataset()
    (data / "rgb/000000.json").unlink()
    assert run(["info", str(data)]) == 1
    assert "2 receipts of 3 shards; vidprep check" in capsys.readouterr().err


def test_check(tiny_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_dataset()
    assert run(["check", str(data)]) == 0
    assert "all right" in capsys.readouterr().out
    tar = next(data.glob("rgb/*.tar"))
    tar.chmod(0o644)
    content = bytearray(tar.read_bytes())
    content[len(content) // 3] ^= 255
    tar.write_bytes(content)
    assert run(["check", str(data)]) == 1
    shown = capsys.readouterr()
    assert f"rgb/{tar.name}" in shown.out and "problems in" in shown.err


def test_preview(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sheet.png", "sheet.jpg"):
        assert run(["preview", str(packed), "-o", str(tmp_path / name), "--count", "2"]) == 0
        assert cv2.imread(str(tmp_path / name)) is not None
    assert run(["preview", str(packed), "-o", str(tmp_path / "sheet.txt")]) == 2
    assert run(["preview", str(packed), "-o", str(tmp_path / "none" / "sheet.png")]) == 1
    assert run(["preview", str(packed), "-o", str(tmp_path / "a.png"), "--columns", "flow"]) == 1
    assert "no column 'flow'" in capsys.readouterr().err


def test_preview_of_several_columns(
    tiny_dataset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_dataset(samples=3)
    add_flow(data, lambda i: np.zeros((11, 24, 32, 2), np.float32))
    add_table(data, lambda i: [row()], name="statistics-16")
    heights = {}
    for columns in ("rgb", "flow", "rgb, flow,statistics-16"):
        assert run(["preview", str(data), "-o", str(tmp_path / "sheet.png"), "--columns", columns, "--count", "1"]) == 0
        heights[columns] = cv2.imread(str(tmp_path / "sheet.png")).shape[0]
    assert sorted(heights.values()) == list(heights.values()) and len(set(heights.values())) == 3
    assert run(["preview", str(data), "-o", str(tmp_path / "sheet.png"), "--columns", "statistics"]) == 1
    assert "no column 'statistics'; it has: rgb, flow, statistics-16; make it with" in capsys.readouterr().err
