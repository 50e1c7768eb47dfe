"""Reading the tar of another tool from beginning to end: safe members, grouped into samples as WebDataset does.

Nothing is ever written where a member's name says, and nothing is unpickled. Names decide about keys only, and those
that would lead out of a folder are refused all the same: whoever unpacks such a tar should know.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from shards.keys import make_key
from shards.storage import Reader

VIDEOS = ("mp4", "webm", "mkv", "avi", "mov", "m4v")
"""Extensions of videos, the one to be taken first where a sample has several."""

PICKLES = frozenset({"pyd", "pkl", "pickle", "pth", "pt", "ckpt", "joblib"})
_TEXTS = frozenset({"json", "txt", "cls"})
LARGEST = (1 << 32) - 1
"""Bytes of a member that can be indexed."""

_LARGEST_TEXT = 16 << 20
_BLOCK = 1 << 20
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_COMPRESSED = {b"\x1f\x8b": "gzip -d", b"BZ": "bzip2 -d", b"\xfd7": "xz -d", b"(\xb5": "zstd -d"}


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of a tar with its contents. `offset`: of the contents in the tar."""

    name: str
    offset: int
    data: bytes


@dataclass(kw_only=True)
class Group:
    """What one sample consists of.

    Attributes:
        key: as the data set calls it; name: as the tar does, with folders.
        videos, texts: extension → member. frames: number → member.
        twice: names of members whose extension or number there was before.
    """

    key: str
    name: str
    videos: dict[str, Member] = field(default_factory=dict)
    frames: dict[int, Member] = field(default_factory=dict)
    texts: dict[str, Member] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A member that is passed over, or what ends the tar: a verdict's code and message."""

    name: str
    code: str
    message: str


class Walk:
    """One pass over a tar: iterate over the groups and what was refused; then everything has been read.

    Args:
        prefix: comes before every key.

    Attributes:
        size, sha256: of the tar, when the iteration is over.
        ignored: extension → members that are of no use here, when the iteration is over.
    """

    def __init__(self, reader: Reader, *, prefix: str = "") -> None:
        self._stream, self._prefix = _Stream(reader), prefix
        self.size = reader.size
        self.ignored: Counter[str] = Counter()

    @property
    def sha256(self) -> str:
        return self._stream.digest.hexdigest()

    def __iter__(self) -> Iterator[Group | Refused]:
        group: Group | None = None
        for found in self._members():
            if isinstance(found, Refused):
                yield found
                continue
            name, extension, info, tar = found
            if group is None or group.name != name:
                if group is not None:
                    yield group
                group = Group(key=make_key(self._prefix + name), name=name)
            try:
                refused = self._add(group, extension, info, tar)
                if refused is not None:
                    yield refused
            except tarfile.TarError as error:  # within this member; its sample is not whole
                yield _broken(self._stream.head, info.name, error)
                group = None
                break
        if group is not None:
            yield group
        self._stream.drain()

    def _members(self) -> Iterator[Refused | tuple[str, str, tarfile.TarInfo, tarfile.TarFile]]:
        """Files whose names are safe, with key and extension."""
        last = ""
        try:
            with tarfile.open(fileobj=self._stream, mode="r|", bufsize=_BLOCK) as tar:
                for info in tar:
                    last = info.name
                    refused = _refuse(info)
                    if refused is not None:
                        yield refused
                        continue
                    name, extension = split_name(info.name)
                    if not info.isreg() or not name or not extension:
                        continue
                    yield name, extension, info, tar
                    tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                # Damaged headers end the iteration without a word.
                end = self._stream.at(tar.offset)
                if any(end) or len(end) < tarfile.BLOCKSIZE:
                    error = tarfile.ReadError("damaged header" if any(end) else "no end mark")
                    yield _broken(self._stream.head, last, error)
        except (tarfile.TarError, ValueError) as error:  # the latter: numbers in extended headers that are none
            yield _broken(self._stream.head, last, error)

    def _add(self, group: Group, extension: str, info: tarfile.TarInfo, tar: tarfile.TarFile) -> Refused | None:
        """Read a member that is of use, unless it is too large for that."""
        number = frame_number(extension)
        if extension not in VIDEOS and number is None and (extension not in _TEXTS or info.size > _LARGEST_TEXT):
            self.ignored[extension.rpartition(".")[2][:16]] += 1
            return None
        held: dict[Any, Member] = group.frames
        place: str | int = extension if number is None else number
        if number is None:
            held = group.videos if extension in VIDEOS else group.texts
        if place in held:
            group.twice.append(info.name)
            return None
        if info.size > LARGEST:
            message = f"it has {info.size:,} bytes; at most {LARGEST:,} can be read at once"
            return Refused(name=info.name, code="too-large", message=message)
        file = tar.extractfile(info)
        held[place] = Member(name=info.name, offset=info.offset_data, data=b"" if file is None else file.read())
        return None


def split_name(name: str) -> tuple[str, str]:
    """Key and extension, as WebDataset splits them: at the first dot of the last part. Hidden files have no key."""
    while name.startswith("./"):
        name = name[2:]
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem if stem else ""), extension.lower()


def frame_number(extension: str) -> int | None:
    """The number of a JPEG in a sequence: `003.jpg`, `frame0003.jpg`; 0 for a lone `jpg`; None for anything else."""
    stem, _, kind = extension.rpartition(".")
    if kind not in ("jpg", "jpeg"):
        return None
    digits = stem[len(stem.rstrip("0123456789")) :]
    if not stem:
        return 0
    return int(digits) if digits.isascii() and digits.isdecimal() and "." not in stem else None


def _refuse(info: tarfile.TarInfo) -> Refused | None:
    if info.name.startswith("/") or ".." in info.name.split("/") or "\\" in info.name or "\0" in info.name:
        return Refused(name=info.name, code="unsafe-name", message="its name leads out of the tar's folder")
    if info.type in _KINDS or info.issparse():
        kind = _KINDS.get(info.type, "a sparse file")
        return Refused(name=info.name, code="not-a-file", message=f"it is {kind}; only plain files are read")
    return None


def _broken(head: bytes, last: str, error: Exception) -> Refused:
    if (unpack := _COMPRESSED.get(head[:2])) is not None:
        message = f"it is compressed, and places in it cannot be reached; decompress it first: {unpack}"
        return Refused(name="", code="compressed", message=message)
    if not last:
        return Refused(name="", code="not-a-tar", message=f"it is no tar ({error})")
    return Refused(name="", code="cut-off", message=f"it breaks off after {last} ({error})")


class _Stream(io.RawIOBase):
    """Bytes of a stored object in order, hashed as they go by."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._at = reader, 0
        self.digest = hashlib.sha256()
        self.head = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(self._at, len(buffer))
        self.head = self.head or data[:16]
        self._at += len(data)
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)

    def at(self, offset: int) -> bytes:
        """A block from anywhere, besides."""
        return self._reader.read(offset, tarfile.BLOCKSIZE)

    def drain(self) -> None:
        """Read what is left."""
        while self.read(_BLOCK):
            pass
