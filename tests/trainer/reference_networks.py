"""Facts about the public pace networks, for tests without the research data: names and shapes of their state dicts,
the rule that fills them, and the logits that the unmodified reference code gives for it."""

import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch

Shapes = dict[str, tuple[int, ...]]

Outputs = dict[str, list[float]]


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split()]


# Network → clip shape → output → values.
OUTPUTS: dict[str, dict[tuple[int, ...], Outputs]] = {
    "pace-c3d": {(1, 3, 16, 112, 112): {"logits": [-3.946038, -1.771864, 1.994316, -6.141254]}},
    "pace-r3d": {(1, 3, 16, 112, 112): {"logits": [-5.890248, 2.064796, 5.710398, -1.161011]}},
    "pace-r21d": {(1, 3, 16, 112, 112): {"logits": [-5.325379, -9.273661, -8.246245, -2.891825]}},
    "pace-s3dg": {
        (1, 3, 16, 112, 112): {"logits": [0.07805968, -0.02085534, -0.1873412, -0.0964295]},
        (1, 3, 16, 224, 224): {"logits": [0.05166734, -0.05352232, -0.1790565, -0.1201756]},
    },
    "statistics-c3d": {
        (1, 3, 16, 112, 112): {
            "motion": _numbers(
                "-12.71863 -14.94629 5.453203 6.052188 8.217311 11.84831 -1.674611 6.15431 8.069415 3.357907 "
                "1.493695 3.39106 11.28488 2.316041"
            ),
            "appearance": _numbers(
                "3.932194 2.081852 5.96108 -1.519629 8.331566 7.45378 -6.225813 -5.517927 -0.227218 10.81817 "
                "-14.77668 0.7305474 3.589863"
            ),
        }
    },
    "statistics-r3d": {
        (1, 3, 16, 112, 112): {
            "motion": _numbers(
                "5.342145 -1.531533 -2.728346 7.931813 12.59123 1.45861 7.511937 3.158261 2.212872 1.742492 "
                "-0.5112567 1.440927 1.317722 -7.020323"
            ),
            "appearance": _numbers(
                "-1.651739 -2.32674 -1.050795 -2.786767 0.8927842 -0.7982762 3.053146 -5.151856 -4.696044 2.150675 "
                "-2.087639 -1.166541 -0.2069061"
            ),
        }
    },
    "statistics-r21d": {
        (1, 3, 16, 112, 112): {
            "motion": _numbers(
                "-4.22789 -3.365658 3.629018 22.38349 4.955562 11.27068 14.57141 -10.28476 1.357375 1.855047 "
                "16.45596 -4.036752 10.18843 -5.250362"
            ),
            "appearance": _numbers(
                "-1.959515 9.377845 -4.632786 -7.877102 -5.435102 14.09814 4.14266 -5.391335 -1.89772 17.19427 "
                "-1.600964 -22.63801 5.355004"
            ),
        }
    },
}

PARAMETERS = {
    "pace-c3d": 27_663_492,
    "pace-r3d": 14_363_844,
    "pace-r21d": 14_367_355,
    "pace-s3dg": 9_129_172,
    "statistics-c3d": 27_675_291,
    "statistics-r3d": 14_375_643,
    "statistics-r21d": 14_379_154,
}


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A state dict whose values are a function of its keys."""
    state = {}
    for key, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        if key.endswith("num_batches_tracked"):
            value = np.zeros(shape)
        elif key.endswith(("running_mean", "bias")):
            value = 0.1 * rng.standard_normal(shape)
        elif key.endswith("running_var") or len(shape) <= 1:
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        state[key] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return state


def clip(shape: tuple[int, ...]) -> torch.Tensor:
    """The normalised clip that the logits belong to."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def shapes(name: str) -> Shapes:
    """Key → shape of the reference's state dict (reference/pace.md section 8, statistics.md section 9)."""
    method, network = name.split("-")
    trunk = {"c3d": _c3d, "r3d": _r3d, "r21d": _r21d, "s3dg": _s3dg}[network]
    width = 1024 if network == "s3dg" else 512
    pace = {"fc" if network == "s3dg" else "linear": 4}
    state = dict(trunk())
    for head, rows in {"pace": pace, "statistics": {"motion_linear": 14, "app_linear": 13}}[method].items():
        state |= {f"{head}.weight": (rows, width), f"{head}.bias": (rows,)}
    return state


def _bn(prefix: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{prefix}.{name}", (width,)
    yield f"{prefix}.num_batches_tracked", ()


def _c3d() -> Iterator[tuple[str, tuple[int, ...]]]:
    before = 3
    names = ("1", "2", "3a", "3b", "4a", "4b", "5a", "5b")
    for name, width in zip(names, (64, 128, 256, 256, 512, 512, 512, 512), strict=True):
        yield f"conv{name}.weight", (width, before, 3, 3, 3)
        yield f"conv{name}.bias", (width,)
        yield from _bn(f"bn{name}", width)
        before = width


def _blocks() -> Iterator[tuple[str, str, int, int, tuple[int, int, int]]]:
    """Convolution, its BN, channels in and out, kernel."""
    yield "conv1", "bn1", 3, 64, (3, 7, 7)
    for stage, (cin, cout) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), start=2):
        block = f"conv{stage}.block1"
        if stage > 2:
            yield f"{block}.downsampleconv", f"{block}.downsamplebn", cin, cout, (1, 1, 1)
        yield f"{block}.conv1", f"{block}.bn1", cin, cout, (3, 3, 3)
        yield f"{block}.conv2", f"{block}.bn2", cout, cout, (3, 3, 3)


def _r3d() -> Iterator[tuple[str, tuple[int, ...]]]:
    for conv, bn, cin, cout, kernel in _blocks():
        yield f"{conv}.temporal_spatial_conv.weight", (cout, cin, *kernel)
        yield from _bn(bn, cout)


# Width between the two halves of a convolution: stem, then stage by stage in the order of `_blocks`.
MIDDLE = (83, 144, 144, 42, 230, 288, 85, 460, 576, 170, 921, 1152)


def _r21d() -> Iterator[tuple[str, tuple[int, ...]]]:
    for (conv, bn, cin, cout, (kt, kh, kw)), middle in zip(_blocks(), MIDDLE, strict=True):
        yield f"{conv}.spatial_conv.weight", (middle, cin, 1, kh, kw)
        yield from _bn(f"{conv}.bn", middle)
        yield f"{conv}.temporal_conv.weight", (cout, middle, kt, 1, 1)
        yield from _bn(bn, cout)


MIXED = """
3b 192  64  96 128 16  32  32
3c 256 128 128 192 32  96  64
4b 480 192  96 208 16  48  64
4c 512 160 112 224 24  64  64
4d 512 128 128 256 24  64  64
4e 512 112 144 288 32  64  64
4f 528 256 160 320 32 128 128
5b 832 256 160 320 32 128 128
5c 832 384 192 384 48 128 128
"""


def _s3dg() -> Iterator[tuple[str, tuple[int, ...]]]:
    def unit(name: str, cin: int, cout: int, kernel: tuple[int, int, int] = (1, 1, 1)) -> Iterator:
        yield f"{name}.conv1.weight", (cout, cin, *kernel)
        yield from _bn(f"{name}.bn1", cout)

    def separable(name: str, cin: int, cout: int) -> Iterator:
        yield from unit(name, cin, cout, (1, 3, 3))
        yield f"{name}.conv2.weight", (cout, cout, 3, 1, 1)
        yield from _bn(f"{name}.bn2", cout)

    def gate(name: str, width: int) -> Iterator:
        yield f"{name}.fc.weight", (width, width)
        yield f"{name}.fc.bias", (width,)

    yield from unit("conv1", 3, 64, (3, 7, 7))
    yield from unit("conv_2b", 64, 64)
    yield from separable("conv_2c", 64, 192)
    yield from gate("gating", 192)
    for line in MIXED.split("\n")[1:-1]:
        name, *numbers = line.split()
        cin, b0, b1a, b1b, b2a, b2b, b3 = map(int, numbers)
        block = f"mixed_{name}"
        yield from unit(f"{block}.conv_b0", cin, b0)
        yield from unit(f"{block}.conv_b1_a", cin, b1a)
        yield from separable(f"{block}.conv_b1_b", b1a, b1b)
        yield from unit(f"{block}.conv_b2_a", cin, b2a)
        yield from separable(f"{block}.conv_b2_b", b2a, b2b)
        yield from unit(f"{block}.conv_b3_b", cin, b3)
        for branch, width in enumerate((b0, b1b, b2b, b3)):
            yield from gate(f"{block}.gating_b{branch}", width)
