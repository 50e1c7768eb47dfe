"""Flow and statistics columns written directly, without computing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.columns import COLUMNS
from shards.dataset import open_dataset
from shards.derived import finalize_column
from shards.flow import make_codec
from shards.receipts import read_receipt
from shards.storage import open_storage
from shards.table import encode_table
from shards.tarwriter import ShardWriter
from vidprep.statistics import APPEARANCE_NAMES, MOTION_NAMES

GEOMETRY: dict[str, Any] = {"window": 8, "resize": [24, 32], "crop": 16}

STILL = dict.fromkeys(MOTION_NAMES, 0) | dict.fromkeys(APPEARANCE_NAMES, 1)
"""Labels of a clip in which nothing moves."""


def row(start: int = 0, top: int = 0, left: int = 0, flip: int = 0, **labels: int) -> list[int]:
    """A table's row: `STILL` but for the labels given."""
    return [start, top, left, flip, *(STILL | labels).values()]


def add_flow(
    dest: Path, fields: Callable[[int], npt.NDArray[np.float32] | None], *, name: str = "flow", codec: str = "byte"
) -> None:
    """A flow column; fields: sample number → (T−1,H,W,2), or None where the sample failed."""

    def payload(i: int, size: tuple[int, int]) -> list[bytes]:
        flow, how = fields(i), make_codec(codec, *size)
        return [] if flow is None else [how.encode(p) for pair in how.quantise(flow)[0] for p in pair]

    _add(dest, name, make_codec(codec, 256, 256).kind, {"codec": codec, "bound": 20.0}, payload)


def add_table(
    dest: Path,
    rows: Callable[[int], Sequence[Sequence[int]] | None],
    *,
    name: str = "statistics",
    parameters: dict[str, Any] = GEOMETRY,
) -> None:
    """A statistics column; rows: sample number → its table, or None where the sample failed."""

    def payload(i: int, _: tuple[int, int]) -> bytes:
        table = rows(i)
        return b"" if table is None else encode_table(np.array(table, np.int32))

    _add(dest, name, "statistics", parameters, payload)


def _add(
    dest: Path,
    name: str,
    kind: str,
    parameters: dict[str, Any],
    payload: Callable[[int, tuple[int, int]], list[bytes] | bytes],
) -> None:
    storage, dataset = open_storage(dest), open_dataset(dest)
    for shard in range(dataset.meta.shards):
        sources = {"rgb": read_receipt(storage, "rgb", shard).tar_sha256}
        with ShardWriter(
            storage, shard, folder=name, kind=COLUMNS[kind], parameters=parameters, sources=sources
        ) as writer:
            for i in np.flatnonzero(dataset.records["shard"] == shard):
                sample = dataset[int(i)]
                size = (sample.height, sample.width)
                data = payload(int(i), size)
                writer.add(sample.key, {}, data, fps=sample.fps, size=size, failed=not data)
            writer.finish()
    finalize_column(storage, name, kind=kind, folder=name, producer="vidprep test", sources=("rgb",))
