"""Where videos come from: files, objects in a bucket or on a web server, and members of tars in either.

`folder/videos.tar!name.mp4` is the member name.mp4 of the tar folder/videos.tar; `folder/videos.tar!` may be a root.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from shards.check import StoredFile
from shards.errors import StorageError, UserError
from shards.storage import MissingError, Reader, open_storage
from shards.storage.options import SCHEMES
from vidprep.verdicts import BadVideo

_BLOCK = 1 << 20
_AHEAD = 4  # blocks that are asked for at once where reading goes on
_KEPT = 16  # blocks
_MEMBER = ".tar!"


def source_name(path: str | Path) -> str:
    """A path, or the URL of an object; a `file://` URL becomes a path.

    Raises:
        UserError: another scheme.
    """
    text = str(path)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return unquote(parts.path)
    if parts.scheme in SCHEMES and parts.netloc:
        return text
    raise UserError(
        f"{text} is not a video this version can read: allowed are a path, file:///path, s3://, gs://, az:// and "
        "https:// URLs, and PATH.tar!MEMBER; copy or mount the videos first, then vidprep pack --root DIR"
    )


def is_file(name: str) -> bool:
    """Whether a source is a file of its own that FFmpeg opens by itself."""
    return "://" not in name and (_MEMBER not in name or Path(name).exists())


def check_source(name: str) -> None:
    """Look at the source itself, so that its faults are told from those of the disk or the network.

    Raises:
        BadVideo: missing-file, empty-file, or not-a-video for what is not a regular file.
        StorageError: it is there but cannot be opened or read.
    """
    if not is_file(name):
        if open_source(name).size == 0:
            raise BadVideo("empty-file", name, "it has 0 bytes")
        return
    try:
        status = os.stat(name)  # noqa: PTH116 - names may be no valid text; os takes them as they are
        if not stat.S_ISREG(status.st_mode):
            raise BadVideo("not-a-video", name, "it is a folder or device, not a file")
        if status.st_size == 0:
            raise BadVideo("empty-file", name, "it has 0 bytes")
        with Path(name).open("rb", buffering=0) as file:
            file.read(1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadVideo("missing-file", name, "there is no such file") from error
    except OSError as error:
        raise _cannot_read(name, error) from error


def check_readable(name: str) -> None:
    """Read all of it once: after FFmpeg has failed, this tells a broken video from a broken disk or network.

    Raises:
        StorageError: reading fails.
    """
    try:
        with Path(name).open("rb", buffering=0) if is_file(name) else open_source(name) as file:
            while file.read(_BLOCK):
                pass
    except OSError as error:
        raise _cannot_read(name, error) from error


def open_source(name: str) -> SourceFile:
    """A source as a file to read, that is not one by itself.

    Raises:
        BadVideo: missing-file: there is no such object or member.
        StorageError: it cannot be reached.
    """
    outer, mark, member = name.partition(_MEMBER)
    try:
        reader = _open_object(outer + ".tar" if mark else name)
    except MissingError as error:
        raise BadVideo("missing-file", name, "there is no such file") from error
    if not mark:
        return SourceFile(reader, 0, reader.size, name)
    members = _members(outer + ".tar", reader.size)
    place = members.get(member.removeprefix("/"))
    if place is None:
        raise BadVideo("missing-file", name, f"that tar has no such file among its {len(members)}")
    return SourceFile(reader, *place, name)


def _open_object(name: str) -> Reader:
    if "://" in name:
        parts = urlsplit(name)
        base = f"{parts.scheme}://{parts.netloc}"
        return open_storage(base).open(name[len(base) :].lstrip("/"))
    path = Path(name)
    return open_storage(path.parent).open(path.name)


@lru_cache(maxsize=64)
def _members(tar: str, _size: int) -> dict[str, tuple[int, int]]:
    """(offset, size) of the regular files in a tar; links and devices are none. Raises StorageError: it is no tar."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(fileobj=io.BufferedReader(StoredFile(_open_object(tar))), mode="r:") as members:
            for member in members:
                if member.isreg() and not member.issparse():
                    found[member.name.removeprefix("./")] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise StorageError(f"{tar} cannot be read as an uncompressed tar: {error}; fetch or write it anew") from error
    return found


class SourceFile(io.RawIOBase):
    """A range of a stored object as a file. Reads whole blocks, several where reading goes on, and keeps the last.

    Attributes:
        name: for messages, and for what its ending tells of the container.
        size: in bytes.
    """

    def __init__(self, reader: Reader, start: int, size: int, name: str) -> None:
        self._reader, self._start = reader, start
        self.size, self.name = size, name
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self.size - self._position))
        done = 0
        while done < wanted:
            block, at = divmod(self._position, _BLOCK)
            part = self._block(block)[at : at + wanted - done]
            buffer[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            count = _AHEAD if number - 1 in self._blocks else 1
            first, stop = number * _BLOCK, min((number + count) * _BLOCK, self.size)
            data = self._reader.read(self._start + first, stop - first)
            if len(data) != stop - first:
                raise StorageError(f"{self.name} ends before its {self.size} bytes; it was changed while it was read")
            for k in range(-(-len(data) // _BLOCK)):
                self._blocks[number + k] = data[k * _BLOCK : (k + 1) * _BLOCK]
            while len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)
        return self._blocks[number]

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()


def _cannot_read(name: str, error: OSError) -> StorageError:
    return StorageError(f"cannot read {name}: {error.strerror or error}; mend that, then run the same command again")
