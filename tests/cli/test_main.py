"""The command line's frame: fast help, errors without traceback, exit codes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import cli.main
from cli.main import run
from shards.errors import UserError

ROOT = Path(__file__).parents[2]


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def test_help_imports_nothing_heavy() -> None:
    done = fresh(
        "import sys, cli.main\n"
        "status = cli.main.run(['--help'])\n"
        "print(status, [m for m in ('numpy', 'torch', 'cv2', 'av', 'rich', 'pydantic') if m in sys.modules])"
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    for command in cli.main._COMMANDS:
        assert f"  {command} " in done.stdout


def test_every_command_exists_and_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, entry in cli.main._COMMANDS.items():
        if importlib.util.find_spec(entry.target.partition(":")[0]) is None:
            continue
        assert run([name, "--help"]) == 0
        assert "Usage: vidprep" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pakc"]) == 2
    error = capsys.readouterr().err
    assert "no command 'pakc'; did you mean 'pack'?" in error and "preview" in error


def with_command(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    monkeypatch.setattr(cli.main._Group, "get_command", lambda *_: click.Command("info", callback=function))


def test_errors_of_the_user_have_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise UserError("x is 3; allowed are 1 and 2")

    with_command(monkeypatch, fail)
    assert run(["info"]) == 1
    assert capsys.readouterr().err == "error: x is 3; allowed are 1 and 2\n"


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with_command(monkeypatch, fail)
    with pytest.raises(ZeroDivisionError):
        run(["info"])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["pack", "my set.jsonl", "d"], "vidprep pack 'my set.jsonl' d"),
        (["train", "pace-r3d"], "vidprep train pace-r3d --resume"),
        (["train", "pace-r3d", "--resume"], "vidprep train pace-r3d --resume"),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], shown: str
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.main.root, "main", interrupted)
    assert run(arguments) == 130
    assert capsys.readouterr().err.rstrip().endswith(f"run: {shown}")


def test_the_exit_status_of_a_command_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with_command(monkeypatch, lambda: 1)
    assert run(["info"]) == 1


def test_a_reader_that_has_seen_enough() -> None:
    code = (
        "import sys, cli.main, click\n"
        "def talk():\n"
        "    for _ in range(999): print('x' * 999)\n"
        "cli.main._Group.get_command = lambda *_: click.Command('info', callback=talk)\n"
        "sys.argv = ['vidprep', 'info']\n"
        "cli.main.main()\n"
    )
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    _, error = process.communicate()
    assert error == b"" and process.returncode == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vidprep")
