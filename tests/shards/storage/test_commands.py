"""The whole way of a data set in a bucket, on the command line: packing, looking, training, evaluating."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cli.main import run
from cli.storage import shown
from shards.dataset import open_dataset
from shards.storage import open_storage
from tests.shards.storage.swift import SECRET_KEY, Server
from tests.trainer.toys import toy_recipe
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.records import Video, write_manifest

FLOW = [
    word for pair in ("nscales=1", "warps=1", "outer_iterations=1", "inner_iterations=2") for word in ("--flow", pair)
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for i in range(6):
        write_clip(tmp_path / f"{i}.mp4", noise_frames(12, seed=i))
    splits = [("train",), ("test",)]
    videos = [
        Video(key=f"k{i}", path=f"{i}.mp4", root=str(tmp_path), label="xy"[i // 2 % 2], splits=splits[i % 2])
        for i in range(6)
    ]
    write_manifest(tmp_path / "set.jsonl", videos)
    return tmp_path / "set.jsonl"


def _contents(url: str) -> dict[str, bytes]:
    storage = open_storage(url)
    names = [f"{folder}/{name}" for folder in ("rgb", "flow") for name in storage.list(folder)]
    return {name: storage.read(name) for name in names if name.endswith((".tar", ".idx", ".bin"))}


def test_a_data_set_lives_in_a_bucket(
    manifest: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    local = str(tmp_path / "local")
    pack = ["--short-side", "16", "--name", "set", "--shard-size", "10KB", "--columns", "rgb,flow", *FLOW]
    for dest in (s3, local):
        assert run(["pack", str(manifest), dest, "--workers", "2", *pack]) == 0
    assert run(["pack", str(manifest), s3, "--workers", "1", *pack]) == 0  # nothing left to do
    stored = _contents(s3)
    assert stored == _contents(local)
    assert len([name for name in stored if name.endswith(".tar")]) > 2
    assert run(["check", s3]) == 0
    capsys.readouterr()
    assert run(["info", s3, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 6

    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(toy_recipe(train={"steps": 3}, data={"workers": 1})))
    train = ["train", str(recipe), "--device", "cpu"]
    assert run([*train, "--data", s3, "--out", "run"]) == 0
    assert run(["evaluate", "retrieve", "run", "--data", s3, "--views", "2", "--device", "cpu"]) == 0
    assert list(Path("run", "evaluation").glob("*.json"))


def test_options_of_the_command_line_reach_workers_and_no_file(
    manifest: Path, s3: str, swift: Server, tmp_path: Path
) -> None:
    """Only --storage has the credentials here."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "VIDPREP_"))}
    given = {"endpoint": swift.endpoint, "access_key_id": "test:tester", "secret_access_key": SECRET_KEY}
    words = [word for key, value in given.items() for word in ("--storage", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "pack",
        str(manifest),
        s3,
        "--short-side",
        "16",
        "--workers",
        "2",
        *words,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(open_dataset(s3)) == 6
    storage = open_storage(s3)
    names = ["dataset.json", "plan.jsonl", *(f"rgb/{name}" for name in storage.list("rgb"))]
    assert not [name for name in names if SECRET_KEY.encode() in storage.read(name)]
    assert SECRET_KEY not in done.stdout + done.stderr


def test_a_command_shown_to_people_has_no_secrets() -> None:
    words = ["pack", "m.jsonl", "s3://b/a", "--storage", "secret_access_key=abc", "--storage=endpoint=http://h"]
    assert shown(words) == "pack m.jsonl s3://b/a --storage 'secret_access_key=…' '--storage=endpoint=…'"
