"""The errors a user can cause or mend. The command line prints their message without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A wrong option, manifest, recipe or weights file.

    The message names the value, what is allowed, and the next command.
    """


class DataError(UserError):
    """Stored bytes that do not agree with their index or checksum; names shard, key and repair command."""


class StorageError(UserError):
    """A path or store that cannot be reached, read or written. Fails the run; never a verdict on a video."""
