"""What workers of test_pack run in place of `vidprep.packing.work.pack_shard`: the same, with something broken."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from shards.receipts import Receipt
from vidprep import decode
from vidprep.packing.work import ShardTask, pack_shard

_pictures = decode.Decoded.pictures


def _hurt(self: decode.Decoded) -> Iterator[Any]:
    for number, picture in enumerate(_pictures(self)):
        if number == 2 and self._name.endswith("crash.mp4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 2 and self._name.endswith("hang.mp4"):
            time.sleep(600)
        yield picture


def pack_with_killers(task: ShardTask) -> Receipt:
    decode.Decoded.pictures = _hurt  # type: ignore[method-assign]
    return pack_shard(task)


def pack_killed_once(task: ShardTask) -> Receipt:
    """Dies once, at the first shard that comes by, as from somebody's kill."""
    mark = f"{task.url}/killed"
    if not os.path.exists(mark):  # noqa: PTH110
        os.close(os.open(mark, os.O_CREAT))
        decode.Decoded.pictures = _die  # type: ignore[method-assign]
    return pack_shard(task)


def _die(self: decode.Decoded) -> Iterator[Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield


def pack_on_full_disk(task: ShardTask) -> Receipt:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = fail
    return pack_shard(task)


_eaten: list[bytes] = []


def pack_with_a_glutton(task: ShardTask) -> Receipt:
    decode.Decoded.pictures = _eat  # type: ignore[method-assign]
    return pack_shard(task)


def _eat(self: decode.Decoded) -> Iterator[Any]:
    for number, picture in enumerate(_pictures(self)):
        if number == 2 and self._name.endswith("3.mp4"):
            _eaten.append(b"x" * 800_000_000)
            time.sleep(5)
        yield picture


def pack_with_a_crash(task: ShardTask) -> Receipt:
    decode.Decoded.pictures = _crash  # type: ignore[method-assign]
    return pack_shard(task)


def _crash(self: decode.Decoded) -> Iterator[Any]:
    if self._name.endswith("3.mp4"):
        os.kill(os.getpid(), signal.SIGSEGV)
    yield from _pictures(self)


def pack_on_a_lost_node(task: ShardTask) -> Receipt:
    """Ends its parent once, and itself."""
    mark = f"{task.url}/killed"
    if not os.path.exists(mark):  # noqa: PTH110
        os.close(os.open(mark, os.O_CREAT))
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return pack_shard(task)
