"""Backbones out of runs and weights files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import trainer
from shards.errors import UserError
from tests.trainer.toys import THIS, newest_tensors, toy_recipe
from trainer.engine import train
from trainer.engine.checkpoint import checkpoint_paths

Make = Callable[..., Path]


@pytest.mark.parametrize("backbone", [{"name": "r3d-vcop", "base_width": 1}, {"name": f"{THIS}:Plain", "features": 3}])
def test_the_backbone_of_a_run_its_file_and_its_checkpoint_is_the_same(
    tiny_dataset: Make, tmp_path: Path, backbone: dict[str, object]
) -> None:
    run = train(toy_recipe(backbone=backbone), tiny_dataset(), out=tmp_path / "run", device="cpu").run
    loaded = [
        trainer.load_backbone(place)
        for place in (run, str(run / "weights.safetensors"), checkpoint_paths(run / "checkpoints")[-1])
    ]
    trained = newest_tensors(run)
    clip = torch.rand(2, 3, 4, 16, 16)
    outputs = [backbone(clip).pooled for backbone in loaded]
    for module, output in zip(loaded, outputs, strict=True):
        assert not module.training
        assert module.convention == loaded[0].convention
        assert torch.equal(output, outputs[0])
        assert all(torch.equal(value, trained[f"backbone.{key}"]) for key, value in module.state_dict().items())


def test_weights_of_a_run_that_goes_on_are_those_of_its_newest_checkpoint(tiny_dataset: Make, tmp_path: Path) -> None:
    stopped = train(toy_recipe(), tiny_dataset(), out=tmp_path / "run", device="cpu", max_time=0).run
    stem = trainer.load_backbone(stopped).state_dict()["stem.conv.weight"]
    assert torch.equal(stem, newest_tensors(stopped)["backbone.stem.conv.weight"])


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder or weights file"):
        trainer.load_backbone(tmp_path / "nothing")
    with pytest.raises(UserError, match="is not a run folder"):
        trainer.load_backbone(tmp_path)
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        trainer.load_backbone(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not a safetensors file"):
        trainer.load_backbone(tmp_path / "file")
