"""Networks for which there are no golden outputs, once more and plainly: state dicts under the references' names, and
what such a network makes of a clip, convolution by convolution. Nothing here comes from `trainer`.

PySlowFast and RSPNet `models/slowfast`; RSPNet `models/mfnet`; CoCLR `backbone/resnet_2d3d.py`
(reference/models.md sections 9 and 10).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from tests.trainer.reference_networks import Shapes

State = dict[str, Tensor]
Shape = tuple[str, tuple[int, ...]]
BLOCKS = (3, 4, 6, 3)
# Network → kernel in time of the stem, then of each stage's blocks, taken in turn.
ONE_PATHWAY: dict[str, list[list[int]]] = {
    "slow-r50": [[1], [1], [1], [3], [3]],
    "i3d-r50": [[5], [3], [3, 1], [3, 1], [1, 3]],
    "c2d-r50": [[1], [1], [1], [1], [1]],
}
NON_LOCAL = {3: (1, 3), 4: (1, 3, 5)}


def bn_shapes(name: str, width: int) -> Iterator[Shape]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def conv(state: State, name: str, x: Tensor, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    weight = state[f"{name}.weight"]
    return functional.conv3d(
        x, weight, state.get(f"{name}.bias"), stride, padding=[size // 2 for size in weight.shape[2:]]
    )


def bn(state: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{part}"][:, None, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def pool(x: Tensor) -> Tensor:
    """3x3 in space, stride 2, of non-negative x."""
    return functional.max_pool3d(functional.pad(x, (1, 1, 1, 1)), (1, 3, 3), (1, 2, 2))


# PySlowFast


def pathway_shapes(pathway: int, width: int, lateral: int, times: list[list[int]]) -> Iterator[Shape]:
    """`lateral` channels for each 64 of the slow pathway join it before each stage."""
    yield f"s1.pathway{pathway}_stem.conv.weight", (width, 3, times[0][0], 7, 7)
    yield from bn_shapes(f"s1.pathway{pathway}_stem.bn", width)
    before = width
    for stage, count in enumerate(BLOCKS, start=2):
        inner = width * 2 ** (stage - 2)
        cin = before + before * lateral // 64
        for i in range(count):
            block = f"s{stage}.pathway{pathway}_res{i}"
            if i == 0:
                yield f"{block}.branch1.weight", (4 * inner, cin, 1, 1, 1)
                yield from bn_shapes(f"{block}.branch1_bn", 4 * inner)
            time = times[stage - 1][i % len(times[stage - 1])]
            yield f"{block}.branch2.a.weight", (inner, cin, time, 1, 1)
            yield f"{block}.branch2.b.weight", (inner, inner, 1, 3, 3)
            yield f"{block}.branch2.c.weight", (4 * inner, inner, 1, 1, 1)
            for letter, size in (("a", inner), ("b", inner), ("c", 4 * inner)):
                yield from bn_shapes(f"{block}.branch2.{letter}_bn", size)
            cin = before = 4 * inner


def pyslowfast_shapes(name: str, *, fusion: int = 5, non_local: bool = False, classes: int = 400) -> Shapes:
    """Key → shape. `name` is one of `ONE_PATHWAY`, or "slowfast"."""
    if name in ONE_PATHWAY:
        shapes = dict(pathway_shapes(0, 64, 0, ONE_PATHWAY[name]))
        return shapes | {"head.projection.weight": (classes, 2048), "head.projection.bias": (classes,)}
    shapes = dict(pathway_shapes(0, 64, 16, [[1], [1], [1], [3], [3]]))
    shapes |= dict(pathway_shapes(1, 8, 0, [[5], [3], [3], [3], [3]]))
    for stage, width in enumerate((8, 32, 64, 128), start=1):
        shapes[f"s{stage}_fuse.conv_f2s.weight"] = (2 * width, width, fusion, 1, 1)
        shapes |= dict(bn_shapes(f"s{stage}_fuse.bn", 2 * width))
    for stage, blocks in NON_LOCAL.items() if non_local else ():
        width = 64 * 2**stage
        for i in blocks:
            block = f"s{stage}.pathway0_nonlocal{i}"
            for part in ("theta", "phi", "g"):
                shapes |= {f"{block}.conv_{part}.weight": (width // 2, width, 1, 1, 1)}
                shapes |= {f"{block}.conv_{part}.bias": (width // 2,)}
            shapes |= {f"{block}.conv_out.weight": (width, width // 2, 1, 1, 1), f"{block}.conv_out.bias": (width,)}
            shapes |= dict(bn_shapes(f"{block}.bn", width))
    return shapes | {"head.projection.weight": (classes, 2304), "head.projection.bias": (classes,)}


def pytorchvideo_name(key: str, *, pool: bool = False, head: int = 5) -> str:
    """PyTorchVideo's name of a tensor, the head being block `head`. `pool`: a block of its own pools pairs of frames
    after the first stage."""
    if key.startswith("head."):
        return key.replace("head.projection", f"blocks.{head}.proj")
    first, rest = key.split(".", 1)
    stage = int(first[1])
    block = f"blocks.{stage if pool and stage > 2 else stage - 1}"
    if first.endswith("_fuse"):
        rest = rest.replace("conv_f2s", "conv_fast_to_slow").replace("bn.", "norm.")
        return f"{block}.multipathway_fusion.{rest}"
    part, rest = rest.split(".", 1)
    pathway, kind = part.removeprefix("pathway").split("_")
    where = f"{block}.multipathway_blocks.{pathway}"
    if kind == "stem":
        return f"{where}.{rest.replace('bn.', 'norm.')}"
    for letter in "abc":
        rest = rest.replace(f"branch2.{letter}_bn.", f"branch2.norm_{letter}.")
        rest = rest.replace(f"branch2.{letter}.", f"branch2.conv_{letter}.")
    rest = rest.replace("branch1.", "branch1_conv.").replace("branch1_bn.", "branch1_norm.")
    return f"{where}.res_blocks.{kind.removeprefix('res')}.{rest}"


def bottleneck(state: State, block: str, x: Tensor, stride: int) -> Tensor:
    y = bn(state, f"{block}.branch2.a_bn", conv(state, f"{block}.branch2.a", x)).relu()
    y = bn(state, f"{block}.branch2.b_bn", conv(state, f"{block}.branch2.b", y, (1, stride, stride))).relu()
    y = bn(state, f"{block}.branch2.c_bn", conv(state, f"{block}.branch2.c", y))
    if f"{block}.branch1.weight" in state:
        x = bn(state, f"{block}.branch1_bn", conv(state, f"{block}.branch1", x, (1, stride, stride)))
    return (x + y).relu()


def non_local(state: State, block: str, x: Tensor) -> Tensor:
    """Each position's sum over all pooled ones, weighted by products."""
    few = functional.max_pool3d(x, (1, 2, 2), (1, 2, 2))
    theta = conv(state, f"{block}.conv_theta", x)
    phi, g = (conv(state, f"{block}.conv_{part}", few) for part in ("phi", "g"))
    weights = torch.einsum("bcthw,bcsij->bthwsij", theta, phi) / phi[0, 0].numel()
    sums = torch.einsum("bthwsij,bcsij->bcthw", weights, g)
    return x + bn(state, f"{block}.bn", conv(state, f"{block}.conv_out", sums))


def pyslowfast_stage(state: State, stage: int, pathway: int, x: Tensor) -> Tensor:
    for i in range(BLOCKS[stage - 2]):
        x = bottleneck(state, f"s{stage}.pathway{pathway}_res{i}", x, 2 if i == 0 and stage > 2 else 1)
        if f"s{stage}.pathway{pathway}_nonlocal{i}.conv_g.weight" in state:
            x = non_local(state, f"s{stage}.pathway{pathway}_nonlocal{i}", x)
    return x


def pyslowfast_stem(state: State, pathway: int, x: Tensor) -> Tensor:
    name = f"s1.pathway{pathway}_stem"
    return pool(bn(state, f"{name}.bn", conv(state, f"{name}.conv", x, (1, 2, 2))).relu())


def one_pathway(state: State, clip: Tensor, *, pairs: bool) -> Tensor:
    """(B,2048). `pairs`: of each two frames the larger values go on after the first stage."""
    x = pyslowfast_stem(state, 0, clip)
    for stage in (2, 3, 4, 5):
        x = pyslowfast_stage(state, stage, 0, x)
        if stage == 2 and pairs:
            x = torch.stack([x[:, :, t : t + 2].amax(2) for t in range(0, x.shape[2] - 1, 2)], dim=2)
    return x.mean((2, 3, 4))


def slowfast(state: State, clip: Tensor, *, alpha: int) -> Tensor:
    """(B,2304): means of the slow pathway's last map, then of the fast one's."""
    frames = clip.shape[2]
    count = frames // alpha
    chosen = [(frames - 1) * i // max(1, count - 1) for i in range(count)]
    slow = pyslowfast_stem(state, 0, torch.stack([clip[:, :, t] for t in chosen], dim=2))
    fast = pyslowfast_stem(state, 1, clip)
    for stage in (2, 3, 4, 5):
        slow = torch.cat([slow, laterals(state, f"s{stage - 1}_fuse", fast, alpha)], dim=1)
        slow, fast = pyslowfast_stage(state, stage, 0, slow), pyslowfast_stage(state, stage, 1, fast)
    return torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], dim=1)


def laterals(state: State, name: str, fast: Tensor, alpha: int) -> Tensor:
    """Frame by frame: the weighted sum of the frames around every alpha-th."""
    weight, made = state[f"{name}.conv_f2s.weight"][:, :, :, 0, 0], []
    for t in range(0, fast.shape[2], alpha):
        total = torch.zeros(())
        for k in range(weight.shape[2]):
            near = t + k - weight.shape[2] // 2
            if 0 <= near < fast.shape[2]:
                total = total + torch.einsum("oc,bchw->bohw", weight[:, :, k], fast[:, :, near])
        made.append(total)
    return bn(state, f"{name}.bn", torch.stack(made, dim=2)).relu()


# MFNet of RSPNet

FIBRES = 16


def mfnet_shapes(classes: int = 400) -> Shapes:
    shapes: Shapes = {"conv1.conv.weight": (16, 3, 3, 5, 5), **dict(bn_shapes("conv1.bn", 16))}

    def unit(name: str, cin: int, cout: int, kernel: tuple[int, int, int], groups: int = 1) -> None:
        shapes.update(bn_shapes(f"{name}.bn", cin))
        shapes[f"{name}.conv.weight"] = (cout, cin // groups, *kernel)

    before = 16
    for stage, (count, width) in enumerate(zip(BLOCKS, (96, 192, 384, 768), strict=True), start=2):
        for i in range(1, count + 1):
            name = f"conv{stage}.B0{i}"
            unit(f"{name}.conv_i1", before, width // 4, (1, 1, 1))
            unit(f"{name}.conv_i2", width // 4, before, (1, 1, 1))
            unit(f"{name}.conv_m1", before, width, (3, 3, 3), FIBRES)
            if i == 1:
                unit(f"{name}.conv_m2", width, width, (1, 1, 1))
                unit(f"{name}.conv_w1", before, width, (1, 1, 1))
            else:
                unit(f"{name}.conv_m2", width, width, (1, 3, 3), FIBRES)
            before = width
    shapes.update(bn_shapes("tail.bn", 768))
    return shapes | {"fc.weight": (classes, 768), "fc.bias": (classes,)}


def fibres(state: State, name: str, x: Tensor, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    """BN, ReLU, then each fibre of channels is convolved by itself."""
    x, weight = bn(state, f"{name}.bn", x).relu(), state[f"{name}.conv.weight"]
    count = x.shape[1] // weight.shape[1]
    made = [
        conv({"fibre.weight": rows}, "fibre", part, stride)
        for part, rows in zip(x.chunk(count, 1), weight.chunk(count), strict=True)
    ]
    return torch.cat(made, dim=1)


def mfnet(state: State, clip: Tensor) -> Tensor:
    """(B,768)"""
    x = pool(bn(state, "conv1.bn", conv(state, "conv1.conv", clip, (1, 2, 2))).relu())
    for stage, count in enumerate(BLOCKS, start=2):
        for i in range(1, count + 1):
            name, stride = f"conv{stage}.B0{i}", (1, 1, 1)
            if i == 1:
                stride = (2, 1, 1) if stage == 2 else (1, 2, 2)
            mixed = x + fibres(state, f"{name}.conv_i2", fibres(state, f"{name}.conv_i1", x))
            y = fibres(state, f"{name}.conv_m2", fibres(state, f"{name}.conv_m1", mixed, stride))
            x = y + (fibres(state, f"{name}.conv_w1", x, stride) if i == 1 else x)
    return bn(state, "tail.bn", x).relu().mean((2, 3, 4))


# R2D3D-50 of CoCLR


def r2d3d50_shapes() -> Shapes:
    shapes: Shapes = {"conv1.weight": (64, 3, 5, 7, 7), **dict(bn_shapes("bn1", 64))}
    before = 64
    for stage, count in enumerate(BLOCKS, start=1):
        width = 64 * 2 ** (stage - 1)
        for i in range(count):
            name, time = f"layer{stage}.{i}", 1 if stage < 3 else 3
            shapes[f"{name}.conv1.weight"] = (width, before, time, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 1, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1, 1)
            for number, size in ((1, width), (2, width), (3, 4 * width)):
                shapes.update(bn_shapes(f"{name}.bn{number}", size))
            if i == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, before, 1, 1, 1)
                shapes.update(bn_shapes(f"{name}.downsample.1", 4 * width))
            before = 4 * width
    return shapes


def r2d3d50(state: State, clip: Tensor) -> Tensor:
    """(B,2048). The last block has no ReLU; there is one after all blocks."""
    x = pool(bn(state, "bn1", conv(state, "conv1", clip, (2, 2, 2))).relu())
    for stage, count in enumerate(BLOCKS, start=1):
        for i in range(count):
            name, stride = f"layer{stage}.{i}", (1, 2, 2) if stage > 1 and i == 0 else (1, 1, 1)
            y = bn(state, f"{name}.bn1", conv(state, f"{name}.conv1", x)).relu()
            y = bn(state, f"{name}.bn2", conv(state, f"{name}.conv2", y, stride)).relu()
            y = bn(state, f"{name}.bn3", conv(state, f"{name}.conv3", y))
            if i == 0:
                x = bn(state, f"{name}.downsample.1", conv(state, f"{name}.downsample.0", x, stride))
            x = x + y if (stage, i) == (4, 2) else (x + y).relu()
    return x.relu().mean((2, 3, 4))
