"""Worker processes that fill a ring ahead of the training loop."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from shards.errors import UserError
from shards.procs import Worker, WorkerError
from trainer.data.plans import Job
from trainer.data.ring import AllArrays, Ring, TooSmallError
from trainer.data.worker import Filled

Request = tuple[int, int]  # step, rows


class Crew:
    """W workers and a ring of 2W+1 slots: one being filled and one waiting for each worker, and one in use.

    Requests are shared out in turn, answered in order. Raises UserError when the ring does not fit into shared memory.
    """

    def __init__(self, job: Job, *, workers: int, world: int, plugins: Sequence[str]) -> None:
        slots = 2 * workers + 1
        try:
            self._ring = Ring.create(job.slot, slots)
        except TooSmallError as error:
            raise UserError(f"{error}: {_what_fits(error, job, workers, world)}") from error
        self._parent = os.getpid()
        self._workers: list[Worker] = []
        self.close = weakref.finalize(self, _end, self._workers, self._ring, self._parent)
        for _ in range(workers):
            argument = (self._ring.fd, slots, self._parent)
            self._workers.append(
                Worker.start("trainer.data.worker:serve", argument, pass_fds=(self._ring.fd,), plugins=plugins)
            )
        for worker in self._workers:  # after all have been started, for a large job waits until it is read
            self._send(worker, job)
        self._free = list(range(slots))  # the last is used first: its memory may still be in a cache
        self._asked: deque[tuple[Worker, int, Request]] = deque()  # in the order of the answers

    @property
    def closed(self) -> bool:
        """Whether the workers have been ended."""
        return not self.close.alive

    def filled(self, requests: Iterable[Request]) -> Iterator[tuple[int, int, AllArrays]]:
        """(step, rows, arrays) of every request, in order. Requests of an iteration before that are not yet answered
        are waited for first."""
        while self._asked:
            self._receive()
            self._free.append(self._asked.popleft()[1])
        todo = iter(requests)
        turn = 0
        while True:
            while self._free and (request := next(todo, None)) is not None:
                worker, slot = self._workers[turn % len(self._workers)], self._free.pop()
                self._send(worker, (slot, *request))
                self._asked.append((worker, slot, request))
                turn += 1
            if not self._asked:
                return
            answer = self._receive()
            _, slot, (step, rows) = self._asked.popleft()
            if answer.error is not None or answer.trace is not None:
                self._free.append(slot)
                raise answer.error or WorkerError(f"loading step {step} failed:\n{answer.trace}")
            yield step, rows, self._take(slot)

    def _take(self, slot: int) -> AllArrays:
        """The slot's arrays; or, where batches that are still kept leave too few slots for the workers, a copy."""
        held = self._ring.slots - len(self._free) - len(self._asked)
        if held <= self._ring.slots - len(self._workers):
            return self._ring.lease(slot, self._free.append)
        arrays = tuple({name: array.copy() for name, array in part.items()} for part in self._ring.arrays(slot))
        self._free.append(slot)
        return arrays

    def _send(self, worker: Worker, message: object) -> None:
        with self._talking_to(worker):
            worker.connection.send(message)

    def _receive(self) -> Filled:
        """The answer to the oldest request."""
        worker = self._asked[0][0]
        with self._talking_to(worker):
            answer: Filled = worker.connection.recv()
        return answer

    @contextmanager
    def _talking_to(self, worker: Worker) -> Iterator[None]:
        """End the crew when its pipes can no longer be trusted; Ctrl-C, too, may cut a message in two."""
        if os.getpid() != self._parent:  # it would take the trainer's answers
            raise RuntimeError("a loader belongs to the process that made it; make another one in a forked process")
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            message = f"loader process {worker.pid} {worker.exit_reason()}"
            self.close()
            raise WorkerError(message) from error
        except BaseException:
            self.close()
            raise


def _end(workers: list[Worker], ring: Ring, parent: int) -> None:
    if os.getpid() != parent:
        return  # a forked copy of the trainer ends
    # A process forked by the trainer may hold the pipes open, so closing them need not end the workers.
    for worker in workers:
        worker.kill()
        worker.close()
    ring.close()


def _what_fits(error: TooSmallError, job: Job, workers: int, world: int) -> str:
    """The setting with which the ring fits."""
    fewer = min(workers - 1, (error.available // job.slot.nbytes - 1) // 2)
    if fewer >= 1:
        remedy = f"--set data.workers={fewer}"
    else:
        rows = error.available * job.rows // (3 * job.slot.nbytes)
        if rows < 1:
            return f"free some of it, or give {error.folder} more (docker run --shm-size=8g)"
        remedy = f"--set data.workers=1 --set train.batch={rows * world}"
    return f"{remedy} fits; or give {error.folder} more (docker run --shm-size=8g)"
