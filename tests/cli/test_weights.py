"""`vidprep convert` and `vidprep export-weights`."""

from __future__ import annotations

import re

import pytest
import torch

import trainer
from cli.main import run
from cli.weights import SOURCES
from tests.commands import parse_command
from tests.conftest import ROOT
from tests.trainer.reference_networks import filled, shapes
from trainer.config import load_recipe
from trainer.engine import train
from trainer.models import build_backbone, sources
from trainer.models.weights import save_weights


def test_a_checkpoint_is_converted_and_reported(tmp_path, capsys):
    torch.save({"state_dict": filled(shapes("statistics-r3d"))}, tmp_path / "c.pth.tar")
    out = str(tmp_path / "w.safetensors")
    arguments = ["convert", str(tmp_path / "c.pth.tar"), "--from", "statistics", "-o", out]
    assert run([*arguments, "--convention", "{channels: rgb}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["backbone    r3d-vcop", "matched     72 entries, 14,367,564 values"]
    assert printed[-2:] == ["pixels      RGB of 0..1, mean 0 0 0 std 1 1 1", f"wrote {out}"]
    assert trainer.load_backbone(out).convention.channels == "rgb"
    for wrong in ("{channels", "bgr"):
        assert run([*arguments, "--convention", wrong]) == 1
        assert "convention" in capsys.readouterr().err


def test_the_command_knows_every_source():
    assert tuple(sources.SOURCES) == SOURCES


def test_a_run_is_exported_at_the_size_of_its_clips(tiny_dataset, tmp_path, capsys):
    recipe = {
        "name": "small",
        "task": {"name": "pace"},
        "backbone": {"name": "r3d-vcop", "base_width": 1},
        "data": {"frames": 4, "resize": [18, 20], "crop": [16, 18], "workers": 0},
        "optim": {"name": "sgd", "lr": 0.02},
        "train": {"batch": 2, "steps": 1},
    }
    done = train(recipe, tiny_dataset(), out=tmp_path / "run", device="cpu").run
    capsys.readouterr()
    assert run(["export-weights", str(done), "-o", str(tmp_path / "b.pt")]) == 0
    assert "r3d-vcop as torchscript, clips (B,3,4,16,18) to features (B,8)" in capsys.readouterr().out
    clip = torch.randn(2, 3, 4, 16, 18)
    with torch.no_grad():
        expected = trainer.load_backbone(done)(clip).pooled
        assert torch.allclose(torch.jit.load(tmp_path / "b.pt")(clip), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "status"), [("4x16x18", 0), ("4x16", 2), ("4x0x18", 2)])
def test_a_weights_file_needs_the_size_told(size, status, tmp_path, capsys):
    save_weights(tmp_path / "w.safetensors", build_backbone("r3d-vcop", base_width=1))
    arguments = ["export-weights", str(tmp_path / "w.safetensors"), "-o", str(tmp_path / "b"), "--to", "torchscript"]
    assert run(arguments) == 1
    assert "--clip 16x112x112" in capsys.readouterr().err
    assert run([*arguments, "--clip", size]) == status


@pytest.mark.parametrize("page", ["backbones.md", "evaluation.md"])
def test_the_commands_of_a_page_are_commands(page):
    text = (ROOT / "docs" / page).read_text().replace("\\\n", "").replace("SOURCE", "rspnet")
    split = re.search(r'SPLIT="(.*)"', text)
    text = text if split is None else text.replace("$SPLIT", split[1])
    lines = re.findall(r"^    (vidprep .*?)(?:   .*)?$", text, re.MULTILINE)
    found = [parse_command(line) for line in lines]
    assert len(found) > 6
    for command in found:
        recipe = command.values.get("recipe")
        if recipe is not None or command.values.get("overrides"):
            load_recipe(recipe or "finetune", command.values["overrides"])
