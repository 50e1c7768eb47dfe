"""Generated videos that look natural to a JPEG codec, as frame files and as packed data sets.

Mean bytes a frame, beside those of 48 clips of people (Weizmann and others) brought to the same sizes:

                                                generated    clips
    256x340, OpenCV's default quality 95            23939    21688
    128x171, quality 90                              5667     5333
    256x256, quality 90                             12673    11610
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from shards import jpeg
from shards.finalize import finalize
from shards.plan import Entry, write_plan
from shards.storage import open_storage
from shards.tarwriter import ShardWriter

SOURCE = (256, 340)  # (height, width) of the usual frame releases of UCF101


def lengths(count: int) -> list[int]:
    """Numbers of frames like UCF101's: mean 187, at least 29 (reference/pace.md section 2), one for each quantile."""
    drawn = np.random.default_rng(5).lognormal(0, 0.5, 100_000)
    quantiles = np.quantile(drawn, (np.arange(count) + 0.5) / count)
    return [max(29, round(x)) for x in quantiles / quantiles.mean() * 187]


def frames(video: int, count: int) -> Iterator[np.ndarray]:
    """(256,340,3) RGB uint8: a textured background that pans, three textured discs that cross it, sensor noise."""
    rng = np.random.default_rng(video)
    height, width = SOURCE
    textures = [_texture(rng, 2 * height, 2 * width) for _ in range(4)]
    noise = rng.normal(0, 1.0, (2 * height, 2 * width)).round().astype(np.int16)
    place = rng.uniform(0.2, 0.8, (4, 2)) * (width, height)
    speed = rng.normal(0, 3.0, (4, 2))
    radius = rng.uniform(0.1, 0.25, 4) * height
    for _ in range(count):
        place += speed
        speed[(place < 0) | (place > (width, height))] *= -1
        image = _window(textures[0], place[0], width, height)
        for disc in range(1, 4):
            mask = np.zeros((height, width), np.uint8)
            cv2.circle(mask, tuple(np.round(place[disc]).astype(int).tolist()), int(radius[disc]), 255, -1)
            cv2.copyTo(_window(textures[disc], place[disc], width, height), mask, image)
        top, left = rng.integers(height), rng.integers(width)
        grain = np.ascontiguousarray(noise[top : top + height, left : left + width])
        yield cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H,W,3) uint8: noise of falling strength at rising frequency, as in photographs, around a colour."""
    image = np.zeros((height, width, 3), np.float32) + rng.uniform(70, 180, 3).astype(np.float32)
    for octave in range(1, 8):
        cells = (max(2, height >> (8 - octave)), max(2, width >> (8 - octave)))
        grain = rng.normal(0, 46 / octave**1.5, (*cells, 1)) * rng.uniform(0.7, 1.3, 3)
        image += cv2.resize(grain.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def _window(texture: np.ndarray, at: np.ndarray, width: int, height: int) -> np.ndarray:
    move = np.array([[1, 0, -at[0] / 2], [0, 1, -at[1] / 2]])
    return cv2.warpAffine(texture, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def write_frame_files(dest: Path, counts: Sequence[int]) -> list[tuple[Path, int]]:
    """`dest/vVVV/frame000001.jpg` … as the references expect them, written with OpenCV's defaults; (folder, frames)."""
    found = []
    for video, count in enumerate(counts):
        folder = dest / f"v{video:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(frames(video, count), 1):
            cv2.imwrite(str(folder / f"frame{number:06d}.jpg"), image[..., ::-1])
        found.append((folder, count))
    return found


def pack_frame_files(dest: Path, videos: Sequence[tuple[Path, int]], size: tuple[int, int], per_shard: int = 8) -> Path:
    """A data set of the same videos with frames of `size`, quality 90, as `vidprep pack --size` writes it."""
    storage = open_storage(dest)
    options = {"name": "benchmark", "classes": ["none"], "size": {"height": size[0], "width": size[1]}}
    options |= {"fps": None, "quality": 90, "segment_frames": None, "shard_size": 1 << 28, "estimate": None}
    entries = [
        Entry(shard=i // per_shard, video={"key": folder.name, "label": "none", "label_index": 0, "splits": []})
        for i, (folder, _) in enumerate(videos)
    ]
    write_plan(storage, options, iter(entries))
    for shard in range(-(-len(videos) // per_shard)):
        with ShardWriter(storage, shard) as writer:
            for folder, count in videos[shard * per_shard : (shard + 1) * per_shard]:
                payload = [
                    jpeg.encode(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)[..., ::-1])
                    for image in (cv2.imread(str(folder / f"frame{k + 1:06d}.jpg")) for k in range(count))
                ]
                writer.add(folder.name, {"frames": count, "fps": 25.0}, payload, fps=25.0, size=size)
            writer.finish()
    finalize(storage)
    return dest
