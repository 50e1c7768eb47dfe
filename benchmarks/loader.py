"""Clips a second of the training loader, on one core, against what people use instead, in the same run.

    python -m benchmarks.loader [--rounds 7] [--videos 24] [--data FOLDER] [--no-record]

The contenders, all on generated videos of UCF101's lengths (see `_videos`):

* "frame files": a straightforward loader for the pace reference (reference/pace.md sections 2 to 4): frames at short
  side 256 as JPEG files, cv2.imread, the wrap-to-frame-1 rule, cv2.resize to the recipe's size, crop, flip, (3,T,H,W),
  in a torch DataLoader with one worker.
* "ours": `Loader` with one worker on the data set that `vidprep pack --size` of the recipe's size writes. It hands out
  (T,H,W,3) clips before the flip, which `augment` does on the device; "ours + augment" does that here, on the same
  core, up to the float clip that goes into the network.
* "bare": decodes the JPEG bytes of the same clips, each distinct frame once as the loader does, from memory into an
  array, resizes, and copies the crop; the plans are made beforehand.
* "webdataset": iterates the same tars without decoding.

Rates are by processor time of all processes taking part (on an idle core that is wall time, which is printed beside it,
and on a shared machine it is what can be compared); medians and ranges over rounds in which all contenders take turns.
Every turn begins and ends with nothing loaded ahead.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import cv2
import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torchvision.transforms import ColorJitter

from benchmarks._timing import RESULTS, Contender, Rates, compare, one_core, ratio, record
from benchmarks._videos import lengths, pack_frame_files, write_frame_files
from shards import jpeg
from shards.dataset import open_dataset
from shards.order import Order
from shards.rng import rng_for
from shards.spec import ClipSpec, Jitter
from trainer.augment import augment
from trainer.data.loader import Loader
from trainer.models.base import BGR_255

JITTER = Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8, per_frame=True)
SMALL = ClipSpec(frames=16, strides=(1, 2, 3, 4), resize=(128, 171), crop=112)
LARGE = ClipSpec(frames=64, strides=(1, 2, 3, 4), resize=(256, 256), crop=224)
PACKAGES = ("numpy", "torch", "opencv-contrib-python-headless", "simplejpeg", "webdataset", "pillow")


class FrameFiles(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The straightforward loader; see above."""

    def __init__(self, videos: list[tuple[Path, int]], spec: ClipSpec, *, jitter: bool) -> None:
        self.videos, self.spec = videos, spec
        self.jitter = ColorJitter(0.8, 0.8, 0.8, 0.2) if jitter else None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        folder, total = self.videos[index]
        pace = random.randint(1, len(self.spec.strides))
        first, k, clip = random.randint(1, total), 0, []
        for _ in range(self.spec.frames):
            clip.append(cv2.imread(str(folder / f"frame{first + k * pace:06d}.jpg")))
            first, k = (1, 0) if first + (k + 1) * pace > total else (first, k + 1)
        height, width = self.spec.resize  # type: ignore[misc]
        side: int = self.spec.crop  # type: ignore[assignment]
        frames = np.stack([cv2.resize(image, (width, height)) for image in clip])
        top, left = random.randint(0, height - side), random.randint(0, width - side)
        frames = frames[:, top : top + side, left : left + side]
        if random.random() < 0.5:
            frames = frames[:, :, ::-1]
        if self.jitter is not None:
            frames = np.stack([self._changed(frame) for frame in frames])
        return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2))), pace - 1

    def _changed(self, frame: np.ndarray) -> np.ndarray:
        assert self.jitter is not None
        return np.asarray(self.jitter(Image.fromarray(frame))) if random.random() < 0.8 else frame


def frame_files(videos: list[tuple[Path, int]], spec: ClipSpec, *, batch: int, batches: int) -> Contender:
    files = FrameFiles(videos, spec, jitter=spec.jitter is not None)
    sampler = torch.utils.data.RandomSampler(files, replacement=True, num_samples=batch * batches)
    loader: Any = torch.utils.data.DataLoader(files, batch, sampler=sampler, num_workers=1, persistent_workers=True)

    def run() -> int:
        return sum(len(clips) for clips, _ in loader)

    return Contender(run, lambda: [worker.pid for worker in loader._iterator._workers])


def ours(data: Path, spec: ClipSpec, *, batch: int, batches: int, with_augment: bool = False) -> Contender:
    loader = Loader(data, spec, batch=batch, repeats=10, workers=1, threads=1)
    steps = itertools.count(0, batches)

    def run() -> int:
        start = next(steps)
        for found in loader.batches(start, start + batches):
            if with_augment:
                augment(found, BGR_255)
        return batch * batches

    return Contender(run, lambda: [worker.pid for worker in loader._crew._workers])  # type: ignore[union-attr]


def bare(data: Path, spec: ClipSpec, *, batch: int, batches: int) -> Contender:
    """Nothing but decoding, resizing and copying crops; one run's clips, again in every run."""
    dataset = open_dataset(data)
    items = Order(len(dataset)).items(0, batch * batches)
    work = []
    for sample in items.sample.tolist():
        facts = dataset.facts(sample)
        plan = spec.plan(facts, rng_for(0, 0, sample))
        numbers = list(dict.fromkeys(plan.frames[0].tolist()))
        data_of = [bytes(found) for found in dataset.jpegs(sample, numbers)]
        places = [np.flatnonzero(plan.frames[0] == number).tolist() for number in numbers]
        work.append((plan, list(zip(data_of, places, strict=True)), (facts.height, facts.width)))
    side: int = spec.crop  # type: ignore[assignment]
    out = np.empty((batch, spec.frames, side, side, 3), np.uint8)

    def run() -> int:
        for row, (plan, jpegs, stored) in enumerate(work):
            top, left, h, w = plan.crop[0]
            image, resized = np.empty((*stored, 3), np.uint8), np.empty((*plan.size, 3), np.uint8)
            for data_, places in jpegs:
                jpeg.decode(data_, out=image)
                shown = image if stored == plan.size else cv2.resize(image, plan.size[::-1], dst=resized)
                for place in places:
                    out[row % batch, place] = shown[top : top + h, left : left + w]
        return len(work)

    return Contender(run)


def raw_stock(tars: Iterable[Path]) -> Contender:
    """Stock webdataset over the tars, without decoding: samples with key, description and payload."""
    urls = sorted(map(str, tars))

    def run() -> int:
        return sum(len(sample["__key__"]) > 0 for sample in wds.WebDataset(urls, shardshuffle=False))

    return Contender(run)


def raw_ours(data: Path, pick: Callable[[int, np.random.Generator], Any], *, samples: int, shuffle: bool) -> Contender:
    """Key, label and verified JPEG bytes of the frames that `pick(frames, rng)` chooses, of `samples` samples."""
    dataset = open_dataset(data)
    count, rng = dataset.frame_counts.tolist(), np.random.default_rng(0)
    order: Iterator[int] = itertools.cycle(
        (rng.permutation(len(dataset)) if shuffle else np.arange(len(dataset))).tolist()
    )

    def run() -> int:
        for i in itertools.islice(order, samples):
            key, label, jpegs = dataset.key(i), int(dataset.labels[i]), dataset.jpegs(i, pick(count[i], rng))
            assert key and label == 0 and jpegs
        return samples

    return Contender(run)


def clip_of_16(total: int, rng: np.random.Generator) -> range:
    start = int(rng.integers(total - 15))
    return range(start, start + 16)


class Report:
    """The record, printed as it grows."""

    def __init__(self, head: str) -> None:
        self.text = ""
        self.add(head)

    def add(self, text: str) -> None:
        print(text, flush=True)
        self.text += text + "\n"

    def table(self, title: str, unit: str, rates: dict[str, Rates], pairs: list[tuple[str, str, str]]) -> None:
        """Rates of all contenders, and ratios (first, second, what is asked of it)."""
        self.add(f"\n## {title}\n\n| | {unit}/s by processor time | by wall clock |\n|---|---|---|")
        for name, found in rates.items():
            self.add(f"| {name} | {found.text()} |")
        for first, second, wanted in pairs:
            self.add(f"\n{first} / {second}: {ratio(rates[first], rates[second])}{wanted}")


def clips(report: Report, videos: list[tuple[Path, int]], data: Path, spec: ClipSpec, rounds: int) -> None:
    height, width = spec.resize  # type: ignore[misc]
    name = f"{spec.frames}x{spec.crop} from {height}x{width}"
    batch, batches = (30, 2) if spec.frames == 16 else (8, 1)
    few = {"batch": batch, "batches": batches}
    same_rule = replace(spec, when_short="restart")
    rates = compare(
        {
            "frame files": frame_files(videos, spec, **few),
            "ours": ours(data, spec, **few),
            "ours, rule of the reference": ours(data, same_rule, **few),
            "ours + augment": ours(data, spec, **few, with_augment=True),
            "bare": bare(data, spec, **few),
        },
        rounds=rounds,
    )
    report.table(
        f"{name}, no jitter, batch {batch}",
        "clips",
        rates,
        [
            ("ours", "frame files", ", at least 3 is asked"),
            ("ours, rule of the reference", "frame files", ""),
            ("ours + augment", "frame files", ""),
            ("ours", "bare", ", at least 0.9 is asked"),
        ],
    )
    coloured = replace(spec, jitter=JITTER)
    rates = compare(
        {
            "frame files, PIL jitter": frame_files(videos, coloured, **few),
            "ours + augment, jitter": ours(data, coloured, **few, with_augment=True),
        },
        rounds=max(3, rounds // 2),
    )
    report.table(
        f"{name}, colour jitter of every frame, batch {batch}",
        "clips",
        rates,
        [("ours + augment, jitter", "frame files, PIL jitter", "")],
    )


def resized(report: Report, data: Path, rounds: int) -> None:
    few = {"batch": 30, "batches": 2}
    rates = compare({"ours": ours(data, SMALL, **few), "bare": bare(data, SMALL, **few)}, rounds=rounds)
    report.table(
        "16x112 from 128x171, stored at 256x256, so resized when loaded",
        "clips",
        rates,
        [("ours", "bare", ", at least 0.9 is asked")],
    )


def raw(report: Report, data: Path, short: Path, rounds: int) -> None:
    tars = list((data / "rgb").glob("*.tar"))
    count = len(open_dataset(data))
    rates = compare(
        {
            "webdataset, in order, whole videos": raw_stock(tars),
            "ours, at random, 16 frames": raw_ours(data, clip_of_16, samples=40 * count, shuffle=True),
            "ours, in order, whole videos": raw_ours(data, lambda n, _: range(n), samples=count, shuffle=False),
        },
        rounds=rounds,
    )
    report.table(
        "Bytes of samples without decoding, the same tars (videos of 187 frames at 128x171 in the mean)",
        "samples",
        rates,
        [
            ("ours, at random, 16 frames", "webdataset, in order, whole videos", ", at least 5 is asked"),
            ("ours, in order, whole videos", "webdataset, in order, whole videos", ""),
        ],
    )
    report.add(
        "\nBoth sides give key, label and JPEG bytes; ours compares every frame with its checksum. A training step\n"
        "needs a clip: webdataset has to read the whole video for it."
    )
    stock = list((short / "frames").glob("*.tar"))
    count = len(open_dataset(short))
    rates = compare(
        {
            "webdataset, 16 JPEG members": raw_stock(stock),
            "webdataset, our one member": raw_stock((short / "rgb").glob("*.tar")),
            "ours, at random": raw_ours(short, lambda n, _: range(n), samples=count, shuffle=True),
        },
        rounds=rounds,
    )
    report.table(
        "The same for videos of exactly 16 frames: no frame is left out on either side",
        "samples",
        rates,
        [
            ("ours, at random", "webdataset, 16 JPEG members", ""),
            ("ours, at random", "webdataset, our one member", ""),
        ],
    )


def prepare(folder: Path, count: int) -> dict[str, Any]:
    """Frame files and data sets in `folder`; made unless they are there."""
    cv2.setNumThreads(1)
    counts = lengths(count)
    frames, marker = folder / "frames", folder / f"made-{count}"
    videos = [(frames / f"v{i:03d}", total) for i, total in enumerate(counts)]
    found = {"videos": videos, "small": folder / "128x171", "large": folder / "256x256", "short": folder / "short"}
    if marker.exists():
        return found
    write_frame_files(frames, counts)
    pack_frame_files(found["small"], videos, (128, 171))
    pack_frame_files(found["large"], videos, (256, 256))
    short = [(path, 16) for path, _ in videos]
    pack_frame_files(found["short"], short, (128, 171))
    _write_stock(found["short"])
    marker.touch()
    return found


def _write_stock(data: Path) -> None:
    """The samples of a data set as others lay them out: `KEY.0000.jpg` … and `KEY.json`, a member for each frame."""
    dataset = open_dataset(data)
    (data / "frames").mkdir()
    with wds.TarWriter(str(data / "frames" / "000000.tar")) as writer:
        for i in range(len(dataset)):
            images = {f"{n:04d}.jpg": bytes(found) for n, found in enumerate(dataset.jpegs(i, range(16)))}
            writer.write({"__key__": dataset.key(i), "json": {"label": 0}, **images})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--data", type=Path, help="folder for the generated data; kept and used again")
    parser.add_argument("--no-record", action="store_true", help="write no file in benchmarks/results")
    options = parser.parse_args()
    one_core()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made = prepare(options.data or Path(scratch), options.videos)
        command = f"python -m benchmarks.loader --rounds {options.rounds} --videos {options.videos}"
        report = Report("# Training loader, one core\n\n" + record(PACKAGES, command))
        clips(report, made["videos"], made["small"], SMALL, options.rounds)
        clips(report, made["videos"], made["large"], LARGE, options.rounds)
        resized(report, made["large"], options.rounds)
        raw(report, made["small"], made["short"], options.rounds)
    if not options.no_record:
        (RESULTS / f"loader-{datetime.date.today().isoformat()}.md").write_text(report.text)


if __name__ == "__main__":
    main()
