"""The bytes that are exported: JPEGs of frames as they are stored, and flow planes in the public release's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

from shards import jpeg
from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.flow import QUALITY, Release

_TOGETHER = 64  # frames that are read at once


@dataclass
class Clipped:
    """How much of the flow was beyond what the release's form can hold. Safe for threads."""

    fields: int = 0
    share: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def add(self, fields: int, share: float) -> None:
        with self._lock:
            self.share = (self.share * self.fields + share * fields) / (self.fields + fields)
            self.fields += fields


def frame_jpegs(dataset: Dataset, sample: int, *, column: str, quality: int) -> Iterator[bytes]:
    """The JPEGs of all frames: the stored bytes, or of an encoded video its frames compressed.

    Raises:
        DataError: stored bytes are damaged.
    """
    count = int(dataset.record(sample, column)["frames"])
    encoded = COLUMNS[dataset.meta.columns[column].kind].encoded
    for numbers in _parts(count):
        if encoded:
            for image in dataset.frames(sample, numbers, column=column):
                yield jpeg.encode(image, quality=quality)
        else:
            yield from map(bytes, dataset.jpegs(sample, numbers, column=column))


def flow_jpegs(
    dataset: Dataset, sample: int, *, column: str, clipped: Clipped | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """The u and v planes of all fields in the release's form: the stored bytes where they are in it already, else
    the flow in it, compressed anew.

    Raises:
        DataError: stored bytes are damaged.
    """
    count, codec = int(dataset.record(sample, column)["frames"]) // 2, dataset.codec(sample, column=column)
    release = Release()
    for numbers in _parts(count):
        if codec.name == Release.name:
            planes = [2 * t + c for t in numbers for c in (0, 1)]
            data = [bytes(it) for it in dataset.jpegs(sample, planes, column=column)]
            yield from zip(data[::2], data[1::2], strict=True)
            continue
        fields, share = release.quantise(dataset.flow(sample, numbers, column=column))
        if clipped is not None:
            clipped.add(len(fields), share)
        for u, v in fields:
            yield jpeg.encode(u, quality=QUALITY), jpeg.encode(v, quality=QUALITY)


def _parts(count: int) -> Iterator[Sequence[int]]:
    for start in range(0, count, _TOGETHER):
        yield range(start, min(start + _TOGETHER, count))
