"""`vidprep` command lines in recipes and documents: parsed by click, not run."""

from __future__ import annotations

import re
import shlex
from typing import Any, NamedTuple

import click

from cli.main import root

# What stands for a value of the reader's own, where the option wants a number, a size or a time.
_PLACEHOLDERS = {"N": "1", "SHARE": "0.5", "TIME": "1h"}
_LEFT_OUT = re.compile(r"\s(…|\.\.\.)(?=\s|$)")


class Command(NamedTuple):
    """`name` ("pack", "evaluate finetune") and the values of all its options and arguments."""

    name: str
    values: dict[str, Any]


def parse_command(line: str) -> Command:
    """The command of a line. "…" stands for further options, N for a number.

    Raises:
        click.UsageError: no such command or option, a value that is not allowed, or something is missing.
    """
    program, *words = shlex.split(_LEFT_OUT.sub("", line))
    assert program == "vidprep", line
    words = [_PLACEHOLDERS.get(word, word) for word in words]
    command: click.Command = root
    context = command.make_context("vidprep", words)
    names: list[str] = []
    while isinstance(command, click.Group) and (rest := _unparsed(context)):
        name, found, words = command.resolve_command(context, rest)
        assert found is not None and name is not None
        names.append(name)
        command, context = found, found.make_context(name, words, parent=context)
    return Command(" ".join(names), dict(context.params))


def _unparsed(context: click.Context) -> list[str]:
    """Words that belong to a group's command: in click 8 the first of them stand apart."""
    first = "_protected_args" if hasattr(context, "_protected_args") else "protected_args"
    return [*getattr(context, first, ()), *context.args]
