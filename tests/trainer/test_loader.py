"""The loader against a slow literal one, and its promises: same bytes however it is run, errors that name things,
nothing left behind."""

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from shards.dataset import open_dataset
from shards.errors import DataError, UserError
from shards.order import Order
from shards.procs import WorkerError
from shards.rng import rng_for
from shards.spec import ClipSpec, Jitter
from trainer.data import ring as ring_module
from trainer.data.batch import upload
from trainer.data.loader import Loader, once

ROOT = Path(__file__).parents[2]
SPEC = ClipSpec(
    frames=4,
    strides=(1, 2, 3),
    clips=2,
    resize=(20, 28),
    crop=(16, 18),
    jitter=Jitter(brightness=0.4, hue=0.1, probability=0.7, per_frame=True),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    from tests.tiny import build_dataset

    return build_dataset(tmp_path_factory.mktemp("loader"), samples=11, frames=(12, 1, 5, 30))


def literal(url, spec, *, step, batch, seed, samples, repeats=1):
    """One global batch, item by item, frame by frame."""
    dataset = open_dataset(url)
    items = Order(len(samples), seed=seed, repeats=repeats).items(step * batch, (step + 1) * batch)
    rows = []
    for epoch, place, repeat in zip(items.epoch, items.sample, items.repeat, strict=True):
        sample = int(samples[place])
        plan = spec.plan(dataset.facts(sample), rng_for(seed, int(epoch), sample, int(repeat)))
        clips = []
        for v in range(spec.clips):
            top, left, h, w = plan.crop[v]
            for number in plan.frames[v]:
                image = dataset.frames(sample, [int(number)])[0]
                if plan.size != image.shape[:2]:
                    image = cv2.resize(image, plan.size[::-1], interpolation=cv2.INTER_LINEAR)
                clips.append(image[top : top + h, left : left + w])
        rows.append((sample, int(dataset.labels[sample]), plan, np.stack(clips)))
    return rows


def same(first, second):
    """Whether two batches hold the same numbers."""
    ours, theirs = list(first.tensors()), list(second.tensors())
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, resize=None, crop=None, jitter=None, clips=1)])
def test_batches_equal_a_literal_loader(dataset, spec):
    samples = open_dataset(dataset).select(split="train", seed=5)
    with Loader(dataset, spec, batch=3, seed=5, repeats=2, split="train", workers=0) as loader:
        assert loader.epoch_length == 2 * len(samples) and loader.steps_per_epoch == 2 * len(samples) / 3
        for batch in loader.batches(4, 8):
            rows = literal(dataset, spec, step=batch.step, batch=3, seed=5, samples=samples, repeats=2)
            assert len(batch) == 3
            for row, (sample, label, plan, clips) in enumerate(rows):
                assert (int(batch.sample[row]), int(batch.label[row])) == (sample, label)
                assert np.array_equal(batch.frames[row].numpy(), plan.frames)
                assert np.array_equal(batch.stride[row].numpy(), plan.stride)
                assert np.array_equal(batch.flip[row].numpy(), plan.flip)
                assert np.array_equal(batch.clips[row].numpy().reshape(clips.shape), clips)
                if plan.jitter is not None:
                    assert np.array_equal(batch.jitter.factors[row], plan.jitter.factors)
                    assert np.array_equal(batch.jitter.apply[row], plan.jitter.apply)
                    assert np.array_equal(batch.jitter.order[row], plan.jitter.order)


def test_workers_threads_ranks_and_start_do_not_change_batches(dataset):
    """Also: batches stay valid while they are kept, more of them than the ring has slots."""
    options = {"batch": 4, "seed": 3, "repeats": 2}
    with Loader(dataset, SPEC, workers=0, threads=1, **options) as loader:
        expected = list(loader.batches(0, 9))
    assert [batch.step for batch in expected] == list(range(9))
    for workers, threads in ((1, 1), (3, 2)):
        with Loader(dataset, SPEC, workers=workers, threads=threads, **options) as loader:
            assert all(same(a, b) for a, b in zip(loader.batches(0, 9), expected, strict=True))
            kept = list(loader.batches(4, 9))  # begun anew, in the middle of an epoch
        gc.collect()
        assert [batch.step for batch in kept] == list(range(4, 9))
        assert all(same(a, b) for a, b in zip(kept, expected[4:], strict=True))
    ranks = [Loader(dataset, SPEC, workers=0, threads=2, rank=r, world=2, **options).batches(2, 9) for r in range(2)]
    for whole, *parts in zip(expected[2:], *ranks, strict=True):
        for name in ("clips", "sample", "label", "stride", "frames", "flip"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
        assert np.array_equal(whole.jitter.factors, np.concatenate([part.jitter.factors for part in parts]))


def test_an_epoch_has_every_item_once_and_a_batch_may_be_larger_than_it(dataset):
    loader = Loader(dataset, replace(SPEC, frames=1, clips=1), batch=25, workers=0)
    batch = next(loader.batches())
    counts = np.bincount(batch.sample.numpy(), minlength=11)
    assert counts.min() == 2 and counts.max() == 3 and len(batch) == 25


def test_slots_are_used_again_and_never_while_looked_at(dataset):
    """A plain loop over one worker's batches, which keeps one while it asks for the next, gets no copies."""
    spec = replace(SPEC, jitter=None)
    with Loader(dataset, spec, batch=2, workers=1, threads=1) as loader:
        places = [batch.clips.data_ptr() for batch in upload(loader.batches(0, 9), "cpu")]
        kept = None
        for batch in loader.batches(0, 9):
            if batch.step == 3:
                kept = batch.clips[1, 0]
                copy = kept.clone()
        assert torch.equal(kept, copy)
        assert loader.wait_seconds > 0
    assert {(place - min(places)) / loader._job.slot.nbytes for place in places} <= {0, 1, 2}


def test_once_gives_every_sample_once_in_order(dataset):
    spec = ClipSpec(frames=4, clips=3, sampling="uniform", crop=16)
    wanted = np.array([7, 2, 9, 0, 5])
    batches = list(once(dataset, spec, wanted, batch=2, workers=1, threads=1))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.sample for batch in batches]).tolist() == wanted.tolist()
    assert batches[-1].clips.shape == (1, 3, 4, 16, 16, 3) and batches[0].changes is None
    ranks = [list(once(dataset, spec, wanted, batch=4, rank=r, world=4, workers=0)) for r in range(4)]
    assert [[batch.sample.tolist() for batch in rank] for rank in ranks] == [[[7], [5]], [[2]], [[9]], [[0]]]


def test_a_dead_worker_is_named_and_the_loader_starts_again(dataset):
    with Loader(dataset, SPEC, batch=2, workers=1, threads=1) as loader:
        iterator = loader.batches(0)
        first = next(iterator)
        pid = loader._crew._workers[0].pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=rf"{pid} was ended by SIGKILL"):
            for _ in iterator:
                pass
        assert same(next(loader.batches(0)), first)


def test_errors_of_workers_arrive_as_they_are(dataset, tiny_dataset):
    url = tiny_dataset(samples=4, frames=3, per_shard=2)
    for workers in (0, 1):
        loader = Loader(url, ClipSpec(frames=2, crop=(25, 30)), batch=2, workers=workers, threads=2)
        with pytest.raises(UserError, match=r"sample video_00\d: a crop of 25x30 .* 24x32 .*--short-side 30"), loader:
            next(loader.batches())
    tar = url / "rgb" / "000001.tar"
    data = bytearray(tar.read_bytes())
    at = data.find(b"\xff\xd8\xff") + 300
    data[at] ^= 255
    tar.write_bytes(data)
    with Loader(url, ClipSpec(frames=3), batch=4, workers=1, threads=1) as loader:
        with pytest.raises(DataError, match=r"000001.*video_002.*vidprep check"):
            next(loader.batches())
        healthy = Loader(url, ClipSpec(frames=3), batch=2, samples=np.array([0, 1]), workers=0)
        assert len(next(healthy.batches())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 3, "world": 2}, "train.batch=2"),
        ({"batch": 0}, "train.batch=1"),
        ({"batch": 2, "rank": 2, "world": 2}, "rank 2"),
        ({"batch": 2, "workers": -1}, "workers is -1"),
        ({"batch": 2, "samples": np.array([], np.int64)}, "0 samples"),
        ({"batch": 2, "split": "validation"}, "test, train"),
    ],
)
def test_wrong_options(dataset, options, message):
    with pytest.raises(UserError, match=message):
        Loader(dataset, SPEC, **options)
    with pytest.raises(UserError, match="start step"):
        Loader(dataset, SPEC, batch=1, workers=0).batches(-1)


def test_frames_of_unequal_sizes_need_a_crop(tiny_dataset, monkeypatch):
    url = tiny_dataset(samples=4, frames=2)
    dataset = open_dataset(url)
    records = dataset.records.copy()
    records["width"][2] = 40
    monkeypatch.setattr(type(dataset), "records", records)
    with pytest.raises(UserError, match=r"2 different sizes.*24x32: 3 samples.*24x40: 1 samples, such as video_002"):
        Loader(dataset, ClipSpec(frames=2), batch=2)
    assert Loader(dataset, ClipSpec(frames=2, resize=(12, 16)), batch=2)
    assert Loader(dataset, ClipSpec(frames=2, crop=20), batch=2)


def test_too_little_shared_memory_names_what_fits(dataset, monkeypatch):
    def refuse(fd, size):
        if size > ring_module.free_bytes(Path()):
            raise OSError(28, "No space left on device")

    loader = Loader(dataset, SPEC, batch=8, workers=4, world=2)
    slot = loader._job.slot.nbytes
    monkeypatch.setattr(ring_module, "_allocate", refuse)
    for room, message in ((6 * slot, "data.workers=2 fits"), (2 * slot, "data.workers=1 --set train.batch=4 fits")):
        monkeypatch.setattr(ring_module, "free_bytes", lambda folder, room=room: room)
        with pytest.raises(UserError, match=f"{9 * slot:,} bytes .* has {room:,}: --set {message}"):
            next(loader.batches())
    monkeypatch.setattr(ring_module, "free_bytes", lambda folder: 10)
    with pytest.raises(UserError, match="shm-size"):
        next(loader.batches())


def test_close_is_prompt_idempotent_and_ends_iterations(dataset):
    loader = Loader(dataset, SPEC, batch=2, workers=2, threads=1)
    iterator = loader.batches()
    batch = next(iterator)
    worker = loader._crew._workers[0]
    copy = batch.clips.clone()
    began = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - began < 5 and worker.poll() is not None
    assert torch.equal(batch.clips, copy)
    with pytest.raises(RuntimeError, match="ended"):
        next(iterator)


SCRIPT = """
import os, sys, time
from shards.spec import ClipSpec
from trainer.data.loader import Loader

loader = Loader(sys.argv[1], ClipSpec(frames=2, crop=16), batch=2, workers=2, threads=1)
iterator = loader.batches()
first = next(iterator)

def fork(seconds):
    child = os.fork()
    if child:
        return child
    try:
        next(iterator)
    except RuntimeError as error:
        assert "forked" in str(error)
    else:
        os._exit(1)
    time.sleep(seconds)
    sys.exit(0)  # runs what a process runs at its end: must not touch the parent's workers

assert os.waitpid(fork(0), 0)[1] == 0
child = fork(300)
steps = [next(iterator).step for _ in range(6)]
print(steps, *[worker.pid for worker in loader._crew._workers], child, flush=True)
time.sleep(300)
"""


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(pids, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_script_without_main_guard_that_forks_and_is_killed(dataset, tmp_path):
    """Forked copies of the trainer neither disturb the workers nor keep them alive by holding their pipes open."""
    before = set(Path("/dev/shm").glob("tmp*"))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(dataset)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    steps, _, pids = process.stdout.readline().partition("]")
    *workers, child = [int(pid) for pid in pids.split()]
    try:
        assert steps == "[1, 2, 3, 4, 5, 6" and len(workers) == 2 and all(map(alive, workers))
        process.kill()
        process.wait()
        assert wait_for_end(workers) == [] and alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
    assert set(Path("/dev/shm").glob("tmp*")) <= before


def test_workers_load_no_torch():
    code = "import sys, trainer.data.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_tasks_own_numbers_come_with_the_batch(dataset):
    """The same with any number of ranks and workers; the epoch counts on over its borders."""
    spec = replace(SPEC, draws=3)
    options = {"batch": 4, "seed": 3, "repeats": 2}
    with Loader(dataset, spec, workers=1, **options) as loader:
        whole = list(loader.batches(0, 7))
    for batch in whole:
        rows = [
            spec.plan(open_dataset(dataset).facts(int(i)), rng_for(3, int(epoch), int(i), int(repeat))).draws
            for i, epoch, repeat in zip(*_items(dataset, batch.step, **options), strict=True)
        ]
        assert np.array_equal(batch.draws, np.stack(rows))
        assert batch.epoch == pytest.approx(batch.step * 4 / loader.epoch_length)
    ranks = [Loader(dataset, spec, workers=0, rank=r, world=2, **options).batches(0, 7) for r in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert np.array_equal(batch.draws, np.concatenate([part.draws for part in parts]))
        assert {part.epoch for part in parts} == {batch.epoch}


def _items(url, step, *, batch, seed, repeats):
    items = Order(len(open_dataset(url)), seed=seed, repeats=repeats).items(step * batch, (step + 1) * batch)
    return items.sample, items.epoch, items.repeat
