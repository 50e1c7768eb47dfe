"""`vidprep import` and `vidprep flow-folders` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.folders import _LAYOUTS
from cli.main import run
from tests.vidprep.folders.trees import frame, twostream, write, write_frames
from vidprep.folders.layouts import LAYOUTS


def test_the_command_knows_every_layout() -> None:
    assert tuple(LAYOUTS) == _LAYOUTS


def test_import_then_look_at_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = twostream(tmp_path / "ucf101")
    (tmp_path / "train.txt").write_text("\n".join(list(made)[:2]))
    dest = str(tmp_path / "data")
    arguments = ["import", str(tmp_path / "ucf101"), dest, "--layout", "twostream", "--workers", "1", "--fps", "30"]
    assert run([*arguments, "--split-file", f"train={tmp_path}/train.txt"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events if event["event"] in ("start", "done")] == ["start", "start", "done"]
    assert (events[-1]["samples"], events[-1]["flow"], events[-1]["frames"]) == (3, 3, 18)
    assert any("list of names: train 2" in event.get("message", "") for event in events)
    for command in (["info", dest], ["check", dest], ["preview", dest, "-o", str(tmp_path / "sheet.png")]):
        assert run(command) == 0
    shown = capsys.readouterr().out
    assert "30.00" in shown and "height width 24x32" in shown and "all right" in shown
    assert run([*arguments, "--max-bad", "0%"]) == 1
    assert "splits" in capsys.readouterr().err  # the tree is planned with other splits


def test_a_bar_for_each_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twostream(tmp_path / "ucf101")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(["import", str(tmp_path / "ucf101"), str(tmp_path / "data"), "--layout", "twostream"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("3/3") >= 2 and "3 with flow" in shown.err


def test_flow_folders_exit_with_1_where_some_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(tmp_path / "rgb/a/good", 0, range(1, 4))
    write_frames(tmp_path / "rgb/a/short", 1, range(1, 2))
    arguments = ["flow-folders", str(tmp_path / "rgb"), str(tmp_path / "out"), "--method", "dis", "--workers", "1"]
    assert run(arguments) == 1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["reason"] for event in events if event["event"] == "verdict"] == ["it holds 1 frame; flow needs two"]
    assert (events[-1]["written"], list(events[-1]["failed"])) == (1, [str(tmp_path / "rgb/a/short")])
    write(tmp_path / "rgb/a/short/frame000002.jpg", frame(1, 2))
    assert run([*arguments, "--size", "24x32"]) == 1
    assert "was written with resize None, this command asks for [24, 32]" in capsys.readouterr().err
    assert run(arguments) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        ["import", "d", "e"],
        ["import", "d", "e", "--layout", "lmdb"],
        ["import", "d", "e", "--layout", "pace", "--max-bad", "much"],
        ["flow-folders", "d", "e", "--method", "raft"],
        ["flow-folders", "d", "e", "--size", "3"],
        ["flow-folders", "d"],
    ],
)
def test_wrong_values_are_wrong_usage(wrong: list[str]) -> None:
    assert run(wrong) == 2


def test_trees_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", str(tmp_path / "no"), str(tmp_path / "d"), "--layout", "pace"]) == 1
    assert run(["flow-folders", str(tmp_path / "no"), str(tmp_path / "d")]) == 1
    assert capsys.readouterr().err.count("does not exist; give the folder of frames") == 2
