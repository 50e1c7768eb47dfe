"""Clips from object storage: bytes and clips a second of ranged reads against whole members.

    pip install boto3
    python -m benchmarks.remote [--videos 32] [--clips 128] [--rounds 3]

Starts OpenStack Swift (of the `test` extra) and a proxy that counts bytes and, for the rates, caps them at 20 MB/s;
packs videos of 150 frames, 128x171, quality 90. Each contender draws clips of 16 frames of every video and decodes
them in two processes: ours by the training loader, in shuffled order; the other by webdataset, which reads every tar as
one stream of boto3 and takes its frames out of the whole member. All run on the same cores, and the start of processes
is left out. Writes benchmarks/results/remote-DATE.md.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks._timing import RESULTS, record
from benchmarks._videos import pack_frame_files, write_frame_files
from shards import jpeg
from shards.dataset import open_dataset
from shards.spec import ClipSpec
from tests.shards.storage.faults import fault_proxy
from tests.shards.storage.swift import swift_server
from trainer.data.loader import Loader

SIZE, FRAMES, CLIP = (128, 171), 150, 16
CAP = 20e6  # bytes a second
BUCKET = "benchmark"
_START = re.compile(rb"\xff\xd8\xff")  # where a JPEG begins in a motion JPEG


def serve(port: int, pipe: Connection) -> None:
    """The proxy in a process of its own: sends its port, then answers (bandwidth,) by the bytes sent since."""
    with fault_proxy(port) as proxy:
        pipe.send(proxy.port)
        while True:
            proxy.faults.bandwidth = pipe.recv()
            pipe.send(proxy.faults.sent)
            proxy.faults.sent = 0


@contextmanager
def capped(port: int) -> Iterator[tuple[str, Connection]]:
    """(endpoint, pipe) of a running proxy."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}", ours
    finally:
        process.kill()


_STARTED = 4  # batches of ours before its time counts: the workers' imports are not the network's


def ours(url: str, clips: int, stride: int) -> tuple[int, float]:
    """Shuffled clips of the training loader; opens the data set anew. Clips, and seconds after the first batches."""
    with Loader(open_dataset(url), ClipSpec(frames=CLIP, strides=(stride,)), batch=16, workers=2, threads=1) as loader:
        steps = _STARTED + clips // 16
        for step, batch in enumerate(loader.batches(0, steps)):
            assert batch.clips.shape[0] == 16
            if step + 1 == _STARTED:
                began = time.perf_counter()
        return steps * 16, (time.perf_counter() - began) * steps / (steps - _STARTED)


def whole_members(url: str, clips: int, stride: int) -> tuple[int, float]:
    """webdataset over streams of boto3, in two processes too; clips, and seconds without their start."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_members, [(url, clips // 2, stride, part) for part in range(2)], chunksize=1)
    return sum(done for done, _ in found), max(seconds for _, seconds in found)


def _members(url: str, clips: int, stride: int, part: int) -> tuple[int, float]:
    """Every member of every other tar is read, 16 frames of it are decoded. Clips and seconds."""
    import boto3  # noqa: PLC0415 - for this contender only
    import webdataset  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(response_checksum_validation="when_required", request_checksum_calculation="when_required")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=config)
    folder = url.removeprefix(f"s3://{BUCKET}/")
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{folder}/rgb/")["Contents"]
    tars = sorted(it["Key"] for it in found if it["Key"].endswith(".tar"))[part::2]
    rng, done, began = np.random.default_rng(part), 0, time.perf_counter()
    while done < clips:
        for key in tars:
            body = client.get_object(Bucket=BUCKET, Key=key)["Body"]
            files: Any = webdataset.tariterators.tar_file_iterator(body)
            for sample in webdataset.tariterators.group_by_keys({**it, "__url__": key} for it in files):
                data = sample["mjpg"]
                starts = [it.start() for it in _START.finditer(data)] + [len(data)]
                first = int(rng.integers(FRAMES - (CLIP - 1) * stride))
                for k in range(first, first + CLIP * stride, stride):
                    jpeg.decode(data[starts[k] : starts[k + 1]])
                done += 1
    return done, time.perf_counter() - began


CONTENDERS = {"ours": ours, "boto3 + webdataset": whole_members}


@dataclass
class Measured:
    bytes_per_clip: float
    rates: list[float]


def measure(url: str, pipe: Connection, stride: int, *, clips: int, rounds: int) -> dict[str, Measured]:
    """Bytes and rates of both, in turn."""

    def counted(bandwidth: float) -> int:
        pipe.send(bandwidth)
        return int(pipe.recv())

    found = {name: Measured(0.0, []) for name in CONTENDERS}
    for turn in range(rounds + 1):
        for name, run in CONTENDERS.items():
            counted(CAP if turn else 0.0)
            done, seconds = run(url, clips, stride)
            if turn:
                found[name].rates.append(done / seconds)
            else:  # the first round warms up and counts
                found[name].bytes_per_clip = counted(CAP) / done
    return found


def report(found: dict[int, dict[str, Measured]]) -> str:
    lines: list[str] = []
    for stride, measured in found.items():
        lines += [f"\n## Stride {stride}\n", "| | kB a clip | clips/s at 20 MB/s |", "|---|---|---|"]
        for name, it in measured.items():
            rates = f"{median(it.rates):.1f} ({min(it.rates):.1f}–{max(it.rates):.1f})"
            lines.append(f"| {name} | {it.bytes_per_clip / 1e3:,.0f} | {rates} |")
        a, b = measured["ours"], measured["boto3 + webdataset"]
        fewer = {1: 5, 4: 2}[stride]
        lines.append(
            f"\nbytes, theirs / ours: **{b.bytes_per_clip / a.bytes_per_clip:.1f}**, at least {fewer} is asked"
        )
        ratios = [x / y for x, y in zip(a.rates, b.rates, strict=True)]
        spread = f"({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append(f"\nclips/s, ours / theirs: **{median(ratios):.2f}** {spread}, at least 2 is asked")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=32)
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        frames = write_frame_files(Path(scratch) / "frames", [FRAMES] * options.videos)
        with swift_server(Path(scratch) / "swift") as server:
            server.make_bucket(BUCKET)
            os.environ.update(server.environment())
            url = f"s3://{BUCKET}/data"
            pack_frame_files(url, frames, SIZE)  # type: ignore[arg-type]
            with capped(server.port) as (endpoint, pipe):
                os.environ["AWS_ENDPOINT_URL"] = endpoint
                found = {
                    stride: measure(url, pipe, stride, clips=options.clips, rounds=options.rounds) for stride in (1, 4)
                }
    command = f"python -m benchmarks.remote --videos {options.videos} --clips {options.clips} --rounds {options.rounds}"
    packages = ("numpy", "obstore", "boto3", "webdataset", "swift", "simplejpeg")
    text = (
        f"# Clips from object storage\n\n{record(packages, command).replace(', of which one is used', '')}\n"
        f"16 frames of {options.videos} videos of {FRAMES} frames, 128x171; server, proxy and client share the cores.\n"
        f"{report(found)}"
    )
    path = RESULTS / f"remote-{datetime.date.today().isoformat()}.md"
    path.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
