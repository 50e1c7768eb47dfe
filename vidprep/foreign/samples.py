"""From the members of one sample to its place in the index: frames, label, caption."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards import jpeg
from shards.captions import tree
from shards.index import FRAME
from vidprep.foreign.members import VIDEOS, Group, Member
from vidprep.foreign.videos import BadMember, Rows, study

KINDS = ("video", "jpegs")
_LABELS = ("label", "class")
_FASTEST = 1000  # frames a second


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """What the index of a tar depends on besides the tar.

    Attributes:
        kind: "video" or "jpegs".
        fps: of JPEG sequences whose JSON has no `fps`.
        label_field: of the JSON; None: `label`, else `class`, else the member `cls`.
        caption_field: of the JSON; None: the member `txt`, else `caption`.
        group_field: of the JSON, or None.
        prefix_keys: keys begin with the name of the tar.
    """

    kind: str
    fps: float = 25.0
    label_field: str | None = None
    caption_field: str | None = None
    group_field: str | None = None
    prefix_keys: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """A sample.

    Attributes:
        offset, size: of the payload in the tar.
        rows: (T,) `shards.index.FRAME`, offsets relative to the payload.
        fps: frames a second; height, width: of the frames.
        info: its description.
        notes: (code, message) of warnings.
    """

    offset: int
    size: int
    rows: Rows
    fps: float
    height: int
    width: int
    info: Mapping[str, Any]
    notes: tuple[tuple[str, str], ...]


def describe(group: Group, options: IndexOptions) -> Found:
    """Index a sample.

    Raises:
        BadMember: it gives no sample.
    """
    about, fps, notes = _about(group, options)
    if group.twice:
        notes.append(("members-twice", f"{len(group.twice)} members stand there twice, such as {group.twice[0]}"))
    if options.kind == "video":
        video = next((group.videos[it] for it in VIDEOS if it in group.videos), None)
        if video is None:
            raise BadMember("no-video", "it has no video" + ("; it has JPEGs" if group.frames else ""))
        if len(group.videos) > 1:
            notes.append(("several-videos", f"it has {', '.join(group.videos)}; {video.name} was taken"))
        return _video(video, about, notes)
    if not group.frames:
        raise BadMember("no-frames", "it has no JPEGs" + ("; it has a video" if group.videos else ""))
    return _jpegs(group.frames, about, notes, fps=fps)


def _video(video: Member, about: dict[str, Any], notes: list[tuple[str, str]]) -> Found:
    studied = study(video.data)
    facts = studied.facts
    notes += [(note.code, note.message) for note in studied.notes]
    info = {
        "source": video.name,
        **about,
        "frames": len(studied.rows),
        "height": facts.height,
        "width": facts.width,
        "fps": facts.fps,
        "codec": facts.info.codec,
        "rotation": facts.rotation,
        "mirrored": facts.mirrored,
        **({"warnings": [code for code, _ in notes]} if notes else {}),
        "coding": studied.coding.tree(),
    }
    return Found(
        offset=video.offset,
        size=len(video.data),
        rows=studied.rows,
        fps=facts.fps,
        height=facts.height,
        width=facts.width,
        info=info,
        notes=tuple(notes),
    )


def _jpegs(frames: Mapping[int, Member], about: dict[str, Any], notes: list[tuple[str, str]], *, fps: float) -> Found:
    numbers = sorted(frames)
    members = [frames[number] for number in numbers]
    first = min(member.offset for member in members)
    rows, size = np.zeros(len(members), FRAME), None
    for place, (number, member) in enumerate(zip(numbers, members, strict=True)):
        try:
            image = jpeg.decode(member.data)
        except ValueError as error:
            raise BadMember("unreadable-frame", f"{member.name} does not decode ({error})") from error
        if size is not None and image.shape[:2] != size:
            here, there = ("x".join(map(str, it)) for it in (image.shape[:2], size))
            raise BadMember("frame-sizes", f"{member.name} is {here}, its first frame is {there}")
        size = image.shape[:2]
        time = round((number - numbers[0]) * 1e6 / fps)
        rows[place] = (member.offset - first, len(member.data), zlib.crc32(member.data), time)
    assert size is not None
    gaps = numbers[-1] - numbers[0] + 1 - len(numbers)
    if gaps:
        notes.append(("frames-missing", f"{gaps} numbers are missing between {numbers[0]} and {numbers[-1]}"))
    if len(members) == 1:
        notes.append(("one-frame", "it has a single frame, so nothing moves in it"))
    last = max(members, key=lambda member: member.offset)
    info = {"source": members[0].name, **about, "frames": len(rows), "height": size[0], "width": size[1], "fps": fps}
    info |= {"codec": "mjpeg", **({"warnings": [code for code, _ in notes]} if notes else {})}
    return Found(
        offset=first,
        size=last.offset + len(last.data) - first,
        rows=rows,
        fps=fps,
        height=size[0],
        width=size[1],
        info=info,
        notes=tuple(notes),
    )


def _about(group: Group, options: IndexOptions) -> tuple[dict[str, Any], float, list[tuple[str, str]]]:
    """Label, caption and group; frame rate of a sequence; what could not be understood."""
    notes: list[tuple[str, str]] = []
    fields: Mapping[str, Any] = {}
    if "json" in group.texts:
        try:
            read = json.loads(group.texts["json"].data)
            fields = read if isinstance(read, dict) else {}
        except (ValueError, RecursionError) as error:
            notes.append(("json-unreadable", f"{group.texts['json'].name} is not JSON ({error})"))
    names = _LABELS if options.label_field is None else (options.label_field,)
    label = next((text for name in names if (text := _line(fields.get(name))) is not None), None)
    if label is None and options.label_field is None:
        label = _line(_decoded(group, "cls"))
    if options.caption_field is not None:
        caption = _captions(fields.get(options.caption_field))
    else:
        listed = fields.get("caption")
        # Several captions stand in a list; KEY.txt beside it has the same, a line each.
        caption = (_captions(listed) if isinstance(listed, list) else None) or _text(_decoded(group, "txt"))
        caption = caption or _captions(listed)
    about = {"label": label, "caption": caption}
    about["group"] = None if options.group_field is None else _line(fields.get(options.group_field))
    return {name: it for name, it in about.items() if it is not None}, _rate(fields.get("fps"), options.fps), notes


def _decoded(group: Group, extension: str) -> str | None:
    member = group.texts.get(extension)
    return None if member is None else member.data.decode("utf-8", "replace")


def _text(value: Any) -> str | None:
    """A string or whole number as text; None for anything else, and for nothing."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value).replace("\0", "").strip() or None


def _captions(value: Any) -> str | list[str] | None:
    """A caption, or a list of several."""
    found = [text for it in (value if isinstance(value, list) else [value]) if (text := _text(it)) is not None]
    return tree(found)


def _line(value: Any) -> str | None:
    """As `_text`, on one line."""
    return " ".join((_text(value) or "").split()) or None


def _rate(value: Any, otherwise: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _FASTEST:
        return otherwise
    return float(value)
