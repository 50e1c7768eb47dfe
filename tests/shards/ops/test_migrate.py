"""Older data sets are brought up to date, newer ones refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.main import run
from shards.check import check
from shards.errors import DataError, UserError
from shards.meta import read_meta
from shards.ops import migrate as module
from shards.ops.migrate import BEFORE, Step, migrate


@pytest.fixture
def dest(tiny_dataset: Callable[..., Path]) -> Path:
    return tiny_dataset(samples=3, per_shard=2)


def change(dest: Path, **values: object) -> None:
    path = dest / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_nothing_to_do(dest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (dest / "dataset.json").read_bytes()
    assert run(["migrate", str(dest)]) == 0
    assert "is of version 1 already" in capsys.readouterr().out
    assert (dest / "dataset.json").read_bytes() == before and not (dest / BEFORE).exists()


def test_before_the_first_release(dest: Path) -> None:
    whole = (dest / "dataset.json").read_bytes()
    columns = json.loads(whole)["columns"]
    del columns["rgb"]["sources"]
    change(dest, columns={"rgb": {**columns["rgb"], "source": ""}})
    with pytest.raises(DataError, match="cannot be understood"):
        read_meta(str(dest))
    old = (dest / "dataset.json").read_bytes()
    assert migrate(dest).steps == ("columns name what they were made from",)
    assert (dest / BEFORE).read_bytes() == old and list(check(dest)) == []
    assert migrate(dest).steps == ()
    change(dest, columns={"rgb": {**columns["rgb"], "source": "abc"}})
    with pytest.raises(DataError, match="column rgb has a source without a name"):
        migrate(dest)


def test_a_newer_version_is_refused(dest: Path) -> None:
    change(dest, version=2)
    with pytest.raises(DataError, match="format version 2; this vidprep reads up to 1"):
        migrate(dest)


def test_steps_follow_each_other(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a later version would: two steps, each for the version before."""

    def step(before: int) -> Step:
        return Step(
            what=f"step {before}",
            needed=lambda tree: tree["version"] == before,
            apply=lambda storage, tree: {**tree, "version": before + 1},
        )

    change(dest, version=-1)
    monkeypatch.setattr(module, "STEPS", (step(-1), step(0)))
    done = migrate(dest)
    assert (done.before, done.after, done.steps) == (-1, 1, ("step -1", "step 0"))


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a packed data set"):
        migrate(tmp_path)
