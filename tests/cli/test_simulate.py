"""`vidprep simulate`, and `--data` given several times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.main import run
from tests.trainer.toys import toy_recipe

Make = Callable[..., Path]


def test_json_has_all_numbers(tiny_dataset: Make, capsys: pytest.CaptureFixture[str]) -> None:
    url = tiny_dataset(samples=20, frames=30)
    options = ["--ranks", "2", "--batch", "4", "--strides", "1,2", "--cache", "1MB", "--clips-per-s", "50", "--json"]
    assert run(["simulate", str(url), *options, "--shuffle", "blocks:2", "--epochs", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["shards"], found["steps"], found["items"]) == (20, 5, 10, 40)
    assert found["cached"]["misses"] == 5 and found["cached"]["hits"] == 35
    assert found["bytes_per_s"] == pytest.approx(found["bytes"] / 40 * 50)
    assert 0 < found["shuffle_quality"] <= 1.1


def test_a_table_for_people_and_a_warning_where_the_cache_is_too_small(
    tiny_dataset: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    url = tiny_dataset(samples=40, frames=6, per_shard=4)
    size = max(path.stat().st_size for path in url.glob("rgb/*.tar"))
    assert run(["simulate", str(url), "--batch", "2", "--workers", "1", "--cache", str(3 * size)]) == 0
    shown = capsys.readouterr()
    lines = dict(line.split("\t") for line in shown.out.splitlines()[1:])
    assert lines["selection"].startswith("40 samples in 10 shards of")
    assert lines["run"] == "20 steps, 1 epochs, 40 clips"
    assert "blocks:2 fits" in lines["cache"] and "shuffle quality" in lines
    assert "MB/s" in lines["needed at 100 clips/s"]
    assert "in use at once and the cache holds" in shown.err and "; --shuffle blocks:2 fits" in shown.err
    fitting = ["--cache", str(3 * size), "--shuffle", "blocks:2"]
    assert run(["simulate", str(url), "--batch", "2", "--workers", "1", *fitting]) == 0
    assert "warning" not in capsys.readouterr().err
    assert run(["simulate", str(url), "--batch", "2", "--cache", "1kB"]) == 0
    assert "smaller --shard-size" in capsys.readouterr().err


def test_recipes_and_mixtures(tiny_dataset: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(toy_recipe()))
    data = [str(tiny_dataset(samples=8)), f"{tiny_dataset(samples=4)}=0.5"]
    assert run(["simulate", *data, "--recipe", str(recipe), "--set", "data.repeats=2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["items"], found["steps"]) == (12, 24, 6)
    assert run(["simulate", data[0], "--strides", "fast"]) == 2
    assert run(["simulate", data[0], "--shuffle", "blocks:x"]) == 1
    assert "full, none, or blocks:k" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    words = [word for source in data for word in ("--data", source)]
    assert run(["train", str(recipe), *words, *out, "--set", "train.steps=2"]) == 0
    described = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert described["sources"] == data and described["url"] == data[0]
    assert f"--data {data[0]} --data {data[1]}" in json.loads((tmp_path / "run" / "run.json").read_text())["resume"]
