"""One video of a frame tree → what goes into the columns: JPEG bytes, sizes, times."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.errors import StorageError
from vidprep.folders.jpegs import BadJpeg, Jpeg, fit
from vidprep.folders.layouts import Leads, match_fields
from vidprep.folders.scan import read_numbers

_REPORT_EVERY = 64  # files
OnFiles = Callable[[int], None]


class BadFolder(Exception):  # noqa: N818 - the folder is what is wrong, not the program
    """A video that cannot go into a column: a verdict's code and message."""

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class Images:
    """JPEGs of one size.

    Attributes:
        data: their bytes. size: (height, width).
        numbers: of the files. changed: how many were not copied whole.
    """

    data: list[bytes]
    size: tuple[int, int]
    numbers: list[int]
    changed: int

    def times_us(self, fps: float) -> npt.NDArray[np.int64]:
        """Microseconds since the first, from the numbers: a missing frame leaves a gap in time."""
        return np.round((np.array(self.numbers) - self.numbers[0]) * (1e6 / fps)).astype(np.int64)

    @property
    def gaps(self) -> int:
        """How many numbers are missing between the first and the last."""
        return self.numbers[-1] - self.numbers[0] + 1 - len(self.numbers)


def read_frames(folder: Path, name: re.Pattern[str], *, on_files: OnFiles | None = None) -> Images:
    """The frames of a video in the order of their numbers.

    Raises:
        BadFolder: no frame, two with one number, or a file that is no fit JPEG or of another size than the first.
        StorageError: they cannot be read.
    """
    files = _numbers(folder, name)
    if not files:
        raise BadFolder("no-frames", "the folder holds no frame")
    return _read(folder, files, on_files=on_files)


def read_fields(
    u: tuple[Path, re.Pattern[str]],
    v: tuple[Path, re.Pattern[str]],
    *,
    frames: list[int],
    as_many: Leads,
    on_files: OnFiles | None = None,
) -> tuple[Images, Images, tuple[int, ...]]:
    """The planes u and v of the fields that lead from each frame but the last to the next.

    Args:
        u, v: folder of the files, and how they are named.
        frames: numbers of the frames, at least two.
        as_many: what it means that there are as many fields as frames (`vidprep.folders.layouts.Layout.as_many`).

    Returns:
        u, v, and the numbers of fields that belong to no pair of frames.

    Raises:
        BadFolder: a field or file is missing, no fit grey JPEG, or of another size than the first.
        StorageError: they cannot be read.
    """
    if frames[-1] - frames[0] + 1 != len(frames):
        raise BadFolder(
            "frames-missing", "frames are missing, so some fields lead from or to a frame that is not there"
        )
    files = [_numbers(*plane) for plane in (u, v)]
    fields = sorted(set(files[0]) & set(files[1]))
    leads = as_many if len(fields) == len(frames) else "from"
    found = match_fields(frames, fields, leads=leads)
    if found.missing:
        raise BadFolder(
            "fields-missing",
            f"{len(found.missing)} of {len(found.numbers)} fields are missing in u or v, the first: number "
            f"{found.missing[0]}; there are {len(frames)} frames, {len(files[0])} files of u and {len(files[1])} of v",
        )
    planes = [
        _read(folder, {n: named[n] for n in found.numbers}, grey=True, on_files=on_files)
        for (folder, _), named in zip((u, v), files, strict=True)
    ]
    if planes[0].size != planes[1].size:
        raise BadFolder("frame-sizes", f"u is {_size(planes[0].size)}, v is {_size(planes[1].size)}")
    return planes[0], planes[1], found.unused


def _numbers(folder: Path, name: re.Pattern[str]) -> dict[int, str]:
    try:
        return read_numbers(folder, name)
    except ValueError as error:
        raise BadFolder("frame-names", str(error)) from error


def _read(folder: Path, files: dict[int, str], *, grey: bool = False, on_files: OnFiles | None = None) -> Images:
    data: list[bytes] = []
    first: Jpeg | None = None
    changed = 0
    for name in files.values():
        image = _fit(folder / name)
        first = first or image
        if (image.height, image.width) != (first.height, first.width):
            raise BadFolder(
                "frame-sizes",
                f"{name} is {image.height}x{image.width}, the first image is {first.height}x{first.width}",
            )
        if grey and not image.grey:
            raise BadFolder("not-grey", f"{name} is in colour; planes of flow are grey images")
        changed += image.changed
        data.append(image.data)
        if on_files is not None and len(data) % _REPORT_EVERY == 0:
            on_files(len(data))
    assert first is not None  # callers give at least one file
    return Images(data=data, size=(first.height, first.width), numbers=list(files), changed=changed)


def _fit(path: Path) -> Jpeg:
    try:
        return fit(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except BadJpeg as bad:
        raise BadFolder(bad.code, f"{path.name} {bad}") from bad


def _size(size: Iterable[int]) -> str:
    return "x".join(map(str, size))
