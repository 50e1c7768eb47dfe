"""How object storage is used: limits, the cache, and what the provider needs to know.

Options hold secrets. They live in memory and in the environment of this process and its children, and are written
nowhere else.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from shards.errors import UserError

SCHEMES = ("s3", "gs", "az", "https", "http")
VARIABLE = "VIDPREP_STORAGE"
CACHE, CACHE_SIZE = "VIDPREP_CACHE", "VIDPREP_CACHE_SIZE"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, kw_only=True)
class StorageOptions:
    """Options of object storage; local folders need none.

    Attributes:
        timeout: seconds without a new byte after which an operation is given up.
        requests: that one process has in flight.
        gap: bytes between two wanted ranges that are read along with them, in place of a second request.
        part: bytes of a part of a large upload or download.
        cache: folder for whole shards on a local disk; None reads ranges only.
        cache_size: bytes that the cache may take.
        provider: what the provider's client is told besides the usual environment variables: endpoint, region,
            access_key_id, secret_access_key, skip_signature, …
    """

    timeout: float = 60.0
    requests: int = 16
    gap: int = 128 << 10
    part: int = 8 << 20
    cache: str | None = None
    cache_size: int = 100 * 10**9
    provider: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("timeout", 0.1), ("requests", 1), ("gap", 0), ("part", 5 << 20), ("cache_size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"storage option {name} is {getattr(self, name)}; it must be at least {least}")

    def __hash__(self) -> int:
        return hash((self.timeout, self.requests, self.gap, self.part, self.cache, *sorted(self.provider.items())))


def current_options(given: Mapping[str, object] | None = None) -> StorageOptions:
    """The options in force: `given`, else those of VIDPREP_STORAGE, VIDPREP_CACHE and VIDPREP_CACHE_SIZE.

    Raises:
        UserError: a value that cannot be understood.
    """
    pairs: dict[str, object] = {}
    for variable, name in ((CACHE, "cache"), (CACHE_SIZE, "cache_size")):
        if os.environ.get(variable):
            pairs[name] = os.environ[variable]
    try:
        words = shlex.split(os.environ.get(VARIABLE, ""))
    except ValueError as error:
        raise UserError(
            f"{VARIABLE} cannot be understood ({error}); it is KEY=VALUE KEY=VALUE, quoted as in a shell"
        ) from error
    pairs |= parse_pairs(words)
    return _build(pairs | dict(given or {}))


def use_storage_options(given: Mapping[str, object]) -> StorageOptions:
    """Put options in force for this process and the processes that it starts, besides those that are.

    Raises:
        UserError: a value that cannot be understood.
    """
    options = current_options(given)
    before = parse_pairs(shlex.split(os.environ.get(VARIABLE, "")))
    merged = before | {name: str(value) for name, value in given.items()}
    os.environ[VARIABLE] = shlex.join(f"{name}={value}" for name, value in merged.items())
    return options


def parse_pairs(words: Iterable[str]) -> dict[str, object]:
    """`KEY=VALUE` words as a mapping. Raises UserError; the message shows no value, for it may be a secret."""
    found: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            shown = key if equals else f"{word[:12]}…" if len(word) > 12 else word
            raise UserError(f"storage option {shown!r} is not KEY=VALUE; {_KNOWN}")
        found[key.strip().replace("-", "_").lower()] = value
    return found


def parse_size(name: str, value: object) -> int:
    """Bytes from a number or text such as 50GB. Raises UserError."""
    text = str(value).strip().upper().replace("IB", "B")
    digits = text.rstrip("BKMGT")
    try:
        return round(float(digits) * _UNITS[text[len(digits) :].strip()])
    except (ValueError, KeyError) as error:
        raise UserError(f"storage option {name} is {value!r}; give bytes, or a size such as 50GB") from error


def _build(pairs: Mapping[str, object]) -> StorageOptions:
    own = {it.name for it in fields(StorageOptions)} - {"provider"}
    found: dict[str, Any] = {"provider": {key: str(value) for key, value in pairs.items() if key not in own}}
    for name in own & set(pairs):
        value = pairs[name]
        if name in ("gap", "part", "cache_size"):
            found[name] = parse_size(name, value)
        elif name == "cache":
            found[name] = str(value) or None
        else:
            try:
                found[name] = float(str(value)) if name == "timeout" else int(str(value))
            except ValueError as error:
                raise UserError(f"storage option {name} is {value!r}; it must be a number") from error
    return StorageOptions(**found)


_KNOWN = (
    "there are timeout, requests, gap, part, cache, cache_size, and what the provider's client knows, "
    "such as endpoint=http://host:9000"
)
