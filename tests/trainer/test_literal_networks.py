"""Backbones without golden outputs give what a plain second implementation gives for the same state dict."""

import itertools

import pytest
import torch
import torchvision

from shards.errors import UserError
from tests.trainer import literal_networks as literal
from tests.trainer.reference_networks import clip, filled
from trainer.models import build_backbone
from trainer.models.base import GREY_45
from trainer.models.convert import convert_state
from trainer.models.weights import fitted

SLOWFAST = {
    "slowfast-r50-4x16": (8, {"fusion": 5}),
    "slowfast-r50-8x8": (4, {"fusion": 7}),
    "slowfast-nln-r50-4x16": (8, {"fusion": 5, "non_local": True}),
}


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


def features(conversion, size):
    with torch.no_grad():
        return conversion.backbone(clip(size)).pooled


def count(shapes):
    """Parameters, of shapes by key."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(torch.Size(shape).numel() for key, shape in shapes.items() if not key.endswith(buffers))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("slow-r50", 32_454_096),
        pytest.param("i3d-r50", 27_223_872 + 819_600, marks=pytest.mark.slow),
        pytest.param("c2d-r50", 23_508_032 + 819_600, marks=pytest.mark.slow),
    ],
)
def test_one_pathway_of_pyslowfast(name, parameters):
    """reference/models.md section 0, with the classifier of 400."""
    shapes = literal.pyslowfast_shapes(name)
    assert count(shapes) == parameters
    state = filled(shapes)
    conversion = convert_state(state, "pyslowfast")
    assert (conversion.backbone.id, conversion.backbone.convention) == (name, GREY_45)
    assert conversion.left_out == {"classifier": 2}
    with torch.no_grad():
        expected = literal.one_pathway(state, clip((2, 3, 7, 48, 32)), pairs=name != "slow-r50")
    assert relative(features(conversion, (2, 3, 7, 48, 32)), expected) < 1e-4


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("slowfast-r50-4x16", 34_480_216),
        pytest.param("slowfast-r50-8x8", 34_566_488, marks=pytest.mark.slow),
        ("slowfast-nln-r50-4x16", 41_838_680),
    ],
)
def test_two_pathways_of_pyslowfast(name, parameters):
    alpha, options = SLOWFAST[name]
    shapes = literal.pyslowfast_shapes("slowfast", **options)
    assert count(shapes) == parameters
    # Non-local blocks multiply three features: of weights that keep the scale of each they make infinity.
    state = filled(shapes)
    state |= {key: value / 30 for key, value in state.items() if "nonlocal" in key and value.ndim > 1}
    conversion = convert_state({f"module.{key}": value for key, value in state.items()}, "pyslowfast")
    assert conversion.backbone.id == name
    size = (1, 3, 3 * alpha, 40, 48)
    with torch.no_grad():
        expected = literal.slowfast(state, clip(size), alpha=alpha)
    assert expected.isfinite().all()
    assert relative(features(conversion, size), expected) < 1e-4


@pytest.mark.parametrize(
    ("name", "shapes", "blocks"),
    [
        ("slow-r50", literal.pyslowfast_shapes("slow-r50"), {"head": 5}),
        ("i3d-r50", literal.pyslowfast_shapes("i3d-r50"), {"pool": True, "head": 6}),
        ("slowfast-r50-8x8", literal.pyslowfast_shapes("slowfast", fusion=7), {"head": 6}),
    ],
)
def test_pytorchvideos_names_are_known_too(name, shapes, blocks):
    state = filled(shapes)
    renamed = {literal.pytorchvideo_name(key, **blocks): value for key, value in state.items()}
    if "slowfast" not in name:  # one pathway is no list of pathways
        renamed = {key.replace("multipathway_blocks.0.", ""): value for key, value in renamed.items()}
    assert len(renamed) == len(state) and not renamed.keys() & state.keys()
    ours, theirs = (convert_state(it, "pyslowfast") for it in (state, renamed))
    assert ours.backbone.id == theirs.backbone.id == name and theirs.left_out == {"classifier": 2}
    expected, found = ours.backbone.state_dict(), theirs.backbone.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_rspnets_slowfast_has_the_same_names():
    state = filled(literal.pyslowfast_shapes("slowfast", classes=101))
    conversion = convert_state({f"encoder.{key}": value for key, value in state.items()}, "rspnet")
    assert (conversion.backbone.id, conversion.left_out) == ("slowfast-r50-4x16", {"classifier": 2})
    assert conversion.backbone.convention.mean == (0.485, 0.456, 0.406)


def test_mfnet():
    shapes = literal.mfnet_shapes()
    assert count(shapes) == 7_996_368
    state = filled(shapes)
    conversion = convert_state({f"encoder.{key}": value for key, value in state.items()}, "rspnet")
    assert (conversion.backbone.id, conversion.left_out) == ("mfnet", {"classifier": 2})
    with torch.no_grad():
        expected = literal.mfnet(state, clip((2, 3, 7, 48, 40)))
    assert relative(features(conversion, (2, 3, 7, 48, 40)), expected) < 1e-4


def test_r2d3d50():
    shapes = literal.r2d3d50_shapes()
    assert count(shapes) == 31_672_128
    state = filled(shapes)
    conversion = convert_state({f"encoder_q.0.{key}": value for key, value in state.items()}, "coclr")
    assert conversion.backbone.id == "r2d3d50"
    with torch.no_grad():
        expected = literal.r2d3d50(state, clip((2, 3, 9, 48, 40)))
    assert relative(features(conversion, (2, 3, 9, 48, 40)), expected) < 1e-4


def shift_before(count):
    """A hook that makes a convolution of a 2-D network see other frames' channels (arXiv 1811.08383)."""

    def hook(_, inputs):
        frames = inputs[0].unflatten(0, (-1, count))
        shifted = torch.zeros_like(frames)
        eighth = frames.shape[2] // 8
        for t in range(count):
            for c in range(frames.shape[2]):
                source = t + 1 if c < eighth else t - 1 if c < 2 * eighth else t
                if 0 <= source < count:
                    shifted[:, t, c] = frames[:, source, c]
        return (shifted.flatten(0, 1),)

    return hook


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_tsm_is_torchvisions_2d_network_with_shifts(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    theirs.load_state_dict(filled(shapes))
    conversion = convert_state(theirs.state_dict(), "torchvision")
    assert conversion.backbone.id == f"tsm-r{name.removeprefix('resnet')}"
    theirs.fc = torch.nn.Identity()
    for block in (b for i in range(1, 5) for b in getattr(theirs, f"layer{i}")):
        block.conv1.register_forward_pre_hook(shift_before(4))
    video = clip((2, 3, 4, 48, 40))
    with torch.no_grad():
        frames = video.transpose(1, 2).flatten(0, 1)  # what RSPNet's raw view mixes up
        expected = theirs(frames).unflatten(0, (2, 4)).mean(1)
    assert relative(features(conversion, (2, 3, 4, 48, 40)), expected) < 1e-4


def test_space_to_depth_pads_as_tensorflow_does():
    """Pace `models/s3d_g.py`: blocks of 2x2x2 pixels become channels, colour last; the kernel of even size pads one
    more at the end."""
    torch.manual_seed(0)
    stem = build_backbone("s3dg-pace", stem="space-to-depth", base_width=8).eval().stem
    video = torch.randn(1, 3, 4, 8, 6)
    blocks = torch.zeros(1, 24, 2, 4, 3)
    for a, b, c, colour in itertools.product(range(2), range(2), range(2), range(3)):
        blocks[:, ((a * 2 + b) * 2 + c) * 3 + colour] = video[:, colour, a::2, b::2, c::2]
    padded = torch.nn.functional.pad(blocks, (1, 2, 1, 2, 0, 1))
    with torch.no_grad():
        made = torch.nn.functional.conv3d(padded, stem.unit.conv.weight)
        assert torch.allclose(stem(video), stem.unit.bn(made).relu(), atol=1e-5)


def with_linear_layers(backbone, places):
    """Weights by rule, fc6 and fc7 as linear layers of a flattened map of so many places; loads them."""
    expected = backbone.state_dict()
    shapes = {key: tuple(value.shape) for key, value in expected.items()}
    width = shapes["fc7.bias"][0]
    shapes |= {"fc6.weight": (width, shapes["fc6.weight"][1] * places), "fc7.weight": (width, width)}
    state = filled(shapes)
    backbone.load_state_dict({key: fitted(value, expected[key]) for key, value in state.items()})
    return state


@pytest.mark.parametrize("small", [False, True])
def test_c3d_with_fully_connected_layers(small):
    """The paper's C3D (pool5 padded by one in space), and MAS's, whose pooling pads at the end as TensorFlow's SAME."""
    backbone = build_backbone("c3d-mas" if small else "c3d", base_width=8).eval()
    state = with_linear_layers(backbone, 16)
    x = clip((2, 3, 16, 112, 112))
    layers = ("1", "2", "3", "4", "5") if small else ("1", "2", "3a", "3b", "4a", "4b", "5a", "5b")
    for i, layer in enumerate(layers):
        x = torch.nn.functional.conv3d(x, state[f"conv{layer}.weight"], state[f"conv{layer}.bias"], padding=1).relu()
        if i + 1 < len(layers) and layer[1:] != "a":
            x = torch.nn.functional.max_pool3d(x, (1, 2, 2) if layer == "1" else (2, 2, 2))
    # 7 x 7 places become 4 x 4.
    around = (0, 1, 0, 1, 0, 0) if small else (1, 1, 1, 1, 0, 0)
    x = torch.nn.functional.max_pool3d(torch.nn.functional.pad(x, around), 2).flatten(1)
    for fc in ("fc6", "fc7"):
        x = torch.nn.functional.linear(x, state[f"{fc}.weight"], state[f"{fc}.bias"]).relu()
    with torch.no_grad():
        assert relative(backbone(clip((2, 3, 16, 112, 112))).pooled, x) < 1e-4


def test_slowfast_chooses_frames_by_whole_numbers():
    """Of 32 frames 0, 10, 20 and 31 with alpha 8: what happens in the others reaches the fast pathway alone."""
    torch.manual_seed(0)
    backbone = build_backbone("slowfast-r50-4x16", base_width=16).eval()
    video = torch.randn(1, 3, 32, 32, 32)
    seen = []
    backbone.slow.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        backbone(video)
    assert torch.equal(seen[0], video[:, :, [0, 10, 20, 31]])


def test_another_number_of_layers_is_refused():
    shapes = literal.pyslowfast_shapes("slow-r50")
    deeper = {key.replace("s4.pathway0_res5", "s4.pathway0_res6"): shape for key, shape in shapes.items()}
    with pytest.raises(UserError, match=r"the nearest is slow-r50: 318 of 318 entries match, .*18 unexpected"):
        convert_state(filled(shapes | deeper), "pyslowfast")
