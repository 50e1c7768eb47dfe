"""Weights files: round trip, and refusals that say what is wrong."""

import dataclasses
import json

import pytest
import safetensors.torch
import torch

from shards.errors import StorageError, UserError
from tests.trainer.reference_networks import filled, shapes
from tests.trainer.tiny_backbones import VARIANTS, clip_for, tiny
from trainer.models import build_backbone
from trainer.models.base import Backbone
from trainer.models.references import REFERENCES
from trainer.models.weights import load_reference, load_weights, save_weights

RGB = {"channels": "rgb", "scale": 1.0, "mean": [0.43, 0.39, 0.37], "std": [0.22, 0.22, 0.21]}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_backbone_comes_back_whole(name, tmp_path):
    saved = tiny(name, convention=RGB, **({"blocks": (1, 2, 1, 1)} if "vcop" in name else {}))
    saved(clip_for(saved, batch=2))  # moves the running statistics
    saved = saved.to(memory_format=torch.channels_last_3d)
    save_weights(tmp_path / "w.safetensors", saved)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert (loaded.id, loaded.convention) == (name, saved.convention)
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(saved.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_saving_again_replaces_and_gives_the_same_bytes(tmp_path):
    path = tmp_path / "new" / "w.safetensors"
    backbone = build_backbone("r3d-vcop", base_width=2)
    save_weights(path, backbone)
    first = path.read_bytes()
    save_weights(path, load_weights(path))
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_reference_weights_become_a_weights_file(tmp_path):
    model = load_reference("pace-s3dg", filled(shapes("pace-s3dg")))
    save_weights(tmp_path / "w", model.backbone)
    loaded = load_weights(tmp_path / "w").eval()
    assert (loaded.convention.channels, loaded.convention.scale) == ("bgr", 255.0)
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(clip).pooled, model.backbone(clip).pooled)


def test_loading_into_a_backbone_takes_over_its_pixels(tmp_path):
    save_weights(tmp_path / "w", build_backbone("c3d-bn", base_width=2, convention=RGB))
    into = build_backbone("c3d-bn", base_width=2)
    assert load_weights(tmp_path / "w", into=into) is into
    assert into.convention.tree() == RGB
    with pytest.raises(UserError, match=r"remove backbone\.convention"):
        explicit = build_backbone("c3d-bn", base_width=2, convention=RGB | {"channels": "bgr"})
        load_weights(tmp_path / "w", into=explicit)


def test_weights_of_another_backbone_are_refused_with_a_report(tmp_path):
    save_weights(tmp_path / "w", build_backbone("r3d-vcop", base_width=2))
    into = build_backbone("r21d-vcop", base_width=2)
    before = {key: value.clone() for key, value in into.state_dict().items()}
    with pytest.raises(UserError) as refusal:
        load_weights(tmp_path / "w", into=into)
    text = str(refusal.value)
    assert "holds r3d-vcop base_width=2 and does not fit r21d-vcop base_width=2" in text
    assert "60 of 144 entries match, 84 missing, 12 unexpected, 0 other shape" in text
    assert "missing" in text and "stem.conv.spatial.weight" in text and "… and" in text
    assert "Set the backbone's name and options" in text
    assert all(torch.equal(value, before[key]) for key, value in into.state_dict().items())


def test_the_number_of_channels_travels_with_the_weights(tmp_path):
    for channels, other in ((2, 3), (3, 2)):
        backbone = build_backbone("r21d-vcop", base_width=2, **({"in_channels": 2} if channels == 2 else {}))
        save_weights(tmp_path / "w", backbone)
        assert load_weights(tmp_path / "w").in_channels == channels
        into = build_backbone("r21d-vcop", base_width=2, in_channels=other)
        with pytest.raises(UserError, match=rf"clips of {channels} channels.*set backbone\.in_channels={channels}"):
            load_weights(tmp_path / "w", into=into)


def test_another_size_is_refused_with_both_shapes(tmp_path):
    save_weights(tmp_path / "w", build_backbone("c3d-bn", base_width=2))
    with pytest.raises(UserError, match=r"other shape +conv1\.weight +4x3x3x3x3 +2x3x3x3x3"):
        load_weights(tmp_path / "w", into=build_backbone("c3d-bn", base_width=4))


def test_foreign_files_are_refused(tmp_path):
    foreign, damaged, checkpoint = tmp_path / "foreign", tmp_path / "damaged", tmp_path / "checkpoint.pth"
    safetensors.torch.save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(UserError, match=r"another program \(1 tensors\)"):
        load_weights(foreign)
    torch.save({"x": torch.zeros(1)}, checkpoint)
    with pytest.raises(UserError, match=r"not a safetensors file.*vidprep convert"):
        load_weights(checkpoint)
    save_weights(damaged, build_backbone("c3d-bn", base_width=1))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_weights(damaged)
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(StorageError, match="cannot read"):
            load_weights(path)


def test_a_newer_format_is_refused(tmp_path):
    metadata = {"vidprep-backbone": '{"version": 2}'}
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "w", metadata=metadata)
    with pytest.raises(UserError, match="format 2; this version reads up to 1"):
        load_weights(tmp_path / "w")


def test_only_named_backbones_with_plain_options_are_saved(tmp_path):
    class Own(Backbone):
        pass

    with pytest.raises(UserError, match="build_backbone"):
        save_weights(tmp_path / "w", Own(width=3))
    odd = build_backbone("c3d-bn", base_width=1)
    odd.options = {"callback": print}
    with pytest.raises(UserError, match="only JSON values"):
        save_weights(tmp_path / "w", odd)
    assert not list(tmp_path.iterdir())


def test_reference_state_dicts_are_matched_strictly():
    state = filled(shapes("pace-r3d"))
    with pytest.raises(UserError, match="allowed: pace-c3d, .*statistics-r21d"):
        load_reference("pace-c3", state)
    with pytest.raises(UserError, match="pass its entry 'state_dict'"):
        load_reference("pace-r3d", {"epoch": 3, "state_dict": state})
    changed = {key: value for key, value in state.items() if key not in ("bn1.bias", "linear.weight", "linear.bias")}
    changed |= {"extra.weight": torch.zeros(2, 3), "bn1.weight": torch.zeros(7)}
    with pytest.raises(UserError) as refusal:
        load_reference("pace-r3d", changed)
    lines = str(refusal.value).splitlines()
    assert lines[0] == (
        "the state dict is not that of pace-r3d: 70 of 74 entries match, 3 missing, 1 unexpected, 1 other shape"
    )
    assert [line.split() for line in lines[2:-1]] == [
        ["missing", "backbone.stem.bn.bias", "64"],
        ["missing", "heads.logits.weight", "1x512"],
        ["missing", "heads.logits.bias", "1"],
        ["unexpected", "extra.weight", "2x3"],
        ["other", "shape", "backbone.stem.bn.weight", "64", "7"],
    ]


def test_metadata_are_readable_by_others(tmp_path):
    save_weights(tmp_path / "w", build_backbone("r3d-vcop", base_width=2, blocks=(1, 1, 2, 1)))
    with safetensors.safe_open(tmp_path / "w", framework="np") as file:
        description = json.loads(file.metadata()["vidprep-backbone"])
    assert description["backbone"] == "r3d-vcop"
    assert description["options"] == {"base_width": 2, "blocks": [1, 1, 2, 1]}
    assert description["convention"]["channels"] == "bgr"


def test_only_keys_named_as_unused_may_be_left_over(monkeypatch):
    state = filled(shapes("pace-c3d")) | {"queue": torch.zeros(3)}
    with pytest.raises(UserError, match=r"unexpected +queue +3"):
        load_reference("pace-c3d", state)
    monkeypatch.setitem(REFERENCES, "pace-c3d", dataclasses.replace(REFERENCES["pace-c3d"], unused=("^queue$",)))
    assert torch.equal(load_reference("pace-c3d", state).heads["logits"].bias, state["linear.bias"])
