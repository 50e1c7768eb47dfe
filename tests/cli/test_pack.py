"""`vidprep pack` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from cli.console import Events, human_bytes, parse_bytes, parse_share, parse_size
from cli.main import run
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.records import Video, write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for i in range(3):
        write_clip(tmp_path / f"{i}.mp4", noise_frames(5 + i, seed=i))
    (tmp_path / "3.mp4").write_text("no video")
    write_manifest(
        tmp_path / "set.jsonl",
        [Video(key=f"k{i}", path=f"{i}.mp4", root=str(tmp_path), label="x") for i in range(4)],
    )
    return tmp_path / "set.jsonl"


def test_events_are_json_lines_off_a_terminal(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = str(manifest.parent / "d")
    arguments = [
        "pack",
        str(manifest),
        dest,
        "--size",
        "24x40",
        "--max-bad",
        "30%",
        "--workers",
        "1",
        "--shard-size",
        "1MB",
    ]
    assert run(arguments) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "plan" and events[-1]["event"] == "done"
    assert (events[-1]["samples"], events[-1]["frames"], events[-1]["bad"]) == (3, 18, 1)
    assert run([*arguments[:3], "--size", "24x41"]) == 1
    assert "--size 24x40" in capsys.readouterr().err


def test_too_many_bad_videos_exit_with_1(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pack", str(manifest), str(manifest.parent / "d"), "--short-side", "16", "--workers", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: 1 of 4 videos give no frame (1 not-a-video)")
    assert "--max-bad 25%" in error and "Traceback" not in error


def test_a_dry_run_refuses_what_does_not_fit(
    manifest: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["pack", str(manifest), str(manifest.parent / "d"), "--short-side", "16", "--workers", "1", "--dry-run"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    for word in ("rgb column", "scratch space", "core-hours", "wall time", "4 of 4, 1 bad"):
        assert word in shown
    monkeypatch.setattr("vidprep.estimate.disk_usage", lambda path: SimpleNamespace(free=99))
    assert run(arguments) == 1
    assert "do not fit" in capsys.readouterr().err
    assert not (manifest.parent / "d").exists()


@pytest.mark.parametrize(
    "wrong",
    [["--size", "24"], ["--shard-size", "much"], ["--max-bad", "200%"], ["--quality", "0"], ["--short-side", "x"]],
)
def test_wrong_values_are_wrong_usage(manifest: Path, wrong: list[str]) -> None:
    assert run(["pack", str(manifest), "d", *wrong]) == 2


def test_a_manifest_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pack", str(tmp_path / "none.jsonl"), str(tmp_path / "d")]) == 1
    assert "vidprep index ROOT -o" in capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Events(unit="videos") as events:
        events({"event": "plan", "message": "measuring"})
        events({"event": "start", "total": 4, "done": 1, "shards": 2})
        events({"event": "progress", "done": 3, "videos": 1.5, "frames": 99.0})
        events({"event": "verdict", "message": "bad: k: [red] is no markup here"})
        events({"event": "shard", "shard": 0})
        events({"event": "done", "message": "all done"})
    shown = capsys.readouterr()
    assert shown.out == ""
    for words in ("measuring", "3/4", "99.0 frames/s", "[red] is no markup", "all done"):
        assert words in shown.err


def test_values_as_people_write_them() -> None:
    assert [parse_bytes(text) for text in ("256MB", "1GiB", "1.5 kB", "77")] == [256_000_000, 1 << 30, 1500, 77]
    assert parse_size("128x171") == (128, 171)
    assert [parse_share(text) for text in ("2%", "0.5", "100%")] == [0.02, 0.5, 1.0]
    assert [human_bytes(n) for n in (0, 999, 1500, 2.5e12)] == ["0 B", "999 B", "1.5 kB", "2.5 TB"]
    for parse, wrong in ((parse_bytes, "0"), (parse_bytes, "x"), (parse_size, "3x"), (parse_share, "-1")):
        with pytest.raises(click.BadParameter):
            parse(wrong)
