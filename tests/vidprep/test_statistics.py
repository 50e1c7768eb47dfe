"""Statistics labels: against the reference's outputs, a literal version, and cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.errors import UserError
from tests.vidprep import literal_statistics as literal
from vidprep.statistics import APPEARANCE_NAMES, MOTION_NAMES, appearance_labels, motion_labels
from vidprep.statistics.regions import regions


def flow_of(byte_flow: np.ndarray) -> np.ndarray:
    """The reference's decoding of the released 8-bit flow."""
    return (byte_flow.astype(np.float32) * np.float32(40) / np.float32(255) - np.float32(20)).astype(np.float32)


def bumps(*, frames: int, side: int, u: list[tuple[int, int, float]], when: int) -> np.ndarray:
    """Zero flow but for single pixels of u, twice as strong in frame `when`."""
    flow = np.zeros((frames, side, side, 2), np.float32)
    for y, x, strength in u:
        flow[:, y, x, 0] = strength
        flow[when, y, x, 0] *= 2
    return flow


def smooth_noise(rng: np.random.Generator, frames: int, side: int) -> np.ndarray:
    coarse = rng.normal(size=(frames, 9, 9, 2))
    grown = np.repeat(np.repeat(coarse, side // 8, axis=1), side // 8, axis=2)[:, :side, :side]
    return (3 * grown + rng.normal(size=grown.shape)).astype(np.float32)


def colourful(rng: np.random.Generator, frames: int, side: int) -> np.ndarray:
    """Few colours, so that modes are clear and ties occur; some blocks change over time."""
    palette = rng.integers(0, 256, (12, 3), dtype=np.uint8)
    still = rng.integers(12, size=(side, side))
    moving = rng.integers(12, size=(frames, side, side))
    return palette[np.where(rng.random((side, side)) < 0.7, still, moving)]


@pytest.mark.data
def test_reference_outputs_are_reproduced(research_data: Path) -> None:
    cases = sorted((research_data / "golden/statistics").glob("case*.npz"))
    assert len(cases) == 14
    for path in cases:
        with np.load(path) as case:
            rgb = case["bgr"][..., ::-1]
            np.testing.assert_array_equal(motion_labels(flow_of(case["flow_u8"]), variant="reference"), case["motion"])
            np.testing.assert_array_equal(appearance_labels(rgb, variant="reference"), case["appearance"])


@pytest.mark.parametrize(("frames", "side"), [(16, 112), (5, 64), (3, 8), (8, 24)])
def test_motion_equals_the_literal_version(frames: int, side: int) -> None:
    rng = np.random.default_rng(frames)
    for _ in range(3):
        flow = smooth_noise(rng, frames, side)
        np.testing.assert_array_equal(motion_labels(flow, variant="reference"), literal.motion(flow, frames - 1))
        inside = literal.motion(flow[:-1], frames - 1)
        np.testing.assert_array_equal(motion_labels(flow), inside)
        np.testing.assert_array_equal(motion_labels(flow[:-1], frames=frames), inside)


@pytest.mark.parametrize(("frames", "side"), [(4, 112), (5, 32), (2, 8)])
def test_appearance_equals_the_literal_version(frames: int, side: int) -> None:
    rng = np.random.default_rng(side)
    for _ in range(3):
        rgb = colourful(rng, frames, side)
        for variant in ("reference", "corrected"):
            expected = literal.appearance(rgb, reference=variant == "reference")
            np.testing.assert_array_equal(appearance_labels(rgb, variant=variant), expected)


@pytest.mark.parametrize("side", [8, 64, 112, 224])
def test_regions_cover_the_window(side: int) -> None:
    table = regions(side)
    for got, wanted in zip(table.masks, literal.region_masks(side), strict=True):
        np.testing.assert_array_equal(got, np.stack(wanted))
    triangle = (side // 2) * (side // 2 + 1) // 2
    assert table.sizes[20:].tolist() == [triangle] * 8
    np.testing.assert_array_equal(table.members[:, table.cells], np.concatenate(table.masks))


def test_probe_pixels_have_the_triangles_of_the_specification() -> None:
    probes = [(10, 2), (2, 10), (2, 100), (10, 110), (60, 5), (110, 30), (110, 80), (90, 110)]
    for label, (y, x) in enumerate(probes, start=1):
        labels = motion_labels(bumps(frames=4, side=112, u=[(y, x, 5.0)], when=2), variant="reference")
        assert dict(zip(MOTION_NAMES, labels.tolist(), strict=True))["p3_u_block"] == label


def test_one_bright_pixel_by_hand() -> None:
    # Row 70, column 30: grid row 2, column 1 → block 10; ring 2 reaches rows and columns 28..83.
    labels = dict(zip(MOTION_NAMES, motion_labels(bumps(frames=5, side=112, u=[(70, 30, 3.0)], when=1)), strict=True))
    assert labels["p1_u_block"] == 10
    assert labels["p2_u_block"] == 2
    assert labels["global_u_frame"] == 2
    # Nothing moves vertically: all v labels say so.
    assert [labels[name] for name in MOTION_NAMES if "_v" in name] == [0] * 7


def test_a_ramp_points_down_the_slope() -> None:
    # f = x falls towards smaller x: direction 180 degrees is bin 5 of 8; f = y points to 270 degrees, bin 7.
    y, x = np.mgrid[:112, :112].astype(np.float32)
    flow = np.repeat(np.stack([x, y], axis=-1)[None], 4, axis=0)
    labels = dict(zip(MOTION_NAMES, motion_labels(flow).tolist(), strict=True))
    assert {labels[f"p{p}_u_angle"] for p in (1, 2, 3)} == {5}
    assert {labels[f"p{p}_v_angle"] for p in (1, 2, 3)} == {7}


def test_motionless_clips() -> None:
    still = np.zeros((6, 64, 64, 2), np.float32)
    assert motion_labels(still).tolist() == [0] * 14
    # The reference answers (0, 0) in the grid and (1, 1) elsewhere.
    assert motion_labels(still, variant="reference").tolist() == [0] * 4 + [1] * 10
    faint = smooth_noise(np.random.default_rng(0), 6, 64) * np.float32(1e-4)
    assert motion_labels(faint).tolist() == [0] * 14
    assert (motion_labels(faint, quantum=0.0) > 0).all()


def test_dominant_colour_is_the_mode_not_the_fullest_octant() -> None:
    rgb = np.random.default_rng(0).integers(128, 256, (2, 64, 64, 3), dtype=np.uint8)
    rgb[:, ::2, ::2] = (10, 20, 30)  # a quarter of the pixels, but all of one dark colour
    assert dict(zip(APPEARANCE_NAMES, appearance_labels(rgb), strict=True))["global_colour"] == 5


def test_batches_are_clips_one_by_one() -> None:
    rng = np.random.default_rng(1)
    flow = np.stack([smooth_noise(rng, 4, 32) for _ in range(3)])
    rgb = np.stack([colourful(rng, 4, 32) for _ in range(3)])
    np.testing.assert_array_equal(motion_labels(flow), [motion_labels(f) for f in flow])
    np.testing.assert_array_equal(appearance_labels(rgb), [appearance_labels(c) for c in rgb])


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((4, 60, 60, 2), np.float32, "divisible by 8"),
        ((4, 64, 56, 2), np.float32, "square"),
        ((4, 64, 64, 3), np.float32, "must be"),
        ((4, 64, 64, 2), np.float64, "float32"),
        ((1, 64, 64, 2), np.float32, "frames >= 2"),
    ],
)
def test_bad_flow_is_refused(shape: tuple[int, ...], dtype: type, message: str) -> None:
    with pytest.raises(UserError, match=message):
        motion_labels(np.zeros(shape, dtype))


def test_values_that_are_not_finite_are_refused() -> None:
    flow = np.zeros((4, 16, 16, 2), np.float32)
    flow[1, 3, 3, 1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        motion_labels(flow)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="literal"):
        motion_labels(np.zeros((4, 16, 16, 2), np.float32), variant="literal")
    with pytest.raises(UserError, match="uint8"):
        appearance_labels(np.zeros((4, 16, 16, 3), np.float32))
    with pytest.raises(UserError, match="do not fit"):
        motion_labels(np.zeros((4, 16, 16, 2), np.float32), frames=9)
