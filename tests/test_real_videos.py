"""The whole path on real videos: class folders to an evaluated model, with flow and labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cli.main import run
from shards.check import check
from shards.dataset import open_dataset

FLOW = ("nscales=2", "warps=1", "outer_iterations=1", "inner_iterations=3")
SMALL = ("backbone.base_width=4", "train.batch=8", "train.steps=3", "train.log_every=1", "data.workers=0")


@pytest.fixture(scope="module")
def weizmann(research_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weizmann at 64x80 with two persons held out; to be read only."""
    folder = tmp_path_factory.mktemp("weizmann")
    manifest, dest = str(folder / "manifest.jsonl"), str(folder / "data")
    videos = str(research_data / "clips" / "weizmann")
    held_out = [word for person in ("denis", "eli") for word in ("--holdout", f"{person}_*")]
    assert run(["index", videos, "--format", "folder", *held_out, "-o", manifest]) == 0
    assert run(["pack", manifest, dest, "--size", "64x80"]) == 0
    return folder / "data"


def train(dest: Path, out: Path, recipe: str, *changes: str) -> None:
    sets = [word for change in (*SMALL, *changes) for word in ("--set", change)]
    assert run(["train", recipe, "--data", str(dest), "--out", str(out), "--device", "cpu", *sets]) == 0
    assert (out / "weights.safetensors").is_file()


def test_frame_counts_and_splits(weizmann: Path, research_data: Path) -> None:
    data = open_dataset(weizmann)
    with (research_data / "clips" / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("weizmann/")]
    counted = {row["file"]: int(row["frames_decoded"]) for row in rows}
    assert len(data) == len(counted) == 63
    for sample in (data[i] for i in range(63)):
        assert sample.frames == counted[f"weizmann/{sample.info['source']}"], sample.key
        held_out = sample.info["source"].split("/")[1].startswith(("denis_", "eli_"))
        assert sample.splits == (("test",) if held_out else ("train",))
        assert sample.label == sample.info["source"].split("/")[0]
    assert len(data.select(split="test")) == 18 and len(data.classes) == 9
    assert not list(check(weizmann))


def test_pretrain_and_retrieve(weizmann: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(
        weizmann,
        tmp_path / "run",
        "pace-r3d",
        "data.frames=8",
        "data.resize=[64,80]",
        "data.crop=48",
        "data.split=train",
    )
    capsys.readouterr()
    arguments = ["evaluate", "retrieve", str(tmp_path / "run"), "--data", str(weizmann), "--device", "cpu"]
    assert run([*arguments, "--views", "2"]) == 0
    (path,) = (tmp_path / "run" / "evaluation").glob("retrieve-*.json")
    result = json.loads(path.read_text())
    assert result["queries"] == 18 and result["gallery"] == 45
    assert 0 <= result["hits"]["1"] <= result["hits"]["5"] <= 1


def test_flow_labels_and_the_statistics_task(weizmann: Path, tmp_path: Path) -> None:
    dest = str(weizmann)
    assert run(["flow", dest, *(word for pair in FLOW for word in ("--param", pair))]) == 0
    assert run(["labels", dest, "--crop", "48", "--window", "8", "--resize", "stored", "--views", "1"]) == 0
    data = open_dataset(weizmann, columns=("rgb", "flow", "statistics"))
    assert data.valid.all()
    walk = data.flow(data.number("side--eli_side"), [20])[0]
    assert walk[..., 0].min() < -0.5 or walk[..., 0].max() > 0.5  # a person walks past
    assert not list(check(weizmann))
    shape = ("data.frames=8", "data.resize=null", "data.crop=48")
    train(weizmann, tmp_path / "table", "statistics-r21d", *shape)
    train(weizmann, tmp_path / "online", "statistics-r21d", *shape, "task.labels=online")
