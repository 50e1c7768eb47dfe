"""Operations on data sets in a bucket give what they give on a disk."""

from __future__ import annotations

from pathlib import Path

from shards.check import check
from shards.dataset import open_dataset
from shards.ops.dedupe import dedupe
from shards.ops.operations import merge, reshard
from shards.ops.repair import mend
from shards.storage import Storage, open_storage
from tests.tiny import build_dataset
from tests.vidprep.drawing.columns import add_table, row


def contents(storage: Storage) -> dict[str, bytes]:
    """Everything but receipts, which tell times."""
    names = [f"{folder}/{name}" for folder in storage.folders() for name in storage.list(folder)]
    names = [name for name in names if not name.endswith(".json")]
    return {name: storage.read(name) for name in [*names, "dataset.json", "plan.jsonl", "samples.jsonl"]}


def test_operations_in_a_bucket(s3: str, tmp_path: Path) -> None:
    source = build_dataset(tmp_path / "source", samples=3, per_shard=2)
    add_table(source, lambda i: [row(start=i % 3)])
    for place in (s3, str(tmp_path)):
        reshard(source, f"{place}/whole", shard_size=1e9)
        merge([f"{place}/whole", source], f"{place}/both", prefixes=["a-", "b-"], shard_size=1e9)
    assert contents(open_storage(f"{s3}/both")) == contents(open_storage(tmp_path / "both"))
    assert list(check(f"{s3}/both")) == []
    assert len(open_dataset(f"{s3}/both")) == 6


def test_repair_and_dedupe_in_a_bucket(s3: str, tmp_path: Path) -> None:
    source = build_dataset(tmp_path / "source", samples=4, per_shard=2)
    reshard(source, f"{s3}/a", shard_size=30_000)
    storage = open_storage(f"{s3}/a")
    before = contents(storage)
    tar = storage.read("rgb/000000.tar")
    storage.put("rgb/000000.tar", tar[:5000] + b"?" + tar[5001:], replace=True)
    storage.remove("rgb/000001.idx")
    storage.remove("rgb/index.bin")
    reshard(source, str(tmp_path / "copy"), shard_size=30_000)
    done = mend(f"{s3}/a", other=tmp_path / "copy")
    assert [it.file for it in done.mended] == ["rgb/000000.tar", "rgb/000001.idx", "rgb/index.bin"]
    assert contents(open_storage(f"{s3}/a")) == before
    assert len(dedupe(f"{s3}/a", against=source).drop) == 4
