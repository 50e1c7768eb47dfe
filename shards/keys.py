"""Sample keys: the name of a sample in every tar, index and table."""

from __future__ import annotations

import hashlib
import os
import re

MAX_KEY_BYTES = 100
_LONGEST = 72  # leaves room for `_s0000` of a segment and for a column's suffix
_EXTENSION = re.compile(r"(?<=[^/])\.(?=[A-Za-z0-9]*[A-Za-z])[A-Za-z0-9]{2,5}$")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_KEY = re.compile(r"[^./\\\s\x00-\x1f\x7f]+")


def make_key(relative_path: str, *, hashed: bool = False) -> str:
    """Key of the file at `relative_path`: `walk/daria 1.avi` becomes `walk--daria_1-` and 8 hex digits.

    The extension goes, `/` becomes `--`, every character but ASCII letters, digits, `_` and `-` becomes `_`. Where
    that cannot be undone, or is longer than 72 bytes, a prefix is kept and `-` with 8 hex digits of the SHA-256 of
    the whole path is appended.

    Args:
        relative_path: path below the data set's root, with `/` between folders.
        hashed: append the digits in any case: for files that differ in their extension only.
    """
    stem = without_extension(relative_path)
    key = _UNSAFE.sub("_", stem.replace("/", "--"))
    if not hashed and key.replace("--", "/") == stem and 0 < len(key) <= _LONGEST:
        return key
    digits = hashlib.sha256(os.fsencode(relative_path)).hexdigest()[:8]
    return f"{key[: _LONGEST - 9]}-{digits}"


def without_extension(path: str) -> str:
    """A path without the extension of its last part."""
    return _EXTENSION.sub("", path)


def segment_key(key: str, segment: int) -> str:
    """Key of part `segment` (from 0) of the video `key`."""
    return f"{key}_s{segment:03d}"


def is_key(key: str) -> bool:
    """Whether `key` may stand in a data set: no dots, slashes, white space; at most 100 bytes of UTF-8."""
    try:
        return _KEY.fullmatch(key) is not None and len(key.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False


def key_hash(key: str) -> int:
    """The 64-bit hash that indexes store: the first 8 bytes of BLAKE2b of the key's UTF-8, little endian."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
