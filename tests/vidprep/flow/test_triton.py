"""The Triton backend under Triton's interpreter, in a process of its own: the interpreter is chosen at import."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

CODE = """
import json, sys
import cv2
import numpy as np
import torch
torch.set_num_threads(1)
from vidprep.flow import tvl1
from vidprep.flow.gpu import backend
from vidprep.flow.gpu.median import median
from vidprep.flow.scenes import scenes

def apart(a, b):
    e = np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])
    return [float(e.max()), float(e.mean())]

backend.TILE.update(BY=32, BX=64)  # an interpreted program costs the same whatever its size
frames = np.concatenate([s.frames[:2] for s in scenes(20, 40)[1:3]])[:3]
found = {}
for name, params in {
    "one": dict(nscales=1, warps=1, outer_iterations=1, inner_iterations=3, epsilon=0.0, median_filtering=1),
    "median": dict(nscales=1, warps=2, outer_iterations=2, inner_iterations=1, epsilon=0.0, median_filtering=3),
    "levels": dict(nscales=2, warps=1, outer_iterations=1, inner_iterations=6, epsilon=0.0, median_filtering=1),
    "stops": dict(nscales=1, warps=1, inner_iterations=7, outer_iterations=2, epsilon=0.1, median_filtering=1),
}.items():
    backend.CHECK = 1 if name == "stops" else 5  # tested as often, it must stop where numba does, pair by pair
    if name == "one":
        backend.TILE.update(BY=16, BX=32)
    chosen = frames if name == "stops" else frames[:2]
    found[name] = apart(tvl1(chosen, "triton", **params), tvl1(chosen, "numba", **params))
    backend.TILE.update(BY=32, BX=64)
backend.BATCH_PIXELS = 1
params = dict(nscales=1, warps=1, outer_iterations=1, inner_iterations=1, median_filtering=1)
alone = tvl1(frames, "triton", **params)
backend.BATCH_PIXELS = 2**24
found["batch"] = apart(tvl1(frames, "triton", **params), alone)
image = np.random.default_rng(0).normal(size=(13, 37)).astype(np.float32)
for size in (3, 5):
    u = torch.zeros((2, 1, 2, 13, 37))
    u[0, 0, :] = torch.from_numpy(image)
    median[backend._grid(37, 13, 2)](u, torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32),
                                     1, 13, 37, SIZE=size, **backend.TILE)
    found[f"median{size}"] = [float(np.abs(u[1, 0, 1].numpy() - cv2.medianBlur(image, size)).max())] * 2
print(json.dumps(found))
"""


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vidprep.flow.gpu import kernels
from vidprep.flow.gpu.median import median

FLOATS = {"scale_y", "scale_x", "factor", "most", "tau", "taut"}
POINTERS = {"source", "target", "images", "dx", "dy", "u", "p", "constants", "errors"}
NUMBERS = {"slots", "u_slots", "p_slots", "active"}
FIXED = {"BY": 4, "BX": 64, "PER": 2, "SIZE": 5, "WITH_ERROR": True}

def kind(name):
    if name in FIXED:
        return "constexpr"
    return "*fp32" if name in POINTERS else "*i32" if name in NUMBERS else "fp32" if name in FLOATS else "i32"

for kernel in (kernels.resize, kernels.gradients, kernels.data_term, kernels.iterate, median):
    names = kernel.arg_names
    fixed = {(i,): FIXED[name] for i, name in enumerate(names) if name in FIXED}
    source = ASTSource(kernel, {name: kind(name) for name in names}, fixed)
    assert len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"])
"""


@pytest.fixture(scope="module")
def found() -> dict[str, list[float]]:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
        pytest.skip("torch or triton is not installed")
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["one", "median", "levels", "stops"])
def test_few_iterations_are_those_of_numba(found: dict[str, list[float]], case: str) -> None:
    assert found[case][0] < 1e-3


def test_batches_do_not_change_the_result(found: dict[str, list[float]]) -> None:
    assert found["batch"][0] == 0


@pytest.mark.parametrize("case", ["median3", "median5"])
def test_median_is_exact(found: dict[str, list[float]], case: str) -> None:
    assert found[case][0] == 0


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, cwd=ROOT, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
