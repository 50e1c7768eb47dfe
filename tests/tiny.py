"""A small data set made directly with the writer, without videos: frames whose pixels tell what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards import jpeg
from shards.finalize import finalize
from shards.plan import Entry, write_plan
from shards.storage import open_storage
from shards.tarwriter import ShardWriter

SIZE = (24, 32)


def frame(sample: int, number: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """(H,W,3): a bright bar moves right by one pixel a frame over smooth colours that depend on the sample."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    image = np.stack(
        [40 + (11 * sample + 2 * x) % 90, 40 + 3 * y % 90, np.full_like(x, 30 + 17 * sample % 120)], axis=-1
    )
    image[:, (sample + number) % width] = 230
    return image.astype(np.uint8)


def build_dataset(
    dest: Path,
    *,
    samples: int = 10,
    frames: int | tuple[int, ...] = 12,
    size: tuple[int, int] = SIZE,
    per_shard: int = 4,
    classes: tuple[str, ...] = ("run", "walk"),
    fps: float = 25.0,
    keys: tuple[str, ...] | None = None,
) -> Path:
    """Write a finished data set into `dest`.

    Sample i has key `video_iii`, class i mod classes, group `group_⌊i/2⌋`, split `test` where i mod 5 is 0, else
    `train`, a caption only where i is even, and frames `frame(i, 0…)`.

    Args:
        frames: of every sample, or a tuple that is used in turn.
        keys: of the samples, in place of these.
    """
    counts = (frames,) if isinstance(frames, int) else frames
    storage = open_storage(dest)
    options = {
        "name": "tiny",
        "classes": list(classes),
        "size": {"height": size[0], "width": size[1]},
        "fps": None,
        "quality": 90,
        "segment_frames": None,
        "shard_size": 1 << 20,
        "estimate": None,
    }
    videos = [
        {
            "key": f"video_{i:03d}" if keys is None else keys[i],
            "label": classes[i % len(classes)] if classes else None,
            "label_index": i % len(classes) if classes else None,
            "splits": ["test" if i % 5 == 0 else "train"],
            "group": f"group_{i // 2}",
            "caption": f"caption of {i}" if i % 2 == 0 else None,
        }
        for i in range(samples)
    ]
    write_plan(storage, options, (Entry(shard=i // per_shard, video=video) for i, video in enumerate(videos)))
    for shard in range(-(-samples // per_shard)):
        with ShardWriter(storage, shard, parameters={"quality": 90}) as writer:
            for i in range(shard * per_shard, min(samples, (shard + 1) * per_shard)):
                count = counts[i % len(counts)]
                writer.add(
                    str(videos[i]["key"]),
                    {"source": f"{videos[i]['label']}/video {i}.avi", "fps": fps, "frames": count},
                    [jpeg.encode(frame(i, number, size)) for number in range(count)],
                    fps=fps,
                    size=size,
                )
            writer.finish()
    finalize(storage)
    return dest
