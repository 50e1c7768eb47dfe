"""Starting the processes of a multi-GPU run on this machine, as torchrun does, in a few lines whose exit status and
signals are ours. Torch-free."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

LAUNCHER = "VIDPREP_LAUNCHER"
_SAVING_S = 120.0  # for the others to save when one has ended on a signal that all have got
_DIED_S = 10.0  # for the others to tell what they know when one has died
_POLL_S = 0.1


def launch(arguments: Sequence[str], *, processes: int) -> int:
    """Run `python ARGUMENTS` as that many ranks and wait for all.

    SIGINT and SIGTERM are handed on once to every rank. When a rank fails the others are ended. Ranks end themselves
    when this process is gone (`trainer.engine.stop`).

    Returns:
        The exit status of the rank that failed first, or of rank 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHER: str(os.getpid()),
    }
    common.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    ranks: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in range(processes):
            own = {"RANK": str(number), "LOCAL_RANK": str(number)}
            # A session of its own: Ctrl-C on the terminal would otherwise reach a rank twice.
            command = [sys.executable, *arguments]
            ranks.append(subprocess.Popen(command, env={**common, **own}, start_new_session=True))
        return _wait(ranks)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
            rank.wait()


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all ranks; once one has failed, for at most that long."""
    deadline, failed = float("inf"), 0
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        bad = [rank.returncode for rank in ranks if rank.poll() not in (None, 0)]
        if bad and deadline == float("inf"):
            failed = bad[0]
            # Ranks that stop together on a signal need their time to save; one that died leaves the rest waiting.
            deadline = time.monotonic() + (_SAVING_S if failed in (130, 143) else _DIED_S)
    status = failed or next((rank.returncode for rank in ranks if rank.returncode), 0)
    return 128 - status if status < 0 else status
