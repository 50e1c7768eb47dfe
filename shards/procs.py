"""Worker processes that need nothing of the program that starts them.

multiprocessing imports the user's main module again (or forks, which threads and object-store clients
do not survive). Here a worker is a fresh interpreter with the parent's `sys.path` that imports only the
module of its function, so everything works from notebooks and from scripts without a main guard. A worker
ends when the other end of its pipe is closed: a parent that is killed leaves no orphans.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from shards.errors import UserError
from shards.memory import resident
from shards.plugins import load_module, load_object

# Work is spread by one process per core, so libraries inside a worker must not start threads of their own.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
_STOP_SECONDS = 5.0
_MEMORY_SECONDS = 0.5  # how often the memory of workers is looked at


class WorkerError(RuntimeError):
    """A worker failed for a reason that is not the user's: its traceback, or the signal that ended it."""


class Worker:
    """A process that runs `function(connection, argument)` and ends when that returns or the pipe closes.

    Attributes:
        connection: this side of the pipe; `recv` raises EOFError when the worker has ended.
    """

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self._process = process
        self.connection = connection

    @classmethod
    def start(
        cls,
        target: str,
        argument: Any,
        *,
        pass_fds: Collection[int] = (),
        plugins: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Worker:
        """Start a worker.

        Args:
            target: "package.module:function"; the function takes (connection, argument).
            argument: anything that pickles by modules the worker can import (not the program's main module).
            pass_fds: file descriptors the worker inherits under the same numbers.
            plugins: modules or `.py` files imported first (see `shards.plugins`).
            environment: variables to set besides the parent's; default `ONE_THREAD`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = (
                f"import sys; sys.path[:] = {sys.path!r}; from shards.procs import _child; _child({theirs.fileno()})"
            )
            process = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=(*pass_fds, theirs.fileno()),
                env={**os.environ, **(ONE_THREAD if environment is None else environment)},
            )
        worker = cls(process, Connection(ours.detach()))
        # A worker that died at once is found by the first recv or poll, with its exit status.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send_bytes(pickle.dumps((target, tuple(plugins))))
            worker.connection.send_bytes(pickle.dumps(argument))
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End the worker at once and wait for that."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipe, which ends the worker, and wait; a worker that does not end is killed."""
        self.connection.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def exit_reason(self) -> str:
        """How an ended worker ended, in words. Waits for the end."""
        try:
            status = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if status >= 0:
            return f"ended with exit status {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"was ended by {name}" + (" (out of memory?)" if -status == signal.SIGKILL else "")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A worker that ended or fell silent in the middle of a task.

    Attributes:
        task: what it was working on.
        message: the last thing the task said with `notify`, or None.
        silent: it was ended here because it said nothing for too long.
        large: it was ended here because it held more memory than allowed.
        reason: how it ended, in words.
    """

    task: Any
    message: Any
    silent: bool
    reason: str
    large: bool = False


def run_tasks(
    target: str,
    tasks: Iterable[Any],
    *,
    workers: int,
    plugins: Iterable[str] = (),
    on_message: Callable[[Any], None] | None = None,
    on_lost: Callable[[Lost], Any] | None = None,
    on_failed: Callable[[Any, Exception], None] | None = None,
    silence: float | None = None,
    memory: int | None = None,
) -> Iterator[Any]:
    """Run `function(task)` for every task in worker processes; yield the results as they complete.

    Args:
        target: "package.module:function".
        tasks: taken one by one as workers become free; results should name their task where that matters.
        workers: number of processes.
        plugins: modules or files every worker imports first.
        on_message: receives what tasks pass to `notify`.
        on_lost: decides about a lost worker: returns the task to run in place of the lost one, or None for none,
            or raises. Without it the run ends with a WorkerError naming the task.
        on_failed: told the task that raised and its error, before the run ends with that error.
        silence: seconds after which a worker that neither notified nor finished is ended.
        memory: bytes a worker may hold; one that holds more is ended, one that holds more than half of it after a
            task is replaced by a fresh one before the next.

    Raises:
        UserError: as raised by the function, same class and message.
        WorkerError: the function raised something else (with its traceback), or a worker was lost.

    All workers are ended when the iterator is exhausted, closed or fails.
    """
    if workers < 1:
        raise UserError(f"workers is {workers}; at least one is needed")
    waiting = iter(tasks)
    slots: list[_Slot] = []
    try:
        for task in islice(waiting, workers):
            slots.append(_Slot.start(target, tuple(plugins), task))
        while slots:
            ready = _wait(slots, silence, memory)
            for slot, outcome in _outcomes(slots, ready, silence, memory, on_failed):
                if isinstance(outcome, _Message):
                    if on_message is not None and not outcome.started:
                        on_message(outcome.value)
                    continue
                if isinstance(outcome, _Result):
                    yield outcome.value
                    following = next(waiting, _NOTHING)
                else:
                    following = slot.lost(outcome, ask=on_lost)
                    following = next(waiting, _NOTHING) if following is None else following
                if following is _NOTHING:
                    slots.remove(slot)
                    slot.worker.close()
                else:
                    slot.give(following, memory)
    finally:
        for slot in slots:
            slot.worker.kill()
            slot.worker.close()


def notify(message: Any) -> None:
    """In a task of `run_tasks`: hand a message to the parent's `on_message`. Does nothing elsewhere."""
    if _notify is not None:
        _notify(_Message(message))


@dataclass
class _Message:
    value: Any
    started: bool = False


@dataclass
class _Result:
    value: Any


@dataclass
class _Failure:
    error: UserError | None
    trace: str


_NOTHING = object()
_LOST = object()
_SILENT = object()
_LARGE = object()
_notify: Callable[[Any], None] | None = None


@dataclass
class _Slot:
    """One worker of `run_tasks` and what it is doing."""

    worker: Worker
    target: str
    plugins: tuple[str, ...]
    task: Any = None
    message: Any = None
    heard: float = math.inf  # when something was heard; silence counts from the moment the task has started

    @classmethod
    def start(cls, target: str, plugins: tuple[str, ...], task: Any) -> _Slot:
        slot = cls(Worker.start("shards.procs:_serve", target, plugins=plugins), target, plugins)
        slot.give(task)
        return slot

    def give(self, task: Any, memory: int | None = None) -> None:
        if memory is not None and self.held > memory // 2:
            # What a library leaks from task to task must not be held against the next one.
            self.worker.close()
            self._renew()
        self.task, self.message, self.heard = task, None, math.inf
        # A worker that has died in the meantime is found by `receive`.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.worker.connection.send(task)

    def is_silent(self, silence: float | None) -> bool:
        return silence is not None and time.monotonic() - self.heard > silence

    @property
    def held(self) -> int:
        """Bytes of memory the worker holds."""
        return resident(self.worker.pid)

    def receive(self, on_failed: Callable[[Any, Exception], None] | None = None) -> Any:
        """A _Message, a _Result, or _LOST; a failure of the task is raised."""
        try:
            outcome = self.worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self.worker.exit_reason()  # waits for the exit status
            return _LOST
        self.heard = time.monotonic()
        if isinstance(outcome, _Failure):
            error = outcome.error or WorkerError(f"{self.target} failed on {_short(self.task)}:\n{outcome.trace}")
            if on_failed is not None:
                on_failed(self.task, error)
            raise error
        if isinstance(outcome, _Message):
            self.message = outcome.value
        return outcome

    def lost(self, how: Any, *, ask: Callable[[Lost], Any] | None) -> Any:
        """Replace the worker; the task to run in place of the lost one. `how`: _LOST, _SILENT or _LARGE."""
        if how is _SILENT:
            reason = f"said nothing for {time.monotonic() - self.heard:.0f} s"
            self.worker.kill()
        elif how is _LARGE:
            reason = f"held {self.held / 1e6:,.0f} MB of memory"
            self.worker.kill()
        else:
            reason = self.worker.exit_reason()
        self.worker.close()
        if ask is None:
            raise WorkerError(f"a worker {reason} while {self.target} worked on {_short(self.task)}")
        following = ask(
            Lost(task=self.task, message=self.message, silent=how is _SILENT, large=how is _LARGE, reason=reason)
        )
        self._renew()
        return following

    def _renew(self) -> None:
        self.worker = Worker.start("shards.procs:_serve", self.target, plugins=self.plugins)


def _outcomes(
    slots: list[_Slot],
    ready: list[Any],
    silence: float | None,
    memory: int | None,
    on_failed: Callable[[Any, Exception], None] | None,
) -> Iterator[tuple[_Slot, Any]]:
    """Slots with what they sent, or with why their workers have to be ended."""
    for slot in list(slots):
        outcome = slot.receive(on_failed) if slot.worker.connection in ready else None
        if outcome is None and slot.is_silent(silence):
            outcome = _SILENT
        elif memory is not None and (outcome is None or isinstance(outcome, _Message)) and slot.held > memory:
            outcome = _LARGE
        if outcome is not None:
            yield slot, outcome


def _wait(slots: list[_Slot], silence: float | None, memory: int | None) -> list[Any]:
    """Connections with something to read; waits for one, or until it is time to look at silence or memory."""
    timeout = None
    heard = min(slot.heard for slot in slots)
    if silence is not None and heard < math.inf:
        timeout = max(0.0, heard + silence - time.monotonic()) + 0.01
    if memory is not None:
        timeout = _MEMORY_SECONDS if timeout is None else min(timeout, _MEMORY_SECONDS)
    return wait([slot.worker.connection for slot in slots], timeout)


def _short(task: Any) -> str:
    text = repr(task)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _serve(connection: Connection, target: str) -> None:
    """Runs in the worker of `run_tasks`."""
    global _notify  # noqa: PLW0603 - a task has no other way to its connection
    function = load_object(target)
    _notify = connection.send
    while True:
        task = connection.recv()
        connection.send(_Message(None, started=True))
        try:
            outcome: _Result | _Failure = _Result(function(task))
        except UserError as error:
            outcome = _Failure(_portable(error), traceback.format_exc())
        except Exception:  # noqa: BLE001 - carried to the parent, which raises it
            outcome = _Failure(None, traceback.format_exc())
        connection.send(outcome)


def _portable(error: UserError) -> UserError:
    """The error as the parent can unpickle it: classes it may not know become UserError."""
    known = type(error).__module__ == "shards.errors"
    return type(error)(str(error)) if known else UserError(str(error))


def _child(descriptor: int) -> None:
    """Entry of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_exit_with_parent, args=(descriptor,), daemon=True).start()
    connection = Connection(descriptor)
    try:
        target, plugins = pickle.loads(connection.recv_bytes())
        for plugin in plugins:
            load_module(plugin)
        argument = pickle.loads(connection.recv_bytes())
        load_object(target)(connection, argument)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone or wants no more
    finally:
        connection.close()


def _exit_with_parent(descriptor: int) -> None:
    """End this process when the other end of the pipe is closed, whatever the main thread is doing."""
    poller = select.poll()
    # Linux reports a closed pipe without being asked; macOS reports only what was asked for.
    poller.register(descriptor, select.POLLHUP)
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poller.poll()):
        pass
    os._exit(1)
