"""The index of a shard, made again from its tar."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from shards.check import StoredFile
from shards.columns import ColumnKind
from shards.index import FAILED, FRAME, MEMBER, SAMPLE, Records, build_idx
from shards.keys import is_key, key_hash
from shards.storage import Reader
from shards.tarwriter import frame_rows, read_info

_JPEG_BORDER = re.compile(rb"\xff\xd9(?=\xff\xd8)")
_PNG_BORDER = re.compile(rb"IEND\xaeB`\x82(?=\x89PNG\r\n\x1a\n)")

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Hint:
    """What the tar of a derived column does not say itself: frames a second, (height, width), and the times of the
    column's images."""

    fps: float
    size: tuple[int, int]
    times_us: Times | None = None


def rebuild_idx(
    reader: Reader, kind: ColumnKind, *, shard: int, tar_sha256: str, hint: Callable[[str], Hint | None]
) -> bytes:
    """Contents of the .idx of a tar. Whether they are those that were lost, only a checksum of them can tell.

    Args:
        hint: sample key → what is known from elsewhere.

    Raises:
        ValueError: it is not a tar of such a column.
    """
    samples: list[tuple[Any, ...]] = []
    members: list[tuple[Any, ...]] = []
    frames: list[Records] = []
    keys: list[str] = []
    rows = keys_size = 0
    for key, info_at, info, payload_at, payload_size in _members(reader, kind):
        payload = reader.read(payload_at, payload_size)
        parts = _frames(payload, kind)
        known = hint(key) or _described(info, parts)
        found = _rows(parts, kind, known)
        size, flags = len(key.encode()), 0 if payload else FAILED
        where = (shard, len(samples), payload_at, payload_size)
        samples.append((*where, len(found), flags, known.fps, *known.size, size, rows, key_hash(key)))
        members.append((info_at, len(info), keys_size, size, b""))
        frames.append(found)
        keys.append(key)
        rows += len(found)
        keys_size += size
    return build_idx(
        shard=shard,
        samples=np.array(samples, SAMPLE),
        members=np.array(members, MEMBER),
        frames=np.concatenate(frames) if frames else np.empty(0, FRAME),
        keys="".join(keys).encode(),
        tar_size=reader.size,
        tar_sha256=tar_sha256,
    )


def _members(reader: Reader, kind: ColumnKind) -> Iterator[tuple[str, int, bytes, int, int]]:
    """Key, place and contents of the description, place and size of the payload, of every sample."""
    suffix = f".{kind.suffix}"
    info_at, info, described = 0, b"", ""
    try:
        with tarfile.open(fileobj=io.BufferedReader(StoredFile(reader)), mode="r:") as tar:
            for member in tar:
                if kind.describes and member.name.endswith(".json"):
                    info_at, described = member.offset_data, member.name.removesuffix(".json")
                    info = reader.read(info_at, member.size)
                    continue
                key = member.name.removesuffix(suffix)
                if key == member.name or not is_key(key) or (kind.describes and key != described):
                    raise ValueError(f"member {member.name!r} is none of a column with payloads {suffix}")
                yield key, info_at, info, member.offset_data, member.size
                info_at, info, described = 0, b"", ""
    except tarfile.TarError as error:
        raise ValueError(f"it is not a whole tar: {error}") from error


def _frames(payload: bytes, kind: ColumnKind) -> list[bytes]:
    if not kind.framed or not payload:
        return [payload]
    border = _PNG_BORDER if kind.suffix.endswith("mpng") else _JPEG_BORDER
    ends = [match.end() for match in border.finditer(payload)]
    return [payload[start:end] for start, end in zip([0, *ends], [*ends, len(payload)], strict=True)]


def _rows(parts: list[bytes], kind: ColumnKind, known: Hint) -> Records:
    if not parts[0]:
        return np.empty(0, FRAME)
    if not kind.framed:
        return frame_rows(parts, np.zeros(1))
    times = known.times_us
    if times is None or len(times) != len(parts):
        if known.fps <= 0:
            raise ValueError("a sample has neither frame times nor a frame rate")
        times = np.arange(len(parts)) * (1e6 / known.fps)  # type: ignore[assignment]
    return frame_rows(parts, np.asarray(times))


def _described(info: bytes, parts: list[bytes]) -> Hint:
    """What KEY.json and the first image say."""
    fields = read_info(info) if info else {}
    height, width = fields.get("height"), fields.get("width")
    if not (isinstance(height, int) and isinstance(width, int)):
        height, width = simplejpeg.decode_jpeg_header(parts[0])[:2]
    times = fields.get("times_us")
    return Hint(
        fps=float(fields.get("fps") or 0.0),
        size=(height, width),
        times_us=None if times is None else np.asarray(times, np.int64),
    )
