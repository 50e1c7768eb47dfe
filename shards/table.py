"""Clip tables: rows that fix a clip's start, crop and flip and carry numbers computed for exactly that clip.

A table is an `.npy` payload of shape (R, 4 + K) int32: start (stored frame), top and left (of the crop in the resized
frame), flip (0 or 1), then the K numbers. How frames were resized, the crop's side and the clip's length are
parameters of the column, for they are the same for all rows of all samples.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import UserError

PLACES = ("start", "top", "left", "flip")
"""The columns of a table before its numbers."""

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ClipTable:
    """A sample's table: `rows` (R, 4 + K) int32."""

    rows: Rows

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape[1] <= len(PLACES) or self.rows.dtype != np.int32:
            raise ValueError(f"a clip table is (R, 4 + K) int32, not {self.rows.shape} {self.rows.dtype}")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def places(self) -> Rows:
        """(R,4): start, top, left, flip."""
        return self.rows[:, : len(PLACES)]

    @property
    def values(self) -> Rows:
        """(R,K)."""
        return self.rows[:, len(PLACES) :]


@dataclass(frozen=True, kw_only=True)
class TableGeometry:
    """What all rows of a table column have in common; stored in the column's parameters.

    Attributes:
        window: T, frames of a clip at stride 1.
        resize: (height, width) or the short side that frames are resized to, or None: as stored.
        crop: side of the square crop.
    """

    window: int
    resize: tuple[int, int] | int | None
    crop: int

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"window is {self.window}; a clip has at least one frame")
        short = self.resize if isinstance(self.resize, int) or self.resize is None else min(self.resize)
        if self.crop < 1 or (short is not None and self.crop > short):
            raise UserError(f"a crop of {self.crop} does not fit into frames resized to {self.resize}")

    @classmethod
    def of(cls, parameters: Any) -> TableGeometry:
        """From a column's parameters. Raises KeyError or TypeError where they are not those of a table."""
        size = parameters["resize"]
        resize = size if size is None or isinstance(size, int) else (int(size[0]), int(size[1]))
        return cls(window=int(parameters["window"]), resize=resize, crop=int(parameters["crop"]))

    def tree(self) -> dict[str, Any]:
        """As plain JSON values, which `of` reads."""
        resize = list(self.resize) if isinstance(self.resize, tuple) else self.resize
        return {"window": self.window, "resize": resize, "crop": self.crop}

    def flags(self) -> str:
        """The options of `vidprep labels` that make such a table."""
        size = "stored" if self.resize is None else self.resize
        shown = f"{size[0]}x{size[1]}" if isinstance(size, tuple) else size
        return f"--crop {self.crop} --window {self.window} --resize {shown}"


def encode_table(rows: Rows) -> bytes:
    """The payload of a table; equal rows give equal bytes."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(ClipTable(rows).rows), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def decode_table(data: Any) -> ClipTable:
    """The table of a payload. Raises ValueError: the bytes are not one."""
    return ClipTable(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))
