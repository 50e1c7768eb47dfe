"""Backbones: sizes, shapes, gradients, precision, memory format, options, refusals."""

import itertools
import re

import pytest
import torch
import torchvision

from shards.errors import UserError
from tests.conftest import ROOT
from tests.trainer.tiny_backbones import VARIANTS, clip_for, tiny
from trainer.models import BACKBONES, Backbone, InputConvention, build_backbone
from trainer.models.blocks import shift_in_time
from trainer.models.slowfast import NonLocal
from trainer.models.weights import fitted

TINY = {name: tiny(name) for name in VARIANTS}


# reference/models.md section 0, column "backbone params"
@pytest.mark.parametrize(
    ("name", "options", "parameters", "width"),
    [
        ("c3d-bn", {}, 27_661_440, 512),
        ("r3d-vcop", {}, 14_361_792, 512),
        ("r3d-vcop", {"blocks": [2, 2, 2, 2]}, 33_166_272, 512),
        ("r21d-vcop", {}, 14_365_303, 512),
        ("r21d-vcop", {"blocks": [2, 2, 2, 2]}, 33_178_423, 512),
        ("s3dg-pace", {}, 9_125_072, 1024),
        ("s3dg-pace", {"stem": "space-to-depth"}, 9_146_000, 1024),
        ("s3dg-rsp", {}, 8_675_744, 1024),
        ("s3d-rsp", {}, 7_910_048, 1024),
        ("s3dg-coclr", {}, 9_098_000, 1024),
        ("s3d-coclr", {}, 7_910_048, 1024),
        ("r21d-tv", {}, 12_487_005, 512),
        ("r21d-tv", {"blocks": [2, 2, 2, 2]}, 31_300_125, 512),
        ("r3d-tv-18", {}, 33_166_272, 512),
        ("mc3-18", {}, 11_490_240, 512),
        ("resnet3d-hara-10", {}, 14_399_424, 512),
        ("resnet3d-hara-18", {}, 33_203_904, 512),
        ("resnet3d-hara-34", {}, 63_513_536, 512),
        ("resnet3d-hara-50", {}, 46_198_976, 2048),
        ("cpd-r10", {}, 7_681_088, 512),
        ("cpd-r18", {}, 19_850_048, 512),
        ("cpd-r34", {}, 39_395_392, 512),
        ("cpd-r50", {}, 28_857_920, 2048),
        ("cpd-r50", {"shortcut": "A-detached"}, 28_857_920, 2048),
        ("cpd-r50", {"shortcut": "B"}, 31_634_496, 2048),
        ("r2d3d50", {}, 31_672_128, 2048),
        # Section 1 has no count: c3d-bn without its 5,504 of BN, and fc6 and fc7 of 4096.
        ("c3d", {}, 27_661_440 - 5_504 + 8_193 * 4_096 + 4_097 * 4_096, 4096),
        ("c3d-mas", {}, 17_238_016, 2048),
        ("c3d-mas", {"fc": False}, 4_651_008, 256),
        ("mfnet", {}, 7_688_768, 768),
        ("slow-r50", {}, 31_634_496, 2048),
        ("i3d-r50", {}, 27_223_872, 2048),
        ("c2d-r50", {}, 23_508_032, 2048),
        ("slowfast-r50-4x16", {}, 33_558_216, 2304),
        ("slowfast-r50-8x8", {}, 33_644_488, 2304),
        ("slowfast-nln-r50-4x16", {}, 40_916_680, 2304),
        # 2-D ResNets without their classifiers: shifting has no parameters.
        ("tsm-r18", {}, 11_689_512 - 513_000, 512),
        ("tsm-r50", {}, 25_557_032 - 2_049_000, 2048),
    ],
)
def test_parameters_are_those_of_the_reference(name, options, parameters, width):
    with torch.device("meta"):
        backbone = build_backbone(name, **options)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert backbone.width == width


RESIDUAL = {
    "stem": (64, 16, 56, 56),
    "layer1": (64, 16, 56, 56),
    "layer2": (128, 8, 28, 28),
    "layer3": (256, 4, 14, 14),
    "layer4": (512, 2, 7, 7),
}
C3D = {
    "conv1": (64, 16, 112, 112),
    "conv2": (128, 16, 56, 56),
    "conv3": (256, 8, 28, 28),
    "conv4": (512, 4, 14, 14),
    "conv5": (512, 2, 7, 7),
}
S3DG = {
    "stem": (64, 32, 112, 112),
    "conv2": (192, 32, 56, 56),
    "mixed3": (480, 32, 28, 28),
    "mixed4": (832, 16, 14, 14),
    "mixed5": (1024, 8, 7, 7),
}
# In place of the floor that other S3D-G have, pooling rounds up: 4x4 where they give 3x3.
S3DG_SMALL = {
    "stem": (64, 8, 56, 56),
    "conv2": (192, 8, 28, 28),
    "mixed3": (480, 8, 14, 14),
    "mixed4": (832, 4, 7, 7),
    "mixed5": (1024, 2, 4, 4),
}


HARA = {
    "stem": (64, 16, 56, 56),
    "layer1": (64, 8, 28, 28),
    "layer2": (128, 4, 14, 14),
    "layer3": (256, 2, 7, 7),
    "layer4": (512, 1, 4, 4),
}
SVC_R3D = {
    "stem": (64, 16, 64, 64),
    "layer1": (64, 16, 32, 32),
    "layer2": (128, 8, 16, 16),
    "layer3": (256, 4, 8, 8),
    "layer4": (512, 2, 4, 4),
}
TORCHVISION = {
    "stem": (64, 16, 64, 64),
    "layer1": (64, 16, 64, 64),
    "layer2": (128, 8, 32, 32),
    "layer3": (256, 4, 16, 16),
    "layer4": (512, 2, 8, 8),
}
CPD = {
    "stem": (64, 8, 112, 112),
    "layer1": (256, 8, 56, 56),
    "layer2": (512, 8, 28, 28),
    "layer3": (1024, 8, 14, 14),
    "layer4": (2048, 8, 7, 7),
}


SLOWFAST = {
    "stem": (72, 4, 56, 56),
    "layer1": (288, 4, 56, 56),
    "layer2": (576, 4, 28, 28),
    "layer3": (1152, 4, 14, 14),
    "layer4": (2304, 4, 7, 7),
}
R2D3D = {
    "stem": (64, 16, 64, 64),
    "layer1": (256, 16, 32, 32),
    "layer2": (512, 16, 16, 16),
    "layer3": (1024, 16, 8, 8),
    "layer4": (2048, 16, 4, 4),
}
PAIRS = {name: (c, t if name in ("stem", "layer1") else t // 2, h, w) for name, (c, t, h, w) in CPD.items()}
MFNET = {
    "conv1": (16, 16, 112, 112),
    "conv2": (96, 8, 56, 56),
    "conv3": (192, 8, 28, 28),
    "conv4": (384, 8, 14, 14),
    "conv5": (768, 8, 7, 7),
}


def narrow(maps):
    """Of basic blocks: a quarter of the width of bottlenecks after the stem."""
    return {name: (c if name == "stem" else c // 4, *size) for name, (c, *size) in maps.items()}


C3D_FULL = C3D | {"pool5": (512, 1, 4, 4), "fc6": (4096, 1, 1, 1), "fc7": (4096, 1, 1, 1)}
MAS = {
    "conv1": (64, 16, 112, 112),
    "conv2": (128, 16, 56, 56),
    "conv3": (256, 8, 28, 28),
    "conv4": (256, 4, 14, 14),
    "conv5": (256, 2, 7, 7),
    "pool5": (256, 1, 4, 4),
}


# reference/models.md sections 1 to 10
@pytest.mark.parametrize(
    ("name", "options", "clip", "maps"),
    [
        ("c3d-bn", {}, (16, 112, 112), C3D),
        ("r3d-vcop", {}, (16, 112, 112), RESIDUAL),
        ("r21d-vcop", {}, (16, 112, 112), RESIDUAL),
        ("s3dg-pace", {}, (64, 224, 224), S3DG),
        ("s3dg-pace", {"stem": "space-to-depth"}, (64, 224, 224), S3DG),
        ("s3dg-pace", {}, (16, 112, 112), S3DG_SMALL),
        ("s3dg-rsp", {}, (64, 224, 224), S3DG),
        ("s3dg-coclr", {}, (64, 224, 224), S3DG),
        ("s3dg-rsp", {}, (16, 112, 112), S3DG_SMALL | {"mixed5": (1024, 2, 3, 3)}),
        ("r21d-tv", {}, (16, 128, 128), TORCHVISION),
        ("resnet3d-hara-18", {}, (16, 112, 112), HARA),
        ("resnet3d-hara-18", {"pool_time_stride": 1}, (16, 128, 128), SVC_R3D),
        ("cpd-r50", {}, (8, 224, 224), CPD),
        ("cpd-r50", {"shortcut": "B"}, (8, 224, 224), CPD),
        ("c3d", {}, (16, 112, 112), C3D_FULL),
        ("c3d-mas", {"fc": False}, (16, 112, 112), MAS),
        ("slow-r50", {}, (8, 224, 224), CPD),
        ("slowfast-r50-4x16", {}, (32, 224, 224), SLOWFAST),
        ("slowfast-nln-r50-4x16", {}, (32, 224, 224), SLOWFAST),
        ("tsm-r50", {}, (8, 224, 224), CPD),
        ("tsm-r18", {}, (8, 224, 224), narrow(CPD)),
        ("cpd-r18", {}, (8, 224, 224), narrow(CPD)),
        ("i3d-r50", {}, (8, 224, 224), PAIRS),
        ("c2d-r50", {}, (8, 224, 224), PAIRS),
        ("r2d3d50", {}, (32, 128, 128), R2D3D),
        ("mfnet", {}, (16, 224, 224), MFNET),
        ("s3d-coclr", {}, (64, 224, 224), S3DG),
        ("r3d-tv-18", {}, (16, 128, 128), TORCHVISION),
        ("mc3-18", {}, (16, 128, 128), {name: (c, 16, *size) for name, (c, _, *size) in TORCHVISION.items()}),
        (
            "resnet3d-hara-50",
            {},
            (16, 112, 112),
            {name: (c if name == "stem" else 4 * c, *size) for name, (c, *size) in HARA.items()},
        ),
        ("slowfast-r50-8x8", {}, (32, 224, 224), {name: (c, 8, *size) for name, (c, _, *size) in SLOWFAST.items()}),
    ],
)
def test_maps_have_the_shapes_of_the_reference(name, options, clip, maps):
    with torch.no_grad():
        backbone = build_backbone(name, base_width=12 if name == "mfnet" else 8, **options).eval()
        features = backbone(torch.zeros(1, 3, *clip))
    # An eighth of the reference's width, to be quick.
    assert {stage: (8 * m.shape[1], *m.shape[2:]) for stage, m in features.maps.items()} == maps
    assert list(features.maps) == list(maps)
    assert features.last is features.maps[list(maps)[-1]]


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    backbone = tiny(name, 8)
    for part in backbone.modules():
        if isinstance(part, torch.nn.BatchNorm3d):  # some start at 0, which stops gradients in the first step
            torch.nn.init.ones_(part.weight)
    backbone(clip_for(backbone, batch=2, size=(8, 40, 48))).pooled.square().sum().backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", VARIANTS)
def test_pooled_is_the_mean_of_the_last_map_also_in_bf16(name):
    clip = clip_for(TINY[name], batch=2)
    backbone = TINY[name].eval()
    with torch.no_grad():
        exact = backbone(clip)
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone(clip)
    assert torch.allclose(exact.pooled, exact.last.mean((2, 3, 4)), atol=1e-6)
    assert exact.pooled.shape == (2, backbone.width)
    assert half.pooled.dtype == torch.float32
    assert torch.allclose(half.pooled, half.last.float().mean((2, 3, 4)), rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_channels_last_gives_the_same(name):
    clip = clip_for(TINY[name], batch=2)
    backbone = tiny(name).eval()
    with torch.no_grad():
        plain = backbone(clip).pooled
        backbone = backbone.to(memory_format=torch.channels_last_3d)
        turned = backbone(clip.contiguous(memory_format=torch.channels_last_3d)).pooled
    assert torch.allclose(plain, turned, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_smallest_clip_works_and_a_smaller_one_is_refused(name):
    backbone = TINY[name].eval()
    smallest = backbone.minimum
    need = " x ".join(map(str, smallest))
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, *smallest)).pooled.isfinite().all()
        for axis, size in enumerate(smallest):
            if size > 1:
                clip = torch.randn(1, 3, *(s - (i == axis) for i, s in enumerate(smallest)))
                with pytest.raises(UserError, match=rf"at least {need} .*data\.crop"):
                    backbone(clip)
    with pytest.raises(UserError, match=r"\(B,3,T,H,W\); got \(1, 8, 3, 32, 32\)"):
        backbone(torch.randn(1, 8, 3, 32, 32))


@pytest.mark.parametrize("name", VARIANTS)
def test_flow_goes_into_a_backbone_of_two_channels_only(name):
    backbone = tiny(name, 2, in_channels=2).eval()
    assert (backbone.in_channels, backbone.options["in_channels"]) == (2, 2)
    first = next(p for p in backbone.parameters() if p.ndim == 5)
    assert first.shape[1] == 2 * (8 if VARIANTS[name].get("stem") == "space-to-depth" else 1)
    with torch.no_grad():
        assert backbone(clip_for(backbone, channels=2)).pooled.isfinite().all()
    with pytest.raises(UserError, match=r"made for flow and these are RGB\. Set backbone\.in_channels=3"):
        backbone(torch.randn(1, 3, 8, 32, 32))
    with pytest.raises(UserError, match=r"made for RGB and these are flow\. Set backbone\.in_channels=2"):
        TINY[name](torch.randn(1, 2, 8, 32, 32))


@pytest.mark.parametrize(("name", "sees"), [("s3dg-pace", True), ("s3dg-rsp", False), ("s3dg-coclr", True)])
def test_rspnets_stem_never_sees_odd_frames(name, sees):
    """reference/rspnet.md section 12.3"""
    clip = torch.randn(1, 3, 8, 32, 32)
    changed = clip.clone()
    changed[:, :, 1::2] += 1
    backbone = TINY[name].eval()
    with torch.no_grad():
        assert torch.equal(backbone(clip).maps["stem"], backbone(changed).maps["stem"]) is not sees


def test_space_to_depth_needs_even_sizes():
    with pytest.raises(UserError, match=r"even number of frames.*9 x 32 x 32.*data\.frames"):
        TINY["s3d-pace"](torch.randn(1, 3, 9, 32, 32))


def test_slowfast_needs_whole_groups_of_frames():
    with pytest.raises(UserError, match=r"slowfast-r50-8x8 takes a multiple of 4 frames; got 10\. Set data\.frames"):
        TINY["slowfast-r50-8x8"](torch.randn(1, 3, 10, 32, 32))


def test_c2d_is_torchvisions_resnet_on_still_clips():
    """And so are the order of strides and the names of tensors of all that share its class."""
    other = torchvision.models.resnet50(width_per_group=64).eval()
    other.fc = torch.nn.Identity()
    ours = build_backbone("c2d-r50").eval()
    expected = ours.state_dict()
    ours.load_state_dict({key: fitted(value, expected[key]) for key, value in other.state_dict().items()})
    frame = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pooled = ours(torch.stack([frame, frame], dim=2)).pooled
        assert torch.allclose(pooled, other(frame), rtol=1e-4, atol=1e-4)


def test_shifting_in_time_is_a_loop_over_frames_and_channels():
    x = torch.randn(2, 17, 4, 2, 2)
    shifted = shift_in_time(x)
    for c in range(17):
        for t in range(4):
            source = t + 1 if c < 2 else t - 1 if c < 4 else t
            expected = x[:, c, source] if 0 <= source < 4 else torch.zeros(2, 2, 2)
            assert torch.equal(shifted[:, c, t], expected)


@pytest.mark.parametrize("name", ["tsm-r18", "tsm-r50"])
def test_tsm_sees_the_order_of_frames_and_c2d_does_not(name):
    clip = torch.randn(1, 3, 8, 32, 32)
    shuffled = clip[:, :, [1, 0, 3, 2, 5, 4, 7, 6]]  # within the pairs that C2D pools
    backbone, without = tiny(name, 8).eval(), tiny("c2d-r50", 8).eval()
    with torch.no_grad():
        assert not torch.allclose(backbone(clip).pooled, backbone(shuffled).pooled, rtol=1e-3)
        for part in without.modules():
            if isinstance(part, torch.nn.BatchNorm3d):
                torch.nn.init.ones_(part.weight)
        assert torch.allclose(without(clip).pooled, without(shuffled).pooled, rtol=1e-3)


def test_every_backbone_is_counted_here():
    counted = test_parameters_are_those_of_the_reference.pytestmark[0].args[1]
    assert set(BACKBONES) - {row[0] for row in counted} == {"s3d-pace"}  # Pace's without gates, in no reference


def test_a_non_local_block_is_a_sum_over_positions():
    torch.manual_seed(0)
    block, x = NonLocal(4).eval(), torch.randn(1, 4, 2, 4, 4)
    with torch.no_grad():
        torch.nn.init.ones_(block.bn.weight)
        pooled = torch.nn.functional.max_pool3d(x, (1, 2, 2))
        theta, phi, g = block.theta(x), block.phi(pooled), block.g(pooled)
        sums = torch.zeros_like(theta)
        for t, h, w in itertools.product(range(2), range(4), range(4)):
            for s, i, j in itertools.product(range(2), range(2), range(2)):
                weight = (theta[0, :, t, h, w] * phi[0, :, s, i, j]).sum() / 8
                sums[0, :, t, h, w] += weight * g[0, :, s, i, j]
        assert torch.allclose(block(x), x + block.bn(block.out(sums)), atol=1e-5)


def test_larger_clips_give_fully_connected_layers_more_positions():
    backbone = tiny("c3d").eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 32, 128, 112))
    assert features.last.shape[2:] == (2, 2, 1)
    assert features.pooled.shape == (1, backbone.width)


def test_shortcut_a_passes_the_gradient_unless_it_is_told_not_to():
    """The reference detaches it: the same features, other gradients (reference/cpd.md section 12.2)."""
    torch.manual_seed(0)
    kept = build_backbone("cpd-r10", base_width=4)
    cut = build_backbone("cpd-r10", base_width=4, shortcut="A-detached")
    cut.load_state_dict(kept.state_dict())
    clip = torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(kept(clip).pooled, cut(clip).pooled)
    for backbone in (kept, cut):
        # Without the branches of all blocks, gradients can pass through shortcuts alone.
        for name, parameter in backbone.named_parameters():
            if name.startswith("layer") and ".bn2." in name:
                parameter.data.zero_()
        backbone(clip).pooled.sum().backward()
    assert kept.conv1.weight.grad.abs().sum() > 0
    assert cut.conv1.weight.grad is None or cut.conv1.weight.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("c3d-bn", {"in_channels": 1}, r"in_channels is 1; allowed: 3 \(RGB\), 2 \(flow\)"),
        ("c3d-nb", {}, "did you mean c3d-bn"),
        ("cpd-r50", {"depth": 18}, "It takes: shortcut, base_width"),
        ("cpd-r50", {"shortcut": "C"}, "allowed: A, A-detached, B"),
        ("resnet3d-hara-18", {"pool_time_stride": 3}, r"allowed: 2 \(RSPNet\), 1 \(SVC\)"),
        ("resnet3d-hara-18", {"stem_time": 4}, "allowed: 1, 3, 5, 7"),
        ("r21d-tv", {"blocks": [1]}, "four whole numbers"),
        ("mfnet", {"base_width": 8}, "multiple of 6"),
        ("slowfast-r50-8x8", {"base_width": 4}, "at least 8"),
        ("slowfast-r50-8x8", {"fusion": 4}, "odd numbers"),
        ("c3d-bn", {"basewidth": 8}, "did you mean base_width"),
        ("c3d-bn", {"blocks": [1, 1, 1, 1]}, "It takes: base_width, convention"),
        ("s3dg-pace", {"stem": "deep"}, "allowed: joint, space-to-depth, separable"),
        ("s3d-rsp", {"gates": True}, "allowed: none, branches, branches"),
        ("s3dg-pace", {"base_width": 0}, "base_width is 0"),
        ("r3d-vcop", {"base_width": 1.5}, "base_width is 1.5"),
        ("r3d-vcop", {"blocks": [1, 1, 1]}, "four whole numbers"),
        ("r21d-vcop", {"blocks": 2}, "four whole numbers"),
        ("r3d-vcop", {"convention": {"channels": "gbr"}}, "allowed: rgb, bgr"),
        ("r3d-vcop", {"convention": {"channel": "rgb"}}, "keys channels, scale, mean, std"),
        ("r3d-vcop", {"convention": {"std": [1, 0, 1]}}, "std above 0"),
        ("r3d-vcop", {"convention": {"mean": 0.5}}, "three numbers"),
        ("r3d-vcop", {"convention": {"scale": 127}}, "allowed: 1.0"),
        ("nowhere.py:Net", {}, "there is no file"),
    ],
)
def test_wrong_options_are_explained(name, options, message):
    with pytest.raises(UserError, match=message):
        build_backbone(name, **options)


def test_convention_is_an_option():
    assert build_backbone("r3d-vcop", base_width=2).convention == InputConvention(channels="bgr", scale=255)
    given = {"channels": "rgb", "scale": 1.0, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}
    convention = build_backbone("r3d-vcop", base_width=2, convention=given).convention
    assert convention == InputConvention(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    assert convention.tree() == given


OWN = """
import torch
from trainer.models.base import Backbone

class Means(Backbone):
    def __init__(self, *, times: int = 1) -> None:
        super().__init__(width=3)
        self.factor = torch.nn.Parameter(torch.full((1,), float(times)))

    def stages(self, clip_BCTHW):
        return {"only": clip_BCTHW * self.factor}

def wrong():
    return torch.nn.Linear(1, 1)
"""


def test_a_users_own_backbone(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    backbone = build_backbone(f"{file}:Means", times=2)
    assert isinstance(backbone, Backbone)
    clip = torch.randn(2, 3, 2, 4, 4)
    assert torch.allclose(backbone(clip).pooled, 2 * clip.mean((2, 3, 4)), atol=1e-6)
    with pytest.raises(UserError, match="It takes: times"):
        build_backbone(f"{file}:Means", time=2)
    with pytest.raises(UserError, match="made a Linear"):
        build_backbone(f"{file}:wrong")


def test_the_page_on_backbones_has_them_all():
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \| (\d+) \|", (ROOT / "docs/backbones.md").read_text(), re.MULTILINE)
    said = {name: (int(parameters.replace(",", "")), int(width)) for name, parameters, width in rows}
    with torch.device("meta"):
        made = {name: build_backbone(name) for name in BACKBONES}
    assert said == {name: (sum(p.numel() for p in b.parameters()), b.width) for name, b in made.items()}
