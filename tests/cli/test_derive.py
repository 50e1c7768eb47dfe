"""`vidprep flow`, `labels`, `text`, `prune`, and `pack --columns` on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli.main import run
from shards.dataset import open_dataset
from shards.meta import read_meta
from tests.vidprep.clips import noise_frames, write_clip
from tests.vidprep.test_derive import contents
from vidprep.flow import choose_backend
from vidprep.records import Video, read_manifest, write_manifest

FLOW = ("nscales=1", "warps=1", "outer_iterations=1", "inner_iterations=2")
LABELS = {"crop": 16, "window": 4, "resize": "stored", "views": 2}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(3):
        write_clip(folder / f"{i}.mp4", noise_frames(5 + i, seed=i))
    videos = [Video(key=f"k{i}", path=f"{i}.mp4", root=str(folder), label="x") for i in range(3)]
    write_manifest(folder / "set.jsonl", videos)
    return folder / "set.jsonl"


def pack(manifest: Path, dest: Path, *options: str) -> int:
    return run(["pack", str(manifest), str(dest), "--short-side", "16", "--workers", "1", "--name", "set", *options])


def test_one_command_gives_the_bytes_of_three(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    derived = [word for pair in FLOW for word in ("--flow", pair)]
    derived += [word for pair in LABELS.items() for word in ("--labels", f"{pair[0]}={pair[1]}")]
    assert pack(manifest, tmp_path / "one", "--columns", "rgb,flow,statistics", *derived) == 0
    dest = str(tmp_path / "three")
    assert pack(manifest, tmp_path / "three") == 0
    assert run(["flow", dest, *(word for pair in FLOW for word in ("--param", pair))]) == 0
    capsys.readouterr()
    assert run(["labels", dest, *(word for name, value in LABELS.items() for word in (f"--{name}", str(value)))]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["message"] == "column statistics: 1 of 1 shards of statistics to write"
    assert events[-1]["event"] == "done" and events[-1]["failed"] == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert list(read_meta(dest).columns) == ["rgb", "flow", "statistics"]


def test_captions_of_the_manifest_become_a_column(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(manifest, tmp_path / "none", "--columns", "rgb,text") == 1
    told = capsys.readouterr().err
    assert f"no video of {manifest} has a caption" in told and "vidprep text DEST" in told
    assert not (tmp_path / "none").exists()
    blank = manifest.with_name("blank.jsonl")
    write_manifest(blank, [replace(video, caption=" \n") for video in read_manifest(manifest)])
    assert pack(blank, tmp_path / "none", "--columns", "rgb,text") == 1
    assert f"no video of {blank} has a caption" in capsys.readouterr().err
    texts: list[str | tuple[str, ...] | None] = ["one", ("two", "three"), None]
    videos = [replace(video, caption=text) for video, text in zip(read_manifest(manifest), texts, strict=True)]
    captioned = manifest.with_name("captioned.jsonl")
    write_manifest(captioned, videos)
    assert list(read_manifest(captioned)) == videos
    assert pack(captioned, tmp_path / "one", "--columns", "rgb,text", "--dry-run") == 0
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line)
    assert lines["text column"].startswith("2.6 kB")  # three headers, two texts
    for _ in range(2):  # the second time there is nothing to do
        assert pack(captioned, tmp_path / "one", "--columns", "rgb,text") == 0
    assert pack(captioned, tmp_path / "two") == 0
    dest = str(tmp_path / "two")
    assert run(["text", dest, "--plan-only"]) == 0
    assert run(["run", dest, "--column", "text"]) == 0
    assert run(["finalize", dest]) == 0
    assert run(["text", dest]) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    data = open_dataset(dest, columns=("rgb", "text"))
    assert data.captions(range(3), column="text") == [("one",), ("two", "three"), ()]


def test_a_dry_run_estimates_every_column(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [word for pair in LABELS.items() for word in ("--labels", f"{pair[0]}={pair[1]}")]
    assert pack(manifest, tmp_path / "d", "--columns", "rgb,flow,statistics", *labels, "--dry-run") == 0
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line)
    assert "core-hours" in lines["flow column"] and "core-hours" in lines["statistics column"]
    assert not (tmp_path / "d").exists()
    # Three tables of 1, 1 and 1 windows x 2 views, each row 31 numbers, with what an array and a tar add.
    assert lines["statistics column"].startswith("4.2 kB")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--columns", "rgb,depth"), "columns are rgb, depth: no column 'depth' can be made; give rgb and any of flow"),
        (("--columns", "flow"), "columns are flow: rgb is missing"),
        (("--columns", "rgb,statistics"), "statistics are computed from flow"),
        (("--columns", "rgb,flow", "--flow", "method=magic"), "unknown flow method 'magic'"),
        (("--columns", "rgb,flow,statistics", "--labels", "corp=16"), "unknown label option 'corp'"),
    ],
)
def test_wrong_columns_are_found_before_any_work(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert pack(manifest, tmp_path / "d", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_regenerate_inspect_and_prune(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = str(tmp_path / "d")
    assert pack(manifest, tmp_path / "d") == 0
    assert run(["labels", dest]) == 1
    assert f"vidprep flow {dest}" in capsys.readouterr().err
    flow = ["flow", dest, "--workers", "1", *(word for pair in FLOW for word in ("--param", pair))]
    assert run(flow) == 0
    (chosen,) = [line for line in capsys.readouterr().out.splitlines() if '"backend"' in line]
    assert json.loads(chosen)["message"] == "TV-L1 backend {}: {}".format(*choose_backend())
    assert run([*flow, "--codec", "release"]) == 0
    folder = read_meta(dest).columns["flow"].folder
    capsys.readouterr()
    assert run(["info", dest]) == 0
    told = capsys.readouterr()
    assert f"flow\tflow\t{folder}" in told.out and "up to date" in told.out and "codec release" in told.out
    assert run(["prune", dest]) == 0
    assert "unused: flow (" in capsys.readouterr().out and (tmp_path / "d/flow").is_dir()
    assert run(["prune", dest, "--yes"]) == 0
    assert "deleted: flow (" in capsys.readouterr().out and not (tmp_path / "d/flow").exists()
    assert run(["check", dest]) == 0


def test_parameters_are_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["flow", "nowhere", "--param", "nscales"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err
    assert run(["labels", "nowhere", "--resize", "big"]) == 2
    assert "128x171" in capsys.readouterr().err
