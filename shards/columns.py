"""What kinds of columns there are: how a sample's payload is named in the tar and what it consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ColumnKind:
    """Description of a column.

    Attributes:
        suffix: extension of the payload member, `KEY.<suffix>`.
        framed: the payload is a concatenation of frames whose places the index knows; otherwise one whole thing, which
            the index treats as a single frame, for its checksum.
        planes: images a frame consists of: one (H,W,3) RGB image, or two grey ones, (H,W), of flow: u, then v.
        describes: the column also holds `KEY.json`, what the video is.
        foreign: the tars are another tool's and lie elsewhere (`shards.foreign`); samples consist of whatever is there.
        text: the payload is text, one caption a line (`shards.captions`).
        encoded: a sample is an encoded video (`shards.video`). Frame record n has the time of frame n and the place of
            the n-th packet, or of the whole file where that is what has to be read.
    """

    suffix: str
    framed: bool
    planes: int = 1
    describes: bool = False
    foreign: bool = False
    text: bool = False
    encoded: bool = False

    @property
    def table(self) -> bool:
        """The payload is a table of `shards.table`."""
        return not self.framed and not self.text


COLUMNS: dict[str, ColumnKind] = {
    "rgb": ColumnKind(suffix="mjpg", framed=True, describes=True),
    # Two planes a field, u0 v0 u1 v1 …; `shards.flow` has the codecs.
    "flow": ColumnKind(suffix="flow.mjpg", framed=True, planes=2, describes=True),
    "flow-lossless": ColumnKind(suffix="flow.mpng", framed=True, planes=2, describes=True),
    # Of `vidprep index-shards`.
    "video": ColumnKind(suffix="mp4", framed=True, describes=True, foreign=True, encoded=True),
    "jpegs": ColumnKind(suffix="jpg", framed=True, describes=True, foreign=True),
    # A table of `shards.table`.
    "statistics": ColumnKind(suffix="statistics.npy", framed=False),
    "text": ColumnKind(suffix="txt", framed=False, text=True),
}
