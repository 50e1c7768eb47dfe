"""Ray gives the same bytes as processes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shards.errors import StorageError, UserError
from shards.receipts import read_receipts
from shards.storage import open_storage
from tests.vidprep.farm.sets import FLOW, LABELS, OPTIONS, contents
from vidprep.farm.ray_engine import Ray
from vidprep.pack import pack

ray = pytest.importorskip("ray", reason="the extra `farm` is not installed")


@pytest.fixture(scope="module")
def engine() -> Any:
    """One Ray for all tests: it takes seconds to start."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield Ray()
    ray.shutdown()


def test_the_same_bytes_and_events(manifest: Path, whole: Path, tmp_path: Path, engine: Ray) -> None:
    events: list[dict[str, Any]] = []
    columns = ("rgb", "flow", "statistics")
    given = {"columns": columns, "flow": FLOW, "labels": LABELS, **OPTIONS}
    report = pack(manifest, tmp_path / "set", workers=1, engine=engine, on_event=events.append, **given)
    assert contents(tmp_path / "set") == contents(whole)
    assert (report.samples, report.bad) == (8, 1)
    kinds = [event["event"] for event in events]
    assert kinds.count("shard") == 3 * report.shards and kinds.count("verdict") >= 1
    assert [event for event in events if event["event"] == "progress"][-1]["done"] == 8
    # Again there is nothing to do.
    pack(manifest, tmp_path / "set", workers=1, engine=engine, **given)
    assert contents(tmp_path / "set") == contents(whole)


@pytest.mark.slow
def test_a_video_that_ends_its_process(
    manifest: Path, tmp_path: Path, engine: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidprep.packing.shards._PACK_SHARD", "tests.vidprep.pack_targets:pack_with_a_crash")
    report = pack(manifest, tmp_path / "set", workers=1, engine=engine, **{**OPTIONS, "max_bad": 0.5})
    assert report.verdicts["crashed"] == 1 and report.samples == 7


@pytest.mark.slow
def test_a_lost_node_is_made_good(
    manifest: Path, whole: Path, tmp_path: Path, engine: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first task ends the Ray worker it runs in, as a node that goes down would."""
    monkeypatch.setattr("vidprep.packing.shards._PACK_SHARD", "tests.vidprep.pack_targets:pack_on_a_lost_node")
    pack(manifest, tmp_path / "set", workers=1, engine=engine, **OPTIONS)
    assert (tmp_path / "set/killed").exists()
    (tmp_path / "set/killed").unlink()
    rgb = {name: digest for name, digest in contents(whole).items() if name.startswith("rgb/")}
    made = {name: digest for name, digest in contents(tmp_path / "set").items() if name.startswith("rgb/")}
    assert made == rgb


def test_errors_keep_their_class(manifest: Path, tmp_path: Path, engine: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidprep.packing.shards._PACK_SHARD", "tests.vidprep.pack_targets:pack_on_full_disk")
    with pytest.raises(StorageError, match="No space left"):
        pack(manifest, tmp_path / "set", workers=1, engine=engine, **OPTIONS)
    assert list(read_receipts(open_storage(tmp_path / "set"), "rgb")) == []


def test_no_cluster_answers(manifest: Path, tmp_path: Path) -> None:
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(UserError, match=r"no Ray answers at 127\.0\.0\.1:1 .*--engine local"):
        pack(manifest, tmp_path / "set", workers=1, engine=Ray(address="127.0.0.1:1"), **OPTIONS)
