"""Exported backbones run without this package, and give the same features."""

import importlib.util
import json
import re
from math import nan

import pytest
import torch

from shards.errors import UserError
from tests.trainer.reference_networks import filled
from tests.trainer.tiny_backbones import clip_for, tiny
from trainer.models import build_backbone
from trainer.models.export import DESCRIPTION, SUFFIXES, export
from trainer.models.weights import load_weights

SIZE = (4, 24, 20)


# One of each kind of operation: separable convolutions, gates, padded shortcuts, two pathways, shifts, groups.
@pytest.mark.parametrize("name", ["r21d-vcop", "s3dg-pace", "cpd-r10", "slowfast-nln-r50-4x16", "tsm-r18", "mfnet"])
def test_torchscript_gives_the_features_of_any_batch(name, tmp_path):
    backbone = tiny(name)
    size = tuple(max(pair) for pair in zip(SIZE, backbone.minimum, strict=True))
    lines = export(backbone, tmp_path / "b.pt", clip=size)
    assert f"{name} as torchscript" in lines[0]
    loaded = torch.jit.load(tmp_path / "b.pt")
    clip = clip_for(backbone, batch=5, size=size)
    with torch.no_grad():
        assert torch.allclose(loaded(clip), backbone(clip).pooled, rtol=1e-4, atol=1e-6)


def test_pixels_are_brought_to_the_backbones_convention(tmp_path):
    backbone = build_backbone(
        "r3d-vcop", base_width=2, convention={"channels": "bgr", "scale": 255.0, "mean": [9, 8, 7]}
    )
    export(backbone, tmp_path / "b.pt", clip=SIZE, pixels=True)
    extra = {DESCRIPTION: ""}
    loaded = torch.jit.load(tmp_path / "b.pt", _extra_files=extra)
    clip = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    normalised = clip.flip(1).float() - torch.tensor([9.0, 8.0, 7.0])[:, None, None, None]
    with torch.no_grad():
        assert torch.allclose(loaded(clip), backbone(normalised).pooled, rtol=1e-4, atol=1e-4)
    assert json.loads(extra[DESCRIPTION]) == {
        "backbone": "r3d-vcop",
        "width": 16,
        "clip": list(SIZE),
        "input": "RGB, uint8",
        "convention": backbone.convention.tree(),
    }


def test_safetensors_is_a_weights_file(tmp_path):
    backbone = build_backbone("mc3-18", base_width=2)
    export(backbone, tmp_path / "b.safetensors")
    assert load_weights(tmp_path / "b.safetensors").id == "mc3-18"


ONNX = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ONNX), reason="an extra: pip install 'vidprep[export]'"
)
SLOW = (
    *("c3d-bn", "c3d-mas", "r21d-vcop", "mc3-18", "s3dg-pace"),
    *("resnet3d-hara-10", "r2d3d50", "tsm-r18", "i3d-r50", "slowfast-nln-r50-4x16", "mfnet"),
)


# One of each family: what another one has besides is another number.
@needs_onnx
@pytest.mark.parametrize(
    "name",
    [
        *("r3d-vcop", "cpd-r10"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_onnx_gives_the_features_of_any_batch(name, tmp_path):
    import onnxruntime

    backbone = tiny(name).eval()
    # Fresh weights of S3D give features of 1e-20, which would agree with anything.
    weights = filled({key: tuple(value.shape) for key, value in backbone.state_dict().items()})
    # Non-local blocks multiply three features: of weights that keep the scale of each they make infinity.
    weights |= {key: value / 30 for key, value in weights.items() if re.search(r"\.1\.(theta|phi|g)\.weight", key)}
    backbone.load_state_dict(weights)
    size = tuple(max(pair) for pair in zip((8, 24, 20), backbone.minimum, strict=True))
    export(backbone, tmp_path / "b.onnx", clip=size)
    session = onnxruntime.InferenceSession(str(tmp_path / "b.onnx"))
    clip = clip_for(backbone, batch=5, size=size)
    (got,) = session.run(["pooled"], {"clip": clip.numpy()})
    with torch.no_grad():
        expected = backbone(clip).pooled
    assert expected.std() > 1e-3
    assert torch.allclose(torch.from_numpy(got), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])["backbone"] == name


@needs_onnx
def test_onnx_takes_pixels(tmp_path):
    import onnxruntime

    backbone = build_backbone("r3d-vcop", base_width=2)
    export(backbone, tmp_path / "b.onnx", clip=SIZE, pixels=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "b.onnx"))
    clip = torch.randint(0, 256, (5, 3, *SIZE), dtype=torch.uint8)
    (got,) = session.run(None, {"clip": clip.numpy()})
    with torch.no_grad():
        expected = backbone(clip.flip(1).float()).pooled
    assert torch.allclose(torch.from_numpy(got), expected, rtol=1e-3, atol=1e-4)


def test_without_its_packages_onnx_names_the_extra(tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name))
    absent = [name for name in ONNX if importlib.util.find_spec(name) is None]
    with pytest.raises(UserError, match=rf"onnx needs {', '.join(absent)}.*vidprep\[export\].*--to torchscript"):
        export(build_backbone("r3d-vcop", base_width=2), tmp_path / "b.onnx", clip=SIZE)
    assert not list(tmp_path.iterdir())


def test_a_file_that_gives_other_features_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.models.export._torchscript", lambda *_: lambda clip: torch.zeros(len(clip), 16))
    with pytest.raises(UserError, match="apart from the backbone's; nothing was written"):
        export(build_backbone("r3d-vcop", base_width=2), tmp_path / "b.pt", clip=SIZE)
    monkeypatch.setattr("trainer.models.export._torchscript", lambda *_: lambda clip: torch.full((len(clip), 16), nan))
    with pytest.raises(UserError, match="nan .*apart from the backbone's; nothing was written"):
        export(build_backbone("r3d-vcop", base_width=2), tmp_path / "b.pt", clip=SIZE)
    broken = build_backbone("r3d-vcop", base_width=2)
    broken.stem.conv.weight.data[0] = nan
    with pytest.raises(UserError, match="features of a clip of noise are not finite"):
        export(broken, tmp_path / "b.pt", clip=SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("b.pth", {}, rf"unknown format '\.pth'; allowed: .*{', '.join(SUFFIXES)}"),
        ("b.pt", {}, "--clip FRAMESxHEIGHTxWIDTH"),
        ("b.pt", {"clip": (4, 8, 8)}, "needs clips of at least 8 x 16 x 16"),
        ("b.safetensors", {"pixels": True}, "--pixels is for torchscript and onnx"),
    ],
)
def test_wrong_requests_are_explained(file, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(build_backbone("c3d-bn", base_width=2), tmp_path / file, **options)
    with pytest.raises(UserError, match="this backbone takes flow"):
        export(build_backbone("r3d-vcop", base_width=2, in_channels=2), tmp_path / "b.pt", clip=SIZE, pixels=True)
