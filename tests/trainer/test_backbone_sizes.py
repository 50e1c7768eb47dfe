"""Backbones take any size that leaves something at the last stage, and nothing in them stops torch.compile."""

import shutil

import pytest
import torch

from shards.errors import UserError
from tests.trainer.tiny_backbones import VARIANTS, clip_for, tiny
from trainer.models import build_backbone

EVEN = {"s3d-pace": (2, 2, 2), "slowfast-r50-4x16": (8, 1, 1), "slowfast-r50-8x8": (4, 1, 1)}
"""Backbones whose sizes are multiples of something (s3d-pace: with its stem space-to-depth)."""


def multiples(name):
    return EVEN.get("slowfast-r50-4x16" if "nln" in name else name, (1, 1, 1))


def size_from(backbone, name, *, more):
    """A size above the smallest one by `more`, made a multiple where one is needed."""
    sizes = zip(backbone.minimum, more, multiples(name), strict=True)
    return tuple(-(-(least + extra) // unit) * unit for least, extra, unit in sizes)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("more", [(1, 2, 4), (6, 13, 0), (3, 38, 51)])
def test_odd_sizes_work(name, more):
    backbone = tiny(name, 2).eval()
    size = size_from(backbone, name, more=more)
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, *size))
    assert features.pooled.shape == (2, backbone.width) and features.pooled.isfinite().all()
    assert all(min(m.shape) > 0 for m in features.maps.values())


def leaves_something(backbone, size):
    try:
        with torch.no_grad():
            return list(backbone.stages(torch.randn(1, 3, *size)).values())[-1].numel() > 0
    except RuntimeError:
        return False


@pytest.mark.parametrize("name", VARIANTS)
def test_the_least_size_is_the_least(name):
    """Where a smaller clip is refused, the network itself could do nothing with it."""
    backbone = tiny(name, 2).eval()
    for axis, least in enumerate(backbone.minimum):
        if least == 1:
            continue
        unit = multiples(name)[axis]
        size = [smallest - unit * (i == axis) for i, smallest in enumerate(backbone.minimum)]
        with pytest.raises(UserError, match="needs clips of at least"):
            backbone(torch.randn(1, 3, *size))
        if name.endswith("-coclr") and axis == 0:
            continue  # refused for the sake of its gradient
        assert not leaves_something(backbone, size), (name, size)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_clips_of_the_least_size_can_be_learnt_from(name):
    """Batch statistics need more than one value a channel, which two clips have at any size."""
    backbone = tiny(name, 2).train()
    backbone(clip_for(backbone, batch=2, size=backbone.minimum)).pooled.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in backbone.parameters())


# One of each kind of code.
@pytest.mark.parametrize(
    "name",
    [
        "r3d-vcop",
        "cpd-r10",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("c3d-bn", "c3d-mas", "r21d-vcop", "mc3-18", "s3dg-pace", "s3dg-rsp", "tsm-r18")
        ),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("i3d-r50", "slowfast-nln-r50-4x16", "mfnet")),
    ],
)
def test_a_backbone_is_one_graph(name):
    """torch.compile follows a step without breaking off; the graph gives the same features and gradients."""
    torch.compiler.reset()  # all backbones have one `forward`, and what was compiled of it is limited
    backbone = tiny(name, 2).train()
    whole = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    clip = clip_for(backbone, batch=2)
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    results = []
    for forward in (backbone, whole):
        backbone.load_state_dict(state)
        backbone.zero_grad()
        pooled = forward(clip).pooled
        pooled.square().sum().backward()
        results.append((pooled.detach(), next(backbone.parameters()).grad.clone()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_backbone_compiles_and_gives_the_same():
    torch.manual_seed(0)
    backbone = build_backbone("r3d-vcop", base_width=4).eval()
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        expected = backbone(clip).pooled
        got = torch.compile(backbone)(clip).pooled
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
