"""What the workers of test_procs run; imports little, so that they start fast."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

from shards.errors import StorageError
from shards.procs import notify


def echo(connection: Connection, argument: Any) -> None:
    connection.send((argument, os.environ["OMP_NUM_THREADS"]))
    while True:
        connection.send(connection.recv())


def sleep(connection: Connection, argument: Any) -> None:
    connection.send(os.getpid())
    time.sleep(600)


def read_fd(connection: Connection, descriptor: int) -> None:
    connection.send(os.pread(descriptor, 5, 0))


def work(task: Any) -> Any:
    if task == "user":
        raise StorageError("no such bucket")
    if task == "bug":
        raise ZeroDivisionError("oh")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "hang":
        notify("about to hang")
        time.sleep(600)
    notify(("at", task))
    return task * 2


_kept: list[bytes] = []


def hoard(task: Any) -> int:
    """Takes `task` bytes of memory and keeps them; returns the process."""
    notify(("hoarding", task))
    _kept.append(b"x" * task)
    time.sleep(1.5 if task > 200_000_000 else 0)
    return os.getpid()
