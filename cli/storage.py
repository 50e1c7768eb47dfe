"""`--storage KEY=VALUE` on every command that takes the address of a data set."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from copy import copy

import click

_OPTION = "--storage"
_ADDRESSES = frozenset({"dest", "data", "url", "urls", "manifest", "sources", "out"})


def _use(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> None:
    if words:
        from shards.storage.options import parse_pairs, use_storage_options

        use_storage_options(parse_pairs(words))


def with_storage_option(command: click.Command) -> click.Command:
    """A command, or group of commands, that takes the option too where it takes an address."""
    changed = copy(command)
    if isinstance(changed, click.Group):
        changed.commands = {name: with_storage_option(inner) for name, inner in changed.commands.items()}
    elif {it.name for it in command.params} & _ADDRESSES:
        option = click.Option(
            [_OPTION],
            multiple=True,
            metavar="KEY=VALUE",
            expose_value=False,
            is_eager=True,
            callback=_use,
            help="Option of object storage, such as endpoint=URL or cache=DIR; may be repeated.",
        )
        changed.params = [*command.params, option]
    return changed


def shown(arguments: Sequence[str]) -> str:
    """A command line for people, without the values of storage options, which may be secrets."""
    words: list[str] = []
    for word in arguments:
        if words and words[-1] == _OPTION:
            words.append(f"{word.partition('=')[0]}=…")
        elif word.startswith(f"{_OPTION}="):
            words.append(f"{_OPTION}={word[len(_OPTION) + 1 :].partition('=')[0]}=…")
        else:
            words.append(word)
    return shlex.join(words)
