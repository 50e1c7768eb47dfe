"""Files that are either absent or whole: written aside, flushed to the disk, then renamed.

The aside name is hidden, unique and ends in `.part`. What a killed process left is removed when the same file is
published by a later run. Nothing needs locks, so any file system will do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from shards.errors import StorageError

_BUFFER = 1 << 20
# What file systems without hard links answer (FAT, some FUSE and SMB mounts).
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Aside:
    """A file in the making. It has the `write` and `close` of a binary file and counts and hashes what it is given.

    Attributes:
        path: the name it will be published under.
        size: bytes written so far.

    Raises (from every method):
        StorageError: the disk is full, the folder cannot be written, …
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._aside = path.parent / f".{path.name}.{os.getpid():x}{secrets.token_hex(4)}.part"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._aside.open("xb", buffering=_BUFFER)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._sha256.update(data)
        self.size += len(data)
        return len(data)

    @property
    def sha256(self) -> str:
        """Hex digest of what has been written."""
        return self._sha256.hexdigest()

    def close(self) -> None:
        """Flush to the disk itself, without publishing."""
        if self._file.closed:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def publish(self, *, replace: bool = False) -> None:
        """Give the file its name, in one step.

        Args:
            replace: take the place of an existing file; otherwise its existence is an error.
        """
        self.close()
        try:
            if replace:
                self._aside.replace(self.path)
            else:
                _link(self._aside, self.path)
            _sync_folder(self.path.parent)
            for leftover in self.path.parent.glob(f".{self.path.name}.*.part"):
                leftover.unlink(missing_ok=True)
        except (FileExistsError, FileNotFoundError) as error:  # not found: removed as a leftover
            raise StorageError(
                f"{self.path} was published by another process meanwhile and is never overwritten; wait until that one "
                "has ended, then run the same command again: it takes up what is there"
            ) from error
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def discard(self) -> None:
        """Remove the aside file; harmless after `publish`."""
        # A full disk fails the last flush too; the file goes anyway and the first error is on its way.
        with suppress(OSError):
            self._file.close()
        self._aside.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """Name `target` unless it exists: a hard link is the one create-only step that POSIX has for a whole file."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        source.replace(target)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not sync folders, and say so
            raise
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> StorageError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        help_ = "free some space, then run the same command again: finished shards are kept"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        help_ = f"make {path.parent} writable or choose another destination"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        help_ = f"{path.parent} is or lies below a file; choose another destination"
    else:
        help_ = "mend that, then run the same command again: finished shards are kept"
    return StorageError(f"cannot write {path}: {reason}; {help_}")
