"""Small videos written with PyAV, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]


def noise_frames(count: int, height: int = 48, width: int = 64, *, seed: int = 0) -> Frames:
    """(T,H,W,3): smooth random colours that move, so that every frame differs and codecs stay small."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    large = np.kron(small, np.ones((8, 8, 1), np.uint8))
    return np.stack([np.roll(large, 2 * i, axis=1)[:height, :width] for i in range(count)])


def write_clip(
    path: Path,
    frames: Frames,
    *,
    fps: float | Fraction = 25,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    matrix: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB frames. `codec="png", pix_fmt="rgb24"` is exact. `matrix`: a, b, c, d of the display matrix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if matrix is not None:
            a, b, c, d = (round(value * 65536) for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
