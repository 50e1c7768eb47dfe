"""Statistics labels on a device against those that preparation computes, and a table of cases that decide ties."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import vidprep.statistics as prepared
from shards.errors import UserError
from tests.vidprep.literal_statistics import boundaries, region_masks
from tests.vidprep.test_statistics import colourful
from trainer.tasks.statistics.appearance import _labels, appearance_labels
from trainer.tasks.statistics.motion import motion_labels, polar
from trainer.tasks.statistics.regions import PATTERNS, regions

Bytes = np.ndarray
VARIANTS = ("corrected", "reference")


def planes_of(rng: np.random.Generator, frames: int, side: int, *, kind: str) -> Bytes:
    """(T,S,S,2) uint8 planes of flow, zero 128: `blocks` of motion with noise, `sparse` single steps, or `still`."""
    shape = (frames, side, side, 2)
    if kind == "still":
        return np.full(shape, 128, np.uint8)
    if kind == "sparse":  # few and symmetric: many exact ties
        return np.where(rng.random(shape) < 3e-4, 129, 128).astype(np.uint8)
    coarse = rng.normal(size=(frames, 8, 8, 2)) * 40
    grown = np.repeat(np.repeat(coarse, side // 8, axis=1), side // 8, axis=2)
    return np.clip(128 + grown + 8 * rng.normal(size=shape), 0, 255).astype(np.uint8)


def steps(planes: Bytes, zero: float = 128) -> np.ndarray:
    return (planes.astype(np.float64) - zero).astype(np.float32)


@pytest.mark.parametrize("side", [8, 64, 112, 224])
def test_regions_are_those_of_the_specification(side: int) -> None:
    table = regions(side, torch.device("cpu"))
    expected = np.concatenate([np.stack(masks) for masks in region_masks(side)])
    np.testing.assert_array_equal(table.masks.numpy(), expected)
    np.testing.assert_array_equal(table.members[:, table.cells].numpy(), expected)
    np.testing.assert_array_equal(table.sizes.numpy(), expected.sum((1, 2)))


@pytest.mark.parametrize("largest", [2, 100, 12_000, 3_000_000])
def test_directions_are_those_of_opencv_to_the_last_bit(largest: int) -> None:
    rng = np.random.default_rng(largest)
    x, y = rng.integers(-largest, largest, (2, 300, 301), endpoint=True).astype(np.float32)
    magnitude, angle = polar(torch.from_numpy(x), torch.from_numpy(y))
    expected = cv2.cartToPolar(x, y, angleInDegrees=True)
    np.testing.assert_allclose(magnitude.numpy(), expected[0], rtol=2e-7)  # one rounding less where OpenCV can fuse
    np.testing.assert_allclose(angle.numpy(), expected[1], rtol=0, atol=4e-5)  # 1 ulp of 360 degrees
    fused = np.array_equal(magnitude.numpy(), expected[0])
    assert not fused or np.mean(angle.numpy() != expected[1]) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["blocks", "sparse", "still"])
@pytest.mark.parametrize(("frames", "side"), [(16, 112), (5, 64), (2, 8)])
def test_motion_equals_preparation(frames: int, side: int, kind: str, variant: str) -> None:
    rng = np.random.default_rng(frames)
    planes = np.stack([planes_of(rng, frames, side, kind=kind) for _ in range(5)])
    expected = prepared.motion_labels(steps(planes), variant=variant, quantum=1.0)
    got = motion_labels(torch.from_numpy(planes), variant=variant).numpy()
    for clip, number in np.argwhere(got != expected):
        # Two directions with equal votes: rounding in the order of the pixels decides there, here the lower number.
        assert kind == "sparse" and number in (1, 3, 5, 7, 9, 11) and got[clip, number] < expected[clip, number]
        region = PATTERNS[number // 4].start + got[clip, number - 1] - 1
        votes = exact_votes(planes[clip, : len(planes[clip]) - (variant == "corrected"), ..., number // 2 % 2], region)
        assert votes[got[clip, number] - 1] == pytest.approx(votes[expected[clip, number] - 1], rel=1e-14)
    assert np.mean(got != expected) < 0.02


def exact_votes(field: Bytes, region: int) -> list[float]:
    """Votes for the eight directions of one component (T,S,S), summed without rounding."""
    each = [boundaries(f) for f in steps(field)]
    magnitude, angle = cv2.cartToPolar(*(sum(part) for part in zip(*each, strict=True)), angleInDegrees=True)
    inside = regions(field.shape[1], torch.device("cpu")).masks[region].numpy()
    terms: list[list[float]] = [[] for _ in range(8)]
    for m, a in zip(magnitude[inside].tolist(), angle[inside].tolist(), strict=True):
        terms[int(a // 45) % 8].append(m * (1 - a % 45 / 45))
        terms[(int(a // 45) + 1) % 8].append(m * (a % 45 / 45))
    return [math.fsum(votes) for votes in terms]


def test_motion_does_not_depend_on_the_zero_and_takes_16_bits() -> None:
    rng = np.random.default_rng(0)
    planes = planes_of(rng, 6, 64, kind="blocks")
    wide = np.rint(steps(planes) * 250 + rng.normal(size=planes.shape) * 100).astype(np.int16)
    for clip, zero in ((planes, 127.5), (planes // 2 + 3, 3), (wide, 0)):
        expected = prepared.motion_labels(steps(clip, zero), quantum=1.0)
        np.testing.assert_array_equal(motion_labels(torch.from_numpy(clip)[None])[0].numpy(), expected)


def test_fields_inside_the_clip_are_enough() -> None:
    planes = torch.from_numpy(planes_of(np.random.default_rng(1), 6, 64, kind="blocks"))[None]
    assert torch.equal(motion_labels(planes[:, :5], frames=6), motion_labels(planes))
    assert not torch.equal(motion_labels(planes[:, :5], frames=6), motion_labels(planes[:, :3], frames=4))


def test_mirrored_clips() -> None:
    rng = np.random.default_rng(2)
    planes = np.stack([planes_of(rng, 5, 64, kind="blocks") for _ in range(4)])
    mirrored = planes[:, :, :, ::-1].copy()
    negated = steps(mirrored) * np.float32([-1, 1])
    clips, which = torch.from_numpy(mirrored), torch.tensor([True, False, True, False])
    got = motion_labels(clips, negate_u=which)
    literal = prepared.motion_labels(steps(mirrored), quantum=1.0)
    physical = prepared.motion_labels(negated, quantum=1.0)
    np.testing.assert_array_equal(got.numpy(), np.where(which.numpy()[:, None], physical, literal))
    # The reference's mirror turns all directions of u by four bins of eight, and nothing else.
    u_directions = [1, 5, 9]
    assert [i for i in range(14) if (physical[:, i] != literal[:, i]).any()] == u_directions
    np.testing.assert_array_equal((physical - literal)[:, u_directions] % 8, 4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("frames", "side"), [(16, 112), (5, 64), (2, 8)])
def test_appearance_equals_preparation(frames: int, side: int, variant: str) -> None:
    rng = np.random.default_rng(side)
    noise = rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), side / 8) // 4 * 4 for frame in noise])
    still = np.broadcast_to(noise[:1], noise.shape)
    dark = np.where(rng.random((frames, side, side, 1)) < 0.3, noise, 0).astype(np.uint8)
    clips = np.stack([colourful(rng, frames, side) for _ in range(3)] + [noise, smooth, still, dark, noise * 0])
    expected = prepared.appearance_labels(clips, variant=variant)
    np.testing.assert_array_equal(appearance_labels(torch.from_numpy(clips), variant=variant).numpy(), expected)


def test_the_references_ring_2_takes_pixels_of_two_frames_for_its_bottom() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    ring = np.zeros((64, 64), np.bool_)
    ring[16:48, 16:48] = True
    ring[24:40, 24:40] = False
    rgb[1:, ring] = rgb[0, ring]  # the most consistent of the rings
    rgb[:, 40:48, 16:48] = (10, 200, 10)
    got = [appearance_labels(torch.from_numpy(rgb)[None], variant=v)[0].tolist() for v in VARIANTS]
    assert got[0][6:8] == [2, 6]  # green, a quarter and more of all frames
    assert got[1][6:8] == [2, 5]  # black: the blacked out centre of two frames is as large as their green
    assert [a for a, b in zip(*got, strict=True) if a != b] == [6]


def test_clips_together_are_clips_one_by_one() -> None:
    rng = np.random.default_rng(3)
    clips = torch.from_numpy(np.stack([colourful(rng, 4, 32) for _ in range(5)]))
    one_by_one = appearance_labels(clips)
    table = regions(32, torch.device("cpu"))
    assert torch.equal(_labels(clips, table, "corrected"), one_by_one)  # as a GPU does it


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_step_looks_at_a_value(variant: str) -> None:
    """On a GPU that would wait for it; on the device `meta`, which has no values, it fails."""
    batch = {"dtype": torch.uint8, "device": "meta"}
    flip = torch.empty(3, dtype=torch.bool, device="meta")
    motion = motion_labels(torch.empty(3, 5, 64, 64, 2, **batch), variant=variant, negate_u=flip)
    appearance = appearance_labels(torch.empty(3, 5, 64, 64, 3, **batch), variant=variant)
    assert (motion.shape, appearance.shape) == ((3, 14), (3, 13))
    assert motion.is_meta and appearance.is_meta


@pytest.mark.data
def test_reference_outputs_are_reproduced(research_data: Path) -> None:
    cases = sorted((research_data / "golden/statistics").glob("case*.npz"))
    assert len(cases) == 14
    loaded = [np.load(path) for path in cases]
    flow = torch.from_numpy(np.stack([case["flow_u8"] for case in loaded]))
    rgb = torch.from_numpy(np.stack([case["bgr"][..., ::-1] for case in loaded]))
    np.testing.assert_array_equal(motion_labels(flow, variant="reference"), [case["motion"] for case in loaded])
    np.testing.assert_array_equal(appearance_labels(rgb, variant="reference"), [case["appearance"] for case in loaded])
    corrected = prepared.motion_labels(steps(flow.numpy(), 127.5), quantum=1.0)
    np.testing.assert_array_equal(motion_labels(flow), corrected)
    np.testing.assert_array_equal(appearance_labels(rgb), prepared.appearance_labels(rgb.numpy()))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 4, 60, 60, 2), torch.uint8, "divisible by 8"),
        ((1, 4, 64, 56, 2), torch.uint8, "square"),
        ((1, 4, 64, 64, 3), torch.uint8, r"must be \(N,T,S,S,2\)"),
        ((1, 4, 64, 64, 2), torch.float32, "uint8 or torch.int16"),
        ((1, 1, 64, 64, 2), torch.uint8, "at least 2 frames"),
    ],
)
def test_bad_planes_are_refused(shape: tuple[int, ...], dtype: torch.dtype, message: str) -> None:
    with pytest.raises(UserError, match=message):
        motion_labels(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize(
    ("shape", "variant", "message"),
    [
        ((1, 4, 64, 64, 2), "corrected", "RGB"),
        ((1, 4, 60, 60, 3), "corrected", "divisible by 8"),
        ((1, 1, 64, 64, 3), "reference", "too short"),
    ],
)
def test_bad_clips_are_refused(shape: tuple[int, ...], variant: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        appearance_labels(torch.zeros(shape, dtype=torch.uint8), variant=variant)
