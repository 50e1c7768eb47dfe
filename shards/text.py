"""JSON as this format writes it: one way to write a value, so that equal values are equal bytes."""

from __future__ import annotations

import json
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text in the order of the value's own keys, readable: non-ASCII characters stay as they are.

    File names that are not UTF-8 reach Python as lone surrogates; only their escaped form can be written, so text
    with such a character is escaped throughout. NaN and infinity are refused (ValueError): JSON has none.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, allow_nan=False)
    return text
