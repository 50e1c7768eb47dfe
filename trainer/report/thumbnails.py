"""Moving thumbnails: what distinguishes two videos is often seen in motion only."""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.dataset import Dataset, open_dataset
from shards.errors import UserError
from trainer.report.figures import data_uri

FRAMES, SECONDS, HEIGHT = 16, 1.6, 84


class Thumbnails:
    """Animated WebP data URIs of samples by data set and key; data sets are opened once.

    A data set or sample that is no longer there has no thumbnail (None), since a report is often made long
    after, and elsewhere; `missing` says which data sets.
    """

    def __init__(self) -> None:
        self._open: dict[str, Dataset | None] = {}
        self._made: dict[tuple[str, str], str | None] = {}
        self.missing: dict[str, str] = {}

    def __call__(self, url: str, key: str) -> str | None:
        if (url, key) not in self._made:
            self._made[url, key] = self._draw(url, key)
        return self._made[url, key]

    def _draw(self, url: str, key: str) -> str | None:
        try:
            if url not in self._open:
                self._open[url] = None
                self._open[url] = open_dataset(url)
            dataset = self._open[url]
            if dataset is None:
                return None
            sample = dataset.by_key(key)
            wanted = preview_frames(sample.frames, sample.fps)
            return animate(dataset.frames(sample.number, wanted))
        except UserError as error:
            self.missing[url] = str(error)
            return None


def preview_frames(frames: int, fps: float) -> list[int]:
    """Up to FRAMES frame numbers over SECONDS around the middle of a video."""
    span = min(frames, max(2, round(SECONDS * fps)))
    start = (frames - span) // 2
    return sorted({start + round(at) for at in np.linspace(0, span - 1, min(FRAMES, span))})


def animate(frames_THWC: npt.NDArray[np.uint8], *, height: int = HEIGHT) -> str:
    """An endlessly repeated animation (WebP) of RGB frames as a data URI; a still image for one frame."""
    width = max(1, round(height * frames_THWC.shape[2] / frames_THWC.shape[1]))
    area = cv2.INTER_AREA if height < frames_THWC.shape[1] else cv2.INTER_LINEAR
    images = [Image.fromarray(cv2.resize(frame, (width, height), interpolation=area)) for frame in frames_THWC]
    duration = round(1000 * SECONDS / FRAMES)
    buffer = io.BytesIO()
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], duration=duration, loop=0, quality=70, method=4
    )
    return data_uri(buffer.getvalue(), "webp")
