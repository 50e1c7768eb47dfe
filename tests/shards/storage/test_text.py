"""Captions in a bucket: packed there, and read there with few requests."""

from __future__ import annotations

from pathlib import Path

from shards.check import check
from shards.dataset import open_dataset
from shards.derived import stale_columns
from shards.samples import annotate
from shards.storage import open_storage
from tests.tiny import build_dataset
from vidprep.derive import add_text


def test_captions_in_a_bucket(s3: str, tmp_path: Path) -> None:
    here, there = build_dataset(tmp_path / "here", samples=40, frames=2, per_shard=20), open_storage(f"{s3}/captions")
    files = sorted(path for path in here.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == "dataset.json"):
        there.put(str(path.relative_to(here)), path.read_bytes())
    (tmp_path / "captions.json").write_text('{"video_001": ["one", "two"], "video_039": "last"}')
    for url in (here, there.url):
        annotate(url, tmp_path / "captions.json")
        add_text(url, workers=1)
    for name in ("000000.tar", "000001.tar", "000001.idx", "index.bin"):
        assert there.read(f"text/{name}") == (here / "text" / name).read_bytes()
    data = open_dataset(there.url, columns=("text",))
    local = open_dataset(here, columns=("text",))
    data.captions([0, 39], column="text")  # opens the shards
    before = data.storage.stats.reads
    found = data.captions(range(40), column="text")
    assert data.storage.stats.reads - before == 2  # one a shard, for twenty captions
    assert found == local.captions(range(40), column="text") == local.captions(range(40))
    assert found[1] == ("one", "two") and not list(check(there.url)) and not stale_columns(there.url)
