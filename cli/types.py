"""Option types made of parsing functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


class Parsed(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic in newer click only
    """An option whose text is parsed by a function that raises click.BadParameter."""

    def __init__(self, parse: Callable[[str], Any], name: str) -> None:
        self._parse = parse
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # a default that is parsed already
        try:
            return self._parse(value)
        except click.BadParameter as error:
            self.fail(error.message, param, ctx)
