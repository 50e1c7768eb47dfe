"""How the frame and flow trees of older code bases are laid out, and which flow field belongs to which frames.

What the tools that made these trees write (read in their sources; docs/folders.md names them):

* gpu_flow, the two-stream release: frames 1…T, fields 1…T−1; field n leads from frame n to n + 1.
* denseflow: frames 0…T−1 (1…T where OpenCV wrote them), fields 0…T−2; the first field leads from the first frame.
* its predecessor dense_flow: as many images as fields, both from 1; an image is the frame its field leads **to**.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Leads = Literal["from", "to"]

_UCF = re.compile(r"(?P<group>v_(?P<label>[A-Za-z0-9]+)_g\d+)_c\d+")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to lay out trees.

    Attributes:
        name: key of `LAYOUTS`; example: a frame's file name.
        frame: prefix of the frames' file names, before the number.
        rgb, flow: folders that hold the trees where they are below one root; flow: with `u` and `v`, or None.
        beside: prefixes of the u and v files where they lie beside the frames.
        as_many: what as many fields as frames mean: fields that lead from their frame (the last one is left over),
            or to it (the first one is).
    """

    name: str
    example: str
    frame: str
    rgb: str | None = None
    flow: str | None = None
    beside: tuple[str, str] | None = None
    as_many: Leads = "from"


LAYOUTS: dict[str, Layout] = {
    "twostream": Layout(name="twostream", example="frame000001.jpg", frame="frame", rgb="jpegs_256", flow="tvl1_flow"),
    "pace": Layout(name="pace", example="frame000001.jpg", frame="frame"),
    "svc": Layout(name="svc", example="image_00001.jpg", frame="image_"),
    "denseflow": Layout(
        name="denseflow", example="img_00001.jpg", frame="img_", beside=("flow_x_", "flow_y_"), as_many="to"
    ),
}

TREE = "frame"
"""Prefix of the files in `u` and `v`, which no layout names otherwise."""


def numbered(prefix: str) -> re.Pattern[str]:
    """Names of JPEG files of a series; the first group is the number."""
    return re.compile(rf"{re.escape(prefix)}(\d+)\.jpe?g", re.IGNORECASE)


def ucf_name(name: str) -> tuple[str, str] | None:
    """Class and group of a video with a UCF101 name: v_Archery_g01_c02 is of Archery and v_Archery_g01."""
    match = _UCF.fullmatch(name)
    return None if match is None else (match["label"], match["group"])


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which fields lead from each frame but the last to the next.

    Attributes:
        numbers: one a pair of neighbouring frames, as the field files are numbered.
        missing: those among them that there are not. unused: fields that belong to no pair.
    """

    numbers: tuple[int, ...]
    missing: tuple[int, ...]
    unused: tuple[int, ...]


def match_fields(frames: Sequence[int], fields: Iterable[int], *, leads: Leads) -> Fields:
    """Find the fields of consecutively numbered frames.

    Numbers count, not places, so a field that is missing shifts none. The two series may start from 0 and from 1;
    otherwise they are numbered alike.

    Args:
        frames: ascending, without gaps. fields: numbers of the field files.
        leads: whether field n leads from frame n to n + 1, or from n − 1 to frame n.
    """
    present = set(fields)
    shift = 0
    if present and {frames[0], min(present)} == {0, 1} and (leads == "from" or len(present) == len(frames)):
        shift = min(present) - frames[0]
    numbers = tuple(n + shift + (leads == "to") for n in frames[:-1])
    return Fields(
        numbers=numbers,
        missing=tuple(n for n in numbers if n not in present),
        unused=tuple(sorted(present - set(numbers))),
    )
