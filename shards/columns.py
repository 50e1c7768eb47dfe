"""What kinds of columns there are: how a sample's payload is named in the tar and what it consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ColumnKind:
    """Description of a column.

    Attributes:
        suffix: extension of the payload member, `KEY.<suffix>`.
        framed: the payload is a concatenation of frames whose places the index knows; otherwise one whole thing.
        grey: frames are single planes, (H,W), instead of (H,W,3) RGB.
        describes: the column also holds `KEY.json`, what the video is.
    """

    suffix: str
    framed: bool
    grey: bool = False
    describes: bool = False


COLUMNS: dict[str, ColumnKind] = {
    "rgb": ColumnKind(suffix="mjpg", framed=True, describes=True),
}
