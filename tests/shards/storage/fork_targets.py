"""What the tests of caching and forking run in other processes."""

from __future__ import annotations

import sys

from shards.storage import open_storage


def read_all(url: str, names: list[str], rounds: int) -> None:
    """Read whole objects again and again, and compare them with what their names say."""
    storage = open_storage(url)
    for _ in range(rounds):
        for name in names:
            reader = storage.open(name)
            assert reader.read(0, reader.size) == content(name), name


def content(name: str) -> bytes:
    """A megabyte that depends on the name."""
    return (name.encode() + b" " * 64)[:64] * (1 << 14)


if __name__ == "__main__":
    read_all(sys.argv[1], sys.argv[3:], int(sys.argv[2]))
