"""The ring: shared with a worker, reused exactly when nobody looks, allocated in full, never left behind."""

import errno
import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import StorageError
from trainer.data import ring as ring_module
from trainer.data.ring import Layout, Ring, Slot, TooSmallError, shared_memory_folder

LAYOUT = Layout(rows=2, clips=1, frames=3, height=8, width=10, jitter=True)
FLOW = Layout(rows=2, clips=2, frames=5, height=8, width=10, jitter=False, channels=2, pixels="int16")
SLOT = Slot((LAYOUT, FLOW))


def test_layout_fields_are_aligned_and_apart():
    memory = np.zeros(LAYOUT.nbytes, np.uint8)
    arrays = LAYOUT.arrays(memory)
    assert arrays["clips"].shape == (2, 1, 3, 8, 10, 3) and arrays["factors"].shape == (2, 1, 3, 4)
    for name, array in arrays.items():
        assert array.__array_interface__["data"][0] % array.itemsize == 0, name
    for value, array in enumerate(arrays.values(), 1):
        array[...] = value % 2 if array.dtype == bool else value
    for value, array in enumerate(arrays.values(), 1):
        assert (array == (value % 2 if array.dtype == bool else value)).all()
    assert LAYOUT.nbytes % 4096 == 0
    plain = Layout(rows=2, clips=1, frames=3, height=8, width=10, jitter=False)
    assert set(arrays) - set(plain.fields) == {"apply", "factors", "order"}


def test_two_maps_of_the_descriptor_share_the_slots():
    ring = Ring.create(SLOT, 3)
    other = Ring(ring.fd, SLOT, 3)
    for slot in range(3):
        for part, arrays in enumerate(other.arrays(slot)):
            arrays["clips"][...] = 10 * slot + part
    for slot in range(3):
        for part, arrays in enumerate(ring.arrays(slot)):
            assert (arrays["clips"] == 10 * slot + part).all()
    assert ring.arrays(0)[1]["clips"].shape == (2, 2, 5, 8, 10, 2)
    with pytest.raises(IndexError, match="slot 3"):
        ring.arrays(3)
    ring.close()
    ring.close()


def test_the_file_has_no_name_and_is_allocated_in_full(tmp_path):
    ring = Ring.create(SLOT, 3, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    found = os.fstat(ring.fd)
    assert found.st_size == 3 * SLOT.nbytes
    assert found.st_blocks * 512 >= found.st_size
    ring.close()


def test_a_lease_ends_with_its_last_view():
    ring = Ring.create(SLOT, 2)
    released: list[int] = []
    arrays, flow = ring.lease(1, released.append)
    tensor = torch.from_numpy(arrays["clips"])
    part = tensor[0, :, 1:]
    sample = arrays["sample"][:1]
    field = flow["clips"][1]
    del arrays, tensor, flow
    assert released == []
    del field
    assert released == []
    del part
    assert released == []
    del sample
    gc.collect()
    assert released == [1]


def test_views_outlive_the_ring():
    ring = Ring.create(SLOT, 1)
    clips = torch.from_numpy(ring.lease(0, lambda slot: None)[0]["clips"])
    clips.fill_(7)
    ring.close()
    del ring
    gc.collect()
    assert (clips == 7).all()


def test_too_little_shared_memory(monkeypatch, tmp_path):
    def full(fd, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    open_before = len(list(Path("/proc/self/fd").glob("*")))
    monkeypatch.setattr(ring_module, "_allocate", lambda fd, size: full(fd, 0, size))
    monkeypatch.setattr(ring_module, "free_bytes", lambda folder: 1000)
    with pytest.raises(TooSmallError) as caught:
        Ring.create(SLOT, 5, folder=tmp_path)
    assert (caught.value.needed, caught.value.available) == (5 * SLOT.nbytes, 1000)
    assert f"{5 * SLOT.nbytes:,} bytes" in str(caught.value) and "1,000" in str(caught.value)
    monkeypatch.setattr(ring_module, "_allocate", lambda fd, size: os.pwrite(-1, b"x", 0))
    with pytest.raises(StorageError, match="cannot be made"):
        Ring.create(SLOT, 5, folder=tmp_path)
    assert len(list(Path("/proc/self/fd").glob("*"))) <= open_before


def test_a_real_file_system_that_is_too_small():
    """No mock: more than the machine's shared memory."""
    folder = shared_memory_folder()
    free = ring_module.free_bytes(folder)
    if folder != Path("/dev/shm") or free > 1 << 46:
        pytest.skip("shared memory of this machine has no limit")
    huge = Layout(rows=1, clips=1, frames=1, height=1 << 20, width=1 << 20, jitter=False)
    with pytest.raises(TooSmallError):
        Ring.create(Slot((huge,)), 1 + free // huge.nbytes)


def test_allocation_without_posix_fallocate(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    ring = Ring.create(SLOT, 2, folder=tmp_path)
    assert os.fstat(ring.fd).st_size == 2 * SLOT.nbytes
    assert all((arrays["clips"] == 0).all() for arrays in ring.arrays(1))
    ring.close()
