"""What workers of test_derive run in place of `vidprep.deriving.work.derive_shard`: the same, with something broken."""

from __future__ import annotations

import os
import signal
from typing import Any

from shards.dataset import Dataset
from shards.receipts import Receipt
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.work import DeriveTask, derive_shard

_make = FlowMaker.make


def _crash(self: FlowMaker, dataset: Dataset, i: int, told: Any) -> Any:
    if dataset.key(i) == "video_001":
        os.kill(os.getpid(), signal.SIGSEGV)
    return _make(self, dataset, i, told)


def derive_with_killer(task: DeriveTask) -> Receipt:
    FlowMaker.make = _crash  # type: ignore[method-assign]
    return derive_shard(task)


def kill_in_the_second_shard(task: DeriveTask) -> Receipt:
    """As if somebody killed the whole run there: the parent first, then this worker."""
    if task.shard == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return derive_shard(task)
