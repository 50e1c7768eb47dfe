"""What derived columns of a video will cost, from a small part of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import cv2
import numpy as np

from shards import captions, jpeg
from shards.flow import codec_of
from shards.index import FRAME
from shards.spec import resized_size
from shards.table import PLACES
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.labels import LabelMaker
from vidprep.records import Video

_PAIRS = 6
_VIEWS = 2
_TABLE_OVERHEAD = 128 + 1024  # an array's header; tar header and padding
_BLOCK = 512


def flow_cost(frames: Sequence[bytes], maker: FlowMaker) -> tuple[float, float]:
    """(bytes, processor seconds) of the flow of a video with these stored frames, from a few pairs in its middle."""
    if len(frames) < 2:
        return 0.0, 0.0
    first = max(0, (len(frames) - _PAIRS) // 2)
    some = frames[first : first + _PAIRS + 1]
    maker.probe()  # compiling, or loading what was compiled, is no cost of a video
    began = time.process_time()
    height, width = jpeg.decode(some[0]).shape[:2]
    grey = np.empty((len(some), height, width), np.uint8)
    for data, plane in zip(some, grey, strict=True):
        jpeg.decode(data, out=plane)
    planes, _ = maker.encode(grey, codec_of(maker.parameters(), height, width))
    share = (len(frames) - 1) / (len(some) - 1)
    size = sum(map(len, planes)) + len(planes) * FRAME.itemsize
    return size * share, (time.process_time() - began) * share


def text_bytes(video: Video) -> float:
    """Bytes of a video's captions in a text column: a tar header and the text, padded."""
    return _BLOCK - (-len(captions.encode(captions.of(video.caption))) // _BLOCK) * _BLOCK


def label_cost(frames: Sequence[bytes], maker: LabelMaker) -> tuple[float, float]:
    """(bytes, processor seconds) of the statistics table of a video with these stored frames, from one window."""
    windows, geometry = len(maker.starts(len(frames))), maker.geometry
    if not windows:
        return 0.0, 0.0
    seconds = []
    for _ in range(2):  # the first round compiles
        began = time.process_time()
        images = [jpeg.decode(data) for data in frames[: geometry.window]]
        size = resized_size(geometry.resize, *images[0].shape[:2])
        if geometry.crop > min(size):
            return 0.0, 0.0
        rgb = np.stack([np.asarray(cv2.resize(image, size[::-1]), np.uint8) for image in images])
        # The flow of the first frames is not known here; what it is changes the labels, hardly their cost.
        grey = rgb[..., 1].astype(np.float32)
        steps = np.stack([grey[1:] - grey[:-1], grey[:-1] - grey[1:]], axis=-1)
        if maker.variant == "reference":
            steps = np.concatenate([steps, steps[-1:]])
        read = time.process_time()
        for _ in range(_VIEWS):
            maker.numbers(rgb, steps, (0, 0, 0))
        done = time.process_time()
        seconds.append((read - began) / geometry.window * len(frames) + (done - read) / _VIEWS * maker.views * windows)
    row = 4 * (len(PLACES) + int(maker.parameters()["numbers"]))
    return windows * maker.views * row + _TABLE_OVERHEAD, seconds[-1]
