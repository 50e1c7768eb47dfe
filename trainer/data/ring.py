"""Memory that loader workers and the trainer share: slots of one unlinked file, each with room for one batch.

Torch-free. The file lives in /dev/shm where there is one (else in the temporary folder), has no name once it is made,
and is passed on by its descriptor: however the processes end, nothing is left behind. It is allocated in full at the
start, so that too little shared memory is an error there and not a bus error in the middle of an epoch.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.errors import StorageError

Bytes = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[np.generic]]
AllArrays = tuple[Arrays, ...]
"""Arrays of one batch, for each spec in turn."""

_ALIGN = 4096  # of fields and slots: a page, so that a slot can be locked for a device on its own


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The arrays of one batch and spec, and where they lie in their part of a slot.

    Args:
        rows: B, videos of this rank per batch.
        clips, frames: V and T.
        height, width: of the cropped frames.
        jitter: whether there are colour changes.
        channels: of the clips: 3, or 2 where they are flow.
        pixels: NumPy type of the clips.
        flow: NumPy type of the flow that comes beside the clips, or None.
        targets: K, numbers of a clip's table row; 0 without table.
        draws: N, numbers of the task's own for each clip.
    """

    rows: int
    clips: int
    frames: int
    height: int
    width: int
    jitter: bool
    channels: int = 3
    pixels: str = "uint8"
    flow: str | None = None
    targets: int = 0
    draws: int = 0

    @cached_property
    def fields(self) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...], int]]:
        """Name → dtype, shape, offset in bytes."""
        b, v, t = self.rows, self.clips, self.frames
        picture = (b, v, t, self.height, self.width)
        kinds: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "clips": (np.dtype(self.pixels).type, (*picture, self.channels)),
            "sample": (np.int64, (b,)),
            "stride": (np.int64, (b, v)),
            "frames": (np.int64, (b, v, t)),
            "flip": (np.bool_, (b, v)),
        }
        if self.jitter:
            kinds |= {
                "apply": (np.bool_, (b, v, t)),
                "factors": (np.float32, (b, v, t, 4)),
                "order": (np.uint8, (b, v, t, 4)),
            }
        if self.flow is not None:
            kinds["flow"] = (np.dtype(self.flow).type, (*picture, 2))
        if self.flow is not None or self.channels == 2:
            kinds["flow_step"] = (np.float32, (b, 2))
        if self.targets:
            kinds["targets"] = (np.int64, (b, v, self.targets))
        if self.draws:
            kinds["draws"] = (np.float64, (b, v, self.draws))
        fields: dict[str, tuple[np.dtype[np.generic], tuple[int, ...], int]] = {}
        offset = 0
        for name, (kind, shape) in kinds.items():
            fields[name] = (np.dtype(kind), shape, offset)
            offset += -(-prod(shape) * np.dtype(kind).itemsize // 64) * 64
        return fields

    @cached_property
    def nbytes(self) -> int:
        """Size of the part."""
        dtype, shape, offset = list(self.fields.values())[-1]
        return -(-(offset + prod(shape) * dtype.itemsize) // _ALIGN) * _ALIGN

    def arrays(self, memory: Bytes) -> Arrays:
        """The fields as views into `memory` (at least `nbytes` long)."""
        return {
            name: memory[offset : offset + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (dtype, shape, offset) in self.fields.items()
        }


@dataclass(frozen=True)
class Slot:
    """The room of one batch: what each spec shows of the videos, one part after the other."""

    layouts: tuple[Layout, ...]

    @cached_property
    def nbytes(self) -> int:
        """Size of a slot."""
        return sum(layout.nbytes for layout in self.layouts)

    def arrays(self, memory: Bytes) -> AllArrays:
        """The fields of every part as views into `memory` (at least `nbytes` long)."""
        found, offset = [], 0
        for layout in self.layouts:
            found.append(layout.arrays(memory[offset:]))
            offset += layout.nbytes
        return tuple(found)


class TooSmallError(StorageError):
    """There is less shared memory than a ring needs. `needed`, `available` in bytes, `folder` where."""

    def __init__(self, needed: int, available: int, folder: Path) -> None:
        self.needed, self.available, self.folder = needed, available, folder
        super().__init__(f"{needed:,} bytes of shared memory are needed and {folder} has {available:,}")


class Ring:
    """`slots` slots for batches. Make one with `create`, pass `fd` on, open it there with the constructor.

    Attributes:
        fd: descriptor of the memory file; a worker inherits it.
    """

    def __init__(self, fd: int, slot: Slot, slots: int) -> None:
        self.fd, self.slot, self.slots = fd, slot, slots
        self._memory = mmap.mmap(fd, slot.nbytes * slots)

    @classmethod
    def create(cls, slot: Slot, slots: int, *, folder: Path | None = None) -> Ring:
        """Allocate a ring in `folder` (default: /dev/shm, else the temporary folder).

        Raises:
            TooSmallError: there is not that much room.
        """
        place = shared_memory_folder() if folder is None else folder
        with tempfile.TemporaryFile(dir=place) as file:
            fd = os.dup(file.fileno())
        size = slot.nbytes * slots
        try:
            _allocate(fd, size)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
                raise TooSmallError(size, free_bytes(place), place) from error
            raise StorageError(f"shared memory of {size:,} bytes cannot be made in {place}: {error}") from error
        return cls(fd, slot, slots)

    def arrays(self, slot: int) -> AllArrays:
        """The fields of a slot, to be filled."""
        return self.slot.arrays(self._memory_of(slot))

    def lease(self, slot: int, released: Callable[[int], None]) -> AllArrays:
        """The fields of a slot, to be read; `released(slot)` is called when the last view of them is gone.

        Views include torch tensors made of these arrays and slices of such tensors.
        """
        memory = self._memory_of(slot)
        # NumPy and torch keep the array that a view was taken of alive as the view's base, so its end is their end.
        weakref.finalize(memory, released, slot).atexit = False
        return self.slot.arrays(memory)

    def close(self) -> None:
        """Close the descriptor. The memory goes when the last view of it is gone, here and in the workers."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _memory_of(self, slot: int) -> Bytes:
        if not 0 <= slot < self.slots:
            raise IndexError(f"slot {slot} of a ring of {self.slots}")
        return np.frombuffer(self._memory, np.uint8, self.slot.nbytes, slot * self.slot.nbytes)


def shared_memory_folder() -> Path:
    """/dev/shm where it can be written, else the temporary folder."""
    shm = Path("/dev/shm")
    return shm if os.access(shm, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def free_bytes(folder: Path) -> int:
    """Room left in a folder's file system."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    zeros = bytes(1 << 20)  # macOS
    for offset in range(0, size, len(zeros)):
        os.pwrite(fd, zeros[: size - offset], offset)
