"""Putting derived columns in force, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.columns import COLUMNS
from shards.dataset import open_dataset
from shards.derived import finalize_column, folder_for, stale_sources, unreferenced
from shards.errors import DataError, UserError
from shards.meta import read_meta
from shards.receipts import read_receipt
from shards.storage import open_storage
from shards.table import ClipTable, TableGeometry, decode_table, encode_table
from shards.tarwriter import ShardWriter

ROWS = np.array([[0, 1, 2, 1, 5, 6], [8, 0, 0, 0, 7, 8]], np.int32)
PARAMETERS = {"window": 4, "resize": None, "crop": 8, "numbers": 2}


def write(
    dest: Path, *, order: tuple[int, ...] = (0, 1, 2, 3), folder: str = "table", source: str | None = None
) -> None:
    """A table column for a data set of four samples in two shards, samples in this order."""
    storage = open_storage(dest)
    for shard in (0, 1):
        sha = source or read_receipt(storage, "rgb", shard).tar_sha256
        kind = COLUMNS["statistics"]
        options = {"folder": folder, "kind": kind, "parameters": PARAMETERS, "sources": {"rgb": sha}}
        with ShardWriter(storage, shard, **options) as writer:  # type: ignore[arg-type]
            for i in order[2 * shard : 2 * shard + 2]:
                writer.add(f"video_{i:03d}", {}, encode_table(ROWS + i))
            writer.finish()


def put_in_force(dest: Path, *, folder: str = "table") -> None:
    storage = open_storage(dest)
    finalize_column(storage, "table", kind="statistics", folder=folder, producer="vidprep labels", sources=("rgb",))


@pytest.fixture
def dest(tiny_dataset: Callable[..., Path]) -> Path:
    return tiny_dataset(samples=4, frames=3, per_shard=2)


def test_a_column_is_there_when_dataset_json_says_so(dest: Path) -> None:
    write(dest)
    assert unreferenced(open_storage(dest), read_meta(str(dest))) == ("table",)
    with pytest.raises(UserError, match="no column 'table'"):
        open_dataset(dest, columns=("rgb", "table"))
    put_in_force(dest)
    data = open_dataset(dest, columns=("rgb", "table"))
    assert np.array_equal(data.clip_table(3, column="table").rows, ROWS + 3)
    assert data.clip_table(3, column="table").places.tolist() == (ROWS[:, :4] + 3).tolist()
    assert unreferenced(open_storage(dest), data.meta) == ()
    before = (dest / "dataset.json").stat().st_mtime_ns
    put_in_force(dest)
    assert (dest / "dataset.json").stat().st_mtime_ns == before


def test_columns_of_other_keys_or_another_order_are_refused(dest: Path) -> None:
    write(dest, order=(1, 0, 2, 3))
    with pytest.raises(DataError, match="other samples, or in another order, than rgb; remove the folder"):
        put_in_force(dest)
    assert list(read_meta(str(dest)).columns) == ["rgb"]


def test_shards_made_from_other_shards_are_refused(dest: Path) -> None:
    write(dest, source="00" * 32)
    with pytest.raises(DataError, match=r"table/000000 was made from another rgb shard.*vidprep labels"):
        put_in_force(dest)


def test_missing_shards_and_missing_sources(dest: Path) -> None:
    write(dest)
    (dest / "table/000001.json").unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards .* not finished .*table/000001.*same vidprep labels command"):
        put_in_force(dest)
    with pytest.raises(UserError, match="no column 'flow'.*vidprep flow"):
        storage = open_storage(dest)
        write(dest, folder="more")
        finalize_column(
            storage, "table", kind="statistics", folder="more", producer="vidprep labels", sources=("rgb", "flow")
        )


def test_damage_is_found_with_the_command_that_repairs_it(dest: Path) -> None:
    write(dest)
    put_in_force(dest)
    tar = dest / "table/000000.tar"
    data = bytearray(tar.read_bytes())
    data[int(open_dataset(dest, columns=("rgb", "table")).record(0, "table")["offset"]) + 140] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"table/000000.*video_000.*checksum.*same vidprep labels command"):
        open_dataset(dest, columns=("table",)).clip_table(0, column="table")


def test_where_a_column_goes(dest: Path) -> None:
    storage, meta = open_storage(dest), read_meta(str(dest))
    same = {"parameters": PARAMETERS, "digests": {"rgb": "x"}}
    assert folder_for(storage, meta, "table", **same) == "table"  # type: ignore[arg-type]
    write(dest)
    assert folder_for(storage, meta, "table", **same) == "table"  # type: ignore[arg-type]
    other = folder_for(storage, meta, "table", parameters={**PARAMETERS, "crop": 16}, digests={"rgb": "x"})
    assert other.startswith("table-") and len(other) == len("table-") + 8
    again = folder_for(storage, meta, "table", parameters={**PARAMETERS, "crop": 16}, digests={"rgb": "y"})
    assert again != other
    put_in_force(dest)
    # A folder that another column uses is never taken, even by the same contents.
    assert folder_for(storage, read_meta(str(dest)), "rgb", **same).startswith("rgb-")  # type: ignore[arg-type]
    assert stale_sources(storage, read_meta(str(dest)), "table") == ()


def test_tables_are_checked() -> None:
    assert np.array_equal(decode_table(encode_table(ROWS)).rows, ROWS)
    for rows in (ROWS[0], ROWS[:, :4], ROWS.astype(np.int64)):
        with pytest.raises(ValueError, match="a clip table is"):
            ClipTable(rows)
    for data in (b"", b"no array", encode_table(ROWS)[:-8]):
        with pytest.raises(ValueError):
            decode_table(data)
    geometry = TableGeometry(window=16, resize=(128, 171), crop=112)
    assert TableGeometry.of(geometry.tree()) == geometry
    assert geometry.flags() == "--crop 112 --window 16 --resize 128x171"
    assert TableGeometry(window=2, resize=64, crop=8).flags() == "--crop 8 --window 2 --resize 64"
    with pytest.raises(UserError, match="does not fit"):
        TableGeometry(window=2, resize=64, crop=72)
