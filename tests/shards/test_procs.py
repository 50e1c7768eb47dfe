"""Worker processes: no main guard, no orphans, errors that name the task."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shards.errors import StorageError, UserError
from shards.procs import Lost, Worker, WorkerError, run_tasks

HERE = "tests.shards.procs_targets"


def test_a_worker_answers_and_ends_with_its_pipe() -> None:
    worker = Worker.start(f"{HERE}:echo", {"a": 1})
    assert worker.connection.recv() == ({"a": 1}, "1")
    worker.connection.send([1, 2])
    assert worker.connection.recv() == [1, 2]
    assert worker.poll() is None
    worker.close()
    assert worker.poll() is not None


def test_file_descriptors_are_inherited(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    with (
        (tmp_path / "file").open("rb") as file,
        Worker.start(f"{HERE}:read_fd", file.fileno(), pass_fds=[file.fileno()]) as worker,
    ):
        assert worker.connection.recv() == b"hello"


def test_plugins_make_a_users_classes_known(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def double(task):\n    return task * 2\n")
    target = f"{tmp_path / 'mine.py'}:double"
    assert list(run_tasks(target, [3], workers=1, plugins=[str(tmp_path / "mine.py")])) == [6]


def test_tasks_run_once_each_and_messages_arrive() -> None:
    messages: list[Any] = []
    results = list(run_tasks(f"{HERE}:work", range(7), workers=2, on_message=messages.append))
    assert sorted(results) == [0, 2, 4, 6, 8, 10, 12]
    assert sorted(messages) == [("at", n) for n in range(7)]


def test_a_users_error_keeps_its_class_and_a_bug_its_traceback() -> None:
    with pytest.raises(StorageError, match=r"^no such bucket$"):
        list(run_tasks(f"{HERE}:work", ["user"], workers=1))
    with pytest.raises(WorkerError, match=r"(?s)'bug'.*procs_targets.py.*ZeroDivisionError: oh"):
        list(run_tasks(f"{HERE}:work", ["bug"], workers=1))
    with pytest.raises(UserError, match="at least one"):
        list(run_tasks(f"{HERE}:work", ["bug"], workers=0))


def test_a_killed_worker_is_an_error_naming_the_task() -> None:
    with pytest.raises(WorkerError, match=r"SIGKILL \(out of memory\?\).*'die'"):
        list(run_tasks(f"{HERE}:work", [1, "die", 2], workers=2))


def test_lost_and_silent_tasks_can_be_replaced() -> None:
    lost: list[Lost] = []

    def on_lost(it: Lost) -> Any:
        lost.append(it)
        return 50

    results = run_tasks(f"{HERE}:work", ["die", 1, "hang", 2], workers=2, on_lost=on_lost, silence=1.5)
    assert sorted(results) == [2, 4, 100, 100]
    died, hung = sorted(lost, key=lambda it: it.silent)
    assert (died.task, died.silent, died.message) == ("die", False, None)
    assert (hung.task, hung.silent, hung.message) == ("hang", True, "about to hang")


def test_a_script_without_main_guard_works_from_anywhere(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from shards.procs import run_tasks\n"
        "print('once')\n"
        f"print(sum(run_tasks('{HERE}:work', [1, 2, 3], workers=2)))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "once\n12\n"


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from shards.procs import Worker\n"
        f"worker = Worker.start('{HERE}:sleep', None)\n"
        "print(worker.connection.recv(), flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert _alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_worker_that_holds_too_much_memory_is_ended() -> None:
    lost: list[Lost] = []

    def note(it: Lost) -> None:
        lost.append(it)

    results = list(run_tasks(f"{HERE}:hoard", [400_000_000, 1], workers=1, on_lost=note, memory=300_000_000))
    assert len(results) == 1  # the second task, by a fresh worker
    [it] = lost
    assert it.large and not it.silent and it.message == ("hoarding", 400_000_000)
    assert it.reason.startswith("held ")


def test_a_worker_that_keeps_much_is_replaced_between_tasks() -> None:
    first, second, third = run_tasks(f"{HERE}:hoard", [1, 150_000_000, 1], workers=1, memory=300_000_000)
    assert first == second != third


def test_the_task_that_failed_is_told() -> None:
    told: list[Any] = []
    with pytest.raises(StorageError):
        list(run_tasks(f"{HERE}:work", ["user"], workers=1, on_failed=lambda task, e: told.append((task, str(e)))))
    assert told == [("user", "no such bucket")]
