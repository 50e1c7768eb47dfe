"""Flow of a clip as strips: frames, fields in colour, motion boundaries."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from shards.dataset import Dataset
from vidprep.drawing.canvas import LEAST, LINE, Image, below, beside, named, scaled, text_line
from vidprep.drawing.colours import flow_colours

AROUND = 15
"""Fields whose motion boundaries are summed: those inside a clip of 16 frames."""

FloatArray = npt.NDArray[np.float32]

_STEPS = 6  # of the codec: what scales with less would show the rounding of stored flow, and JPEG's traces


def flow_strips(
    dataset: Dataset, i: int, numbers: Sequence[int], *, column: str, tile: tuple[int, int], frames: Image | None
) -> Image:
    """Fields of a sample in the Middlebury colour code over their motion boundaries, and how they are scaled.

    Args:
        dataset: with `column` open.
        numbers: of the fields to draw.
        tile: (height, width) of one field's picture.
        frames: strip of the frames that the fields lead from, to put on top; None leaves it out.

    Returns:
        (H,W,3) uint8 RGB, with the rows' names in a gutter on the left.
    """
    flow = dataset.flow(i, numbers, column=column)
    least = _STEPS * dataset.codec(i, column=column).step
    full = full_length(flow, least=least)
    total = int(dataset.record(i, column)["frames"]) // 2
    edges = np.stack([motion_boundaries(dataset.flow(i, _around(t, total), column=column)) for t in numbers])
    # One scale for u and v; not below what a slope of `least` a pixel gives in a single field.
    brightest = max(float(np.percentile(edges, 99.5)), 6 * least)
    levels = np.asarray(np.rint(255 * np.clip(edges / brightest, 0, 1)), np.uint8).reshape(-1, 1)
    shades = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.uint8)[:, 0, ::-1].reshape(*edges.shape, 3)
    coloured = _strip(list(flow_colours(flow, full=full)), tile)
    u, v = (_strip(list(shades[:, c]), tile) for c in (0, 1))
    rows = [("flow", coloured), ("∂u", u), ("∂v", v)]
    if frames is not None:
        rows.insert(0, ("frame", frames))
    body = below([named(name, strip) for name, strip in rows])
    numbers_text = ", ".join(map(str, numbers))
    words = f"{column} · full colour at {full:.2g} px a frame · from frames {numbers_text}"
    return below([text_line(words, max(LEAST, body.shape[1])), body], gap=0)


def full_length(flow: FloatArray, *, least: float) -> float:
    """The length that gets full colour: the 99th percentile of all vectors, and not below `least`, in pixels.

    A few wrong vectors, which every method has at occlusions, so do not make all others pale.
    """
    return max(float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 99)), least)


def motion_boundaries(flow: FloatArray) -> FloatArray:
    """Magnitude of the 3x3 Prewitt derivatives of u and of v, summed over the fields before it is taken.

    (T,H,W,2) float32 pixels → (2,H,W) float32: of u, of v. Edges are repeated; a ramp of 1 px a pixel gives 6 for every
    field, 3 on the edge (reference/statistics.md section 4). The sign that the reference's convolution gives the
    derivatives does not show in the magnitude.
    """
    total = flow.sum(axis=0, dtype=np.float64)  # the derivative of the sum is the sum of the derivatives
    across = np.array([[-1, 0, 1]] * 3, np.float64)
    sizes = [
        np.hypot(*(cv2.filter2D(total[..., c], -1, k, borderType=cv2.BORDER_REPLICATE) for k in (across, across.T)))
        for c in (0, 1)
    ]
    return np.stack(sizes).astype(np.float32)


def _around(t: int, total: int) -> range:
    """Up to `AROUND` fields with field t in their middle, or as near to it as the ends of the clip let it be."""
    first = max(0, min(t - AROUND // 2, total - AROUND))
    return range(first, min(first + AROUND, total))


def _strip(images: Sequence[Image], tile: tuple[int, int]) -> Image:
    pictures = [scaled(image, *tile) for image in images]
    for picture in pictures:
        # White is the colour of no motion, and nearly the paper's.
        cv2.rectangle(picture, (0, 0), (tile[1] - 1, tile[0] - 1), LINE, 1)
    return beside(pictures)
