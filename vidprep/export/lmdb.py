"""Frames in one LMDB file, as CoCLR reads them: a record a video, a msgpack list of its JPEGs.

Records are named by nine digits, the video's place in the order; `__order__` lists CLASS/VIDEO by place, `__keys__` the
names of the records, `__vlen__` the numbers of frames, `__len__` how many there are (reference/evaluation.md
section 1).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shards.dataset import Dataset
from shards.errors import StorageError, UserError
from vidprep.export.images import frame_jpegs
from vidprep.export.naming import Named
from vidprep.export.places import writing

_MORE = 1 << 26  # bytes that the map is larger than what it holds, at first
_TOGETHER = 16  # videos a transaction


def write_lmdb(
    target: Path,
    dataset: Dataset,
    named: Sequence[Named],
    *,
    column: str,
    quality: int,
    tell: Callable[[Named], None],
) -> tuple[int, int]:
    """Write the file aside, then rename it: (frames, bytes).

    Raises:
        UserError: the packages are not installed. DataError: stored bytes are damaged. StorageError: it cannot be
            written.
    """
    lmdb, msgpack = _package("lmdb"), _package("msgpack")
    aside = target.with_name(f".{target.name}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
    frames = 0
    try:
        with lmdb.open(str(aside), subdir=False, map_size=_MORE, lock=False, meminit=False, sync=False) as store:
            lengths: list[int] = []
            for first in range(0, len(named), _TOGETHER):
                records = {}
                for place, it in enumerate(named[first : first + _TOGETHER], first):
                    jpegs = list(frame_jpegs(dataset, it.number, column=column, quality=quality))
                    records[_key(place)] = msgpack.packb(jpegs, use_bin_type=True)
                    lengths.append(len(jpegs))
                    frames += len(jpegs)
                    tell(it)
                _put(lmdb, store, records)
            about = {
                b"__keys__": [_key(place) for place in range(len(named))],
                b"__len__": len(named),
                b"__order__": [it.path for it in named],
                b"__vlen__": lengths,
            }
            _put(lmdb, store, {name: msgpack.packb(value, use_bin_type=True) for name, value in about.items()})
            store.sync(True)
    except lmdb.Error as error:
        raise StorageError(f"cannot write {target}: {error}; mend that and run the same command again") from error
    with writing(target):
        aside.replace(target)
        return frames, target.stat().st_size


def _key(place: int) -> bytes:
    return b"%09d" % place


def _put(lmdb: Any, store: Any, records: dict[bytes, bytes]) -> None:
    """One transaction; the map grows until it fits."""
    while True:
        try:
            with store.begin(write=True) as transaction:
                for name, data in records.items():
                    transaction.put(name, data)
            return
        except lmdb.MapFullError:
            store.set_mapsize(2 * store.info()["map_size"] + sum(map(len, records.values())))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"--to lmdb needs the package {name}, which is not installed: pip install lmdb msgpack"
        ) from error
