"""Frame and flow trees in the layouts of older code bases, written for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards import jpeg

SIZE = (24, 32)


def frame(video: int, number: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """(H,W,3): texture that moves right by one pixel a frame."""
    rng = np.random.default_rng(video)
    small = rng.integers(40, 200, (size[0] // 4 + 1, 64, 3)).astype(np.uint8)
    return np.roll(np.kron(small, np.ones((4, 4, 1), np.uint8)), number, axis=1)[: size[0], : size[1]]


def plane(video: int, number: int, component: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """(H,W): a flat plane of flow whose byte tells which field it is."""
    return np.full(size, 20 + 9 * number + 4 * video + 3 * component, np.uint8)


def write(path: Path, image: npt.NDArray[np.uint8]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = jpeg.encode(image, quality=95)
    path.write_bytes(data)
    return data


def write_frames(folder: Path, video: int, numbers: range, name: str = "frame%06d.jpg") -> list[bytes]:
    return [write(folder / (name % n), frame(video, n)) for n in numbers]


def write_planes(u: Path, v: Path, video: int, numbers: range) -> list[tuple[bytes, bytes]]:
    """u and v are paths with a number to fill in."""
    return [(write(Path(str(u) % n), plane(video, n, 0)), write(Path(str(v) % n), plane(video, n, 1))) for n in numbers]


def twostream(root: Path, *, counts: tuple[int, ...] = (6, 5, 7)) -> dict[str, list[bytes]]:
    """The public release's layout: T frames and T − 1 fields from 1, no class folders. Name → frames' bytes."""
    made = {}
    for video, count in enumerate(counts):
        name = f"v_{('Archery', 'YoYo')[video % 2]}_g{video // 2 + 1:02d}_c01"
        made[name] = write_frames(root / "jpegs_256" / name, video, range(1, count + 1))
        trees = [root / "tvl1_flow" / it / name / "frame%06d.jpg" for it in "uv"]
        write_planes(trees[0], trees[1], video, range(1, count))
        (root / "tvl1_flow" / "u" / f"{name}.bin").write_bytes(b"\0" * 16)  # gpu_flow leaves such files there
    return made
