"""Checkpoints are whole or invisible; a damaged one is an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.errors import DataError, StorageError
from trainer.engine.checkpoint import (
    MODEL,
    OPTIMIZER,
    best_info,
    checkpoint_paths,
    read_checkpoint,
    save_checkpoint,
)


def save(folder: Path, step: int, **options: Any) -> Path:
    tensors = {"w": torch.full((2, 3), float(step)), "count": torch.tensor(step)}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2) * step}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return save_checkpoint(
        folder, tensors=tensors, optimizer=optimizer, info={"step": step, "x": "ü"}, **{"keep": 2, **options}
    )


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, 120)
    assert path.name == "step-00000120"
    found = read_checkpoint(path)
    assert (found.step, found.info["x"]) == (120, "ü")
    assert found.tensors["w"].tolist() == [[120.0] * 3] * 2
    assert found.optimizer["state"][0]["momentum_buffer"].tolist() == [120.0, 120.0]


def test_tensors_that_share_memory_or_are_channels_last_are_saved(tmp_path: Path) -> None:
    w = torch.arange(48.0).reshape(1, 3, 2, 2, 4).to(memory_format=torch.channels_last_3d)
    path = save_checkpoint(tmp_path, tensors={"a": w, "b": w}, optimizer={}, info={"step": 1}, keep=1)
    assert torch.equal(read_checkpoint(path).tensors["b"], w)


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, best=step in (1, 2))
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-00000002", "step-00000004", "step-00000005"]
    assert (tmp_path / "best").resolve().name == "step-00000002"
    info = best_info(tmp_path)
    assert info is not None
    assert info["step"] == 2
    save(tmp_path, 6, best=True)
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-00000005", "step-00000006"]


def test_steps_are_ordered_as_numbers_and_other_names_are_left_alone(tmp_path: Path) -> None:
    for name in ("step-00000009", "step-123456789", "step-99999999", "notes", ".step-00000003.ab.part"):
        (tmp_path / name).mkdir()
    assert [p.name for p in checkpoint_paths(tmp_path)] == ["step-00000009", "step-99999999", "step-123456789"]


def test_what_a_killed_save_left_is_ignored_and_removed_by_the_next(tmp_path: Path) -> None:
    unfinished = tmp_path / ".step-00000007.1234.part"
    unfinished.mkdir(parents=True)
    (unfinished / MODEL).write_bytes(b"half")
    assert checkpoint_paths(tmp_path) == []
    save(tmp_path, 8)
    assert not unfinished.exists()


@pytest.mark.parametrize("file", [MODEL, OPTIMIZER, "run.json"])
def test_every_changed_byte_is_noticed(tmp_path: Path, file: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    data = (path / file).read_bytes()
    (path / file).write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:] if file != "run.json" else data[:-9])
    with pytest.raises(DataError, match=r"step-00000002 is damaged.*remove that folder to go on from step-00000001"):
        read_checkpoint(path)


@pytest.mark.parametrize("file", [MODEL, OPTIMIZER, "run.json"])
def test_a_missing_file_is_noticed(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, 2)
    (path / file).unlink()
    with pytest.raises(DataError, match=rf"{file} is missing.*with no older one"):
        read_checkpoint(path)


def test_a_foreign_run_json_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    (path / "run.json").write_text(json.dumps({"step": "two", "files": {}}))
    with pytest.raises(DataError, match="lacks step or files"):
        read_checkpoint(path)


def test_an_optimiser_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("executed",))

    path = save_checkpoint(tmp_path, tensors={}, optimizer={"x": Evil()}, info={"step": 1}, keep=1)
    with pytest.raises(DataError, match="cannot be read"):
        read_checkpoint(path)


def test_nothing_visible_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.engine.checkpoint.os.fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device; mend that.*--resume"):
        save(tmp_path, 2)
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-00000001"]
    assert read_checkpoint(tmp_path / "step-00000001").step == 1
