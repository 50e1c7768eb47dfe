"""Captions: the texts of a sample, one or several, as the sample table and text columns have them.

A text column holds `KEY.txt`: UTF-8, one caption a line, no newline at the end, so that a single caption is the whole
file, as other tools write it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from shards.text import to_json

SOURCE = "captions"
"""What a text column is made from; stands in `sources` where other columns name a column."""


def one_line(caption: str) -> str:
    """A caption as it is packed and learnt: every line break, with the blanks around it, is one space.

    Characters that UTF-8 cannot hold (lone surrogates, from JSON escapes) become question marks. Byte order marks, of
    which a reader of files drops the first, are left out.
    """
    if caption.isprintable() and caption == caption.strip():  # as nearly all are: neither line breaks nor surrogates
        return caption
    joined = " ".join(part for line in caption.replace("\ufeff", "").splitlines() if (part := line.strip()))
    return joined.encode("utf-8", "replace").decode()


def lines(captions: Iterable[str]) -> tuple[str, ...]:
    """Captions each on one line; those that are nothing but blanks are left out."""
    return tuple(line for caption in captions if (line := one_line(caption)))


def encode(captions: Iterable[str]) -> bytes:
    """Contents of KEY.txt; empty where there is no caption."""
    return "\n".join(lines(captions)).encode()


def decode(payload: Any) -> tuple[str, ...]:
    """Captions of a KEY.txt. Raises ValueError: it is not UTF-8."""
    return lines(bytes(payload).decode("utf-8-sig").split("\n"))


def sha256(samples: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Hex SHA-256 of the captions of (key, captions) pairs in order: what stands for the tar they come from."""
    digest = hashlib.sha256()
    for key, captions in samples:
        digest.update((to_json([key, list(lines(captions))]) + "\n").encode())
    return digest.hexdigest()


def of(value: Any) -> tuple[str, ...]:
    """Captions from the field `caption` of a line of JSON: text, a list of texts, or null."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def tree(captions: Sequence[str]) -> str | list[str] | None:
    """The field `caption` of a line of JSON, which `of` reads."""
    if not captions:
        return None
    return captions[0] if len(captions) == 1 else list(captions)
