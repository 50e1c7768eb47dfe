"""Tars as video2dataset, img2dataset and hand-made scripts write them, for tests; written with stock webdataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import webdataset

from shards import jpeg
from tests.vidprep.clips import noise_frames, write_clip


def write_tar(path: Path, samples: Sequence[Mapping[str, Any]]) -> Path:
    """Samples as `webdataset.TarWriter` takes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(dict(sample))
    return path


def video(folder: Path, *, seed: int = 0, count: int = 40, name: str = "clip.mp4", **options: Any) -> bytes:
    """An encoded video of noise that moves; H.264 with a key frame every 15 frames unless asked otherwise."""
    options = {"codec": "libx264", "options": {"g": "15"}, **options}
    return write_clip(folder / name, noise_frames(count, seed=seed), **options).read_bytes()


def video_samples(folder: Path, numbers: Sequence[int], *, count: int = 40) -> list[dict[str, Any]]:
    """Samples in video2dataset's layout: KEY.json, KEY.mp4, KEY.txt; class "run" or "walk" in the JSON."""
    return [
        {
            "__key__": f"{number:09d}",
            "mp4": video(folder, seed=number, count=count),
            "json": {"label": ("run", "walk")[number % 2], "url": f"https://example.org/{number}", "fps": 25},
            "txt": f"somebody moves, take {number}",
        }
        for number in numbers
    ]


def picture(seed: int, number: int) -> npt.NDArray[np.uint8]:
    """(24,32,3): a bar over a colour."""
    image = np.full((24, 32, 3), (40 + 30 * seed, 90, 140), np.uint8)
    image[:, number % 32] = 220
    return image


def frame_sample(seed: int, count: int, *, name: str = "{:03d}.jpg") -> dict[str, Any]:
    """A JPEG sequence with its class number in `cls`."""
    frames = {name.format(n): jpeg.encode(picture(seed, n)) for n in range(count)}
    return {"__key__": f"clips/seq{seed}", **frames, "cls": str(seed % 2)}
