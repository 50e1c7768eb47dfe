"""TV-L1: parity with OpenCV, true motion, bytes that depend on nothing but the frames."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numba import njit

from shards.errors import UserError
from vidprep.flow import choose_backend, tvl1
from vidprep.flow.cpu.jit import entry
from vidprep.flow.cpu.median import EDGE, median
from vidprep.flow.cpu.pyramid import level_sizes
from vidprep.flow.cpu.simd import splat
from vidprep.flow.cpu.sweep import LINES, MAX_STEPS, sweep
from vidprep.flow.scenes import Scene, scenes

ROOT = Path(__file__).parents[3]


def end_points(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])


@pytest.fixture(scope="module")
def solved() -> list[tuple[Scene, np.ndarray, np.ndarray]]:
    """Scenes of two sizes, the larger one beyond what is iterated step by step: (scene, ours, OpenCV's)."""
    chosen = scenes(72, 90) + scenes(128, 171)[-2:]
    return [(s, tvl1(s.frames, "numba")[0], tvl1(s.frames, "opencv")[0]) for s in chosen]


@pytest.mark.skipif(cv2.__version__ < "5", reason="OpenCV 4 samples at 1/32 pixel")
def test_agrees_with_opencv(solved: list[tuple[Scene, np.ndarray, np.ndarray]]) -> None:
    apart = np.concatenate([end_points(ours, theirs).ravel() for _, ours, theirs in solved])
    assert apart.mean() <= 0.03
    assert (apart > 0.5).mean() <= 0.01


def test_true_motion_is_found_as_well_as_by_opencv(solved: list[tuple[Scene, np.ndarray, np.ndarray]]) -> None:
    ours = np.mean([end_points(a, s.flow)[s.valid].mean() for s, a, _ in solved])
    theirs = np.mean([end_points(b, s.flow)[s.valid].mean() for s, _, b in solved])
    assert ours <= 1.02 * theirs
    assert ours < 0.2


@pytest.mark.skipif(cv2.__version__ < "5", reason="OpenCV 4 samples at 1/32 pixel")
@pytest.mark.parametrize(
    "params",
    [
        {"nscales": 1, "warps": 1, "outer_iterations": 1, "inner_iterations": 7, "epsilon": 0.0},
        {"nscales": 1, "warps": 2, "outer_iterations": 2, "inner_iterations": 4, "epsilon": 0.0},
        {"nscales": 3, "warps": 1, "inner_iterations": 5, "outer_iterations": 1, "epsilon": 0.0},
        {"nscales": 2, "warps": 1, "median_filtering": 3, "tau": 0.2, "lambda_": 0.3, "theta": 0.2, "scale_step": 0.5},
        {"nscales": 1, "warps": 1, "median_filtering": 1, "epsilon": 0.03},
    ],
)
def test_every_stage_is_opencvs(params: dict[str, float]) -> None:
    """With few iterations nothing has had time to diverge: every stage must be the same arithmetic."""
    frames = scenes(50, 70)[3].frames
    assert end_points(tvl1(frames, "numba", **params), tvl1(frames, "opencv", **params)).max() < 2e-3


def test_float_frames_are_uint8_frames_over_255() -> None:
    frames = scenes(40, 60)[0].frames
    a, b = tvl1(frames, nscales=2), tvl1((frames / 255).astype(np.float32), nscales=2)
    assert end_points(a, b).mean() < 0.01


def test_threads_and_batches_do_not_change_bytes() -> None:
    rendered = scenes(40, 60)
    frames = np.concatenate([s.frames for s in rendered[:3]])
    together = tvl1(frames)
    assert np.array_equal(together, tvl1(frames, threads=3))
    for i in range(len(frames) - 1):
        assert np.array_equal(together[i], tvl1([frames[i], frames[i + 1]])[0])
    assert np.array_equal(together, tvl1(np.asfortranarray(frames)))


def test_processes_agree_byte_for_byte() -> None:
    code = (
        "import hashlib; from vidprep.flow import tvl1; from vidprep.flow.scenes import scenes;"
        "print(hashlib.sha256(tvl1(scenes(40, 60)[4].frames, 'numba').tobytes()).hexdigest())"
    )
    ours = hashlib.sha256(tvl1(scenes(40, 60)[4].frames, "numba").tobytes()).hexdigest()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ours


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86 processors")
@pytest.mark.parametrize(("processor", "features"), [("haswell", "+avx2,+fma"), ("nehalem", "")])
def test_processors_agree_byte_for_byte(tmp_path: Path, processor: str, features: str) -> None:
    """AVX2, and SSE without fused multiply-add, against whatever this machine has."""
    code = (
        "import hashlib; from vidprep.flow import tvl1; from vidprep.flow.scenes import scenes;"
        "print(hashlib.sha256(tvl1(scenes(40, 60)[4].frames, 'numba').tobytes()).hexdigest())"
    )
    ours = hashlib.sha256(tvl1(scenes(40, 60)[4].frames, "numba").tobytes()).hexdigest()
    env = {
        **os.environ,
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    assert done.stdout.strip() == ours


def test_import_loads_neither_torch_nor_numba() -> None:
    code = (
        "import sys, vidprep.flow as f; f.choose_backend();"
        "print([m for m in ('torch', 'triton', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    name, _ = choose_backend()
    assert done.stdout.strip() == "[]" or name == "triton"


def test_no_texture_no_motion() -> None:
    assert not tvl1(np.full((3, 40, 50), 93, np.uint8)).any()
    still = np.repeat(scenes(40, 60)[0].frames[:1], 2, axis=0)
    assert not tvl1(still).any()


@pytest.mark.parametrize("size", [(4, 4), (5, 33), (16, 16), (17, 64)])
def test_tiny_frames(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size), dtype=np.uint8)
    flow = tvl1(frames)
    assert flow.shape == (1, *size, 2) and flow.dtype == np.float32 and np.isfinite(flow).all()


def test_pyramid_has_opencvs_sizes() -> None:
    assert level_sizes(128, 171, 5, 0.8) == [(128, 171), (102, 137), (82, 110), (66, 88), (53, 70)]
    assert level_sizes(20, 100, 5, 0.8) == [(20, 100), (16, 80)]
    assert level_sizes(8, 8, 5, 0.8) == [(8, 8)]


def test_several_iterations_in_one_sweep_are_the_same_iterations() -> None:
    rows, width, pitch, w = 9, 32, 48, 29

    @njit
    def run(A, source, steps, repeats, inside, errors):
        for _ in range(repeats):
            source = sweep(
                A, rows, width, pitch, source, steps, splat(np.float32(0.25)), splat(np.float32(0.8)), inside, errors
            )
        return source

    def image() -> tuple[np.ndarray, np.ndarray]:
        A = np.zeros(16 + (rows + 2) * LINES * pitch, np.float32)
        view = A[16 : 16 + (rows + 2) * LINES * pitch].reshape(rows + 2, LINES, pitch)
        view[1:-1, :4, :w] = np.random.default_rng(0).normal(size=(rows, 4, w))
        view[:, 3] = abs(view[:, 3])
        return A, view

    inside = (np.arange(width) < w - 1).astype(np.float32)
    errors = np.zeros(16 * MAX_STEPS, np.float32)
    results = []
    for steps in range(1, MAX_STEPS + 1):
        A, view = image()
        slot = run(A, 0, steps, 6 // steps, inside, errors)
        results.append(view[1:-1, 4 + 6 * slot : 10 + 6 * slot].copy())
    assert abs(results[0]).max() > 0.1
    for other in results[1:]:
        assert np.array_equal(results[0], other)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(5, 4), (20, 16), (11, 37)])
def test_median_is_opencvs(size: int, shape: tuple[int, int]) -> None:
    h, w = shape
    width = -(-w // 16) * 16
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    image[: h // 2] = np.round(image[: h // 2])  # ties
    rows = np.zeros((h, width + 16), np.float32)
    rows[:, :w] = image
    flat = rows.ravel()
    scratch = np.zeros((h + 4) * (width + 2 * EDGE), np.float32), np.zeros(5 * (width + 2 * EDGE), np.float32)
    median(flat, 0, width + 16, h, w, size, *scratch, (np.arange(width) < w).astype(np.float32))
    assert np.array_equal(flat.reshape(rows.shape)[:, :w], cv2.medianBlur(image, size))
    assert not flat.reshape(rows.shape)[:, w:width].any()


def test_code_that_cannot_be_kept_still_runs(caplog: pytest.LogCaptureFixture) -> None:
    """As in a read-only installation without a home folder: numba finds no place for its cache."""
    scope: dict[str, object] = {}
    exec("def double(x):\n    return 2 * x\n", scope)
    with caplog.at_level(logging.WARNING):
        assert entry(scope["double"])(4) == 8  # type: ignore[type-var, operator]
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_auto_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    name, reason = choose_backend()
    with caplog.at_level(logging.INFO, logger="vidprep.flow"):
        tvl1(scenes(40, 60)[0].frames, nscales=1, warps=1)
    assert name in caplog.text and reason in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "known are auto, numba, triton, opencv, opencv-cuda"),
        ({"lambda": 0.1}, "known are tau, lambda_"),
        ({"tau": 0.0}, "tau=0.0"),
        ({"theta": float("nan")}, "theta=nan"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"nscales": 0}, "nscales=0"),
        ({"warps": 1.5}, "warps=1.5"),
        ({"scale_step": 1.0}, "between 0 and 1"),
        ({"median_filtering": 7}, "1 \\(none\\), 3 or 5"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_bad_options_name_what_is_allowed(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tvl1(np.zeros((2, 16, 16), np.uint8), **options)  # type: ignore[arg-type]


@pytest.mark.skipif(hasattr(getattr(cv2, "cuda", None), "OpticalFlowDual_TVL1"), reason="OpenCV with CUDA")
def test_opencv_without_cuda_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"build-opencv-cuda\.sh"):
        tvl1(np.zeros((2, 16, 16), np.uint8), "opencv-cuda")
