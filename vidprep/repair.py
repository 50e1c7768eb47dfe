"""`vidprep check --repair`: mend what is damaged, and make again what cannot be mended.

Tars, indexes and tables are mended by `shards.ops.repair`. A shard that is lost for good is computed again if it is of
a derived column whose sources are whole, or packed again if there is a manifest of its videos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards import captions
from shards.check import Problem, check
from shards.columns import COLUMNS
from shards.derived import folder_for, source_digests, stale_sources
from shards.errors import UserError
from shards.meta import ColumnMeta, Meta, read_meta
from shards.ops.parts import column_order
from shards.ops.repair import Lost, Mended, mend
from shards.plan import read_plan
from shards.receipts import has_receipt, stem
from shards.storage import Storage, open_storage
from vidprep.derive import add_flow, add_labels, add_text, flow_maker, label_maker, text_maker
from vidprep.pack import pack
from vidprep.runs import OnEvent, ignore

_MAKERS = ("vidprep flow", "vidprep labels", "vidprep text")
_MEASURED = ("quality", "numbers")  # parameters that follow from the others


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What a repair did.

    Attributes:
        mended: files and shards that were written anew.
        problems: what is still wrong.
        advice: what can be done about shards that are still lost, a line a column.
        stale: columns whose sources are others now than those they were made from.
    """

    mended: tuple[Mended, ...]
    problems: tuple[Problem, ...]
    advice: tuple[str, ...]
    stale: tuple[str, ...]


def repair(
    url: str | Path,
    *,
    other: str | Path | None = None,
    manifest: str | Path | None = None,
    root: str | Path | None = None,
    workers: int | None = None,
    on_event: OnEvent | None = None,
) -> RepairReport:
    """Mend a data set, changing nothing that is whole.

    Args:
        other: a copy of it; nothing is taken from there that is not proved to be what was here.
        manifest: the one it was packed from, to pack lost shards again; root: where the videos are now.
        workers: processes, where something is computed or packed again.
        on_event: as in `vidprep.pack.pack`.

    Raises:
        UserError: no data set at one of the places, another one at `other`, another manifest.
        StorageError: a place cannot be read or written.
    """
    tell = on_event or ignore
    found = mend(url, other=other)
    mended, advice = list(found.mended), []
    storage = open_storage(url)
    unmade: dict[str, set[int]] = {}
    for name in column_order(read_meta(storage), None):
        lost = [it for it in found.lost if it.column == name]
        if not lost:
            continue
        meta = read_meta(storage)
        column = meta.columns[name]
        make: Callable[[], object] | str
        if blocked := [s for s in column.sources if unmade.get(s, set()) & {it.shard for it in lost}]:
            make = f"it was made from {', '.join(blocked)}, which is to be mended first"
        elif column.sources:
            make = _remaker(storage, meta, name, workers=workers, tell=tell)
        else:
            make = _packer(storage, column, manifest, root=root, workers=workers, tell=tell)
        if isinstance(make, str):
            advice.append(_advice(storage, column, lost, make))
            unmade[name] = {it.shard for it in lost}
            continue
        _again(storage, column, lost, make)
        how = f"computed again from {', '.join(column.sources)}" if column.sources else f"packed again from {manifest}"
        mended += [Mended(file=f"{stem(column.folder, it.shard)}.tar", how=how) for it in lost]
    mended += mend(url, other=other).mended if len(mended) > len(found.mended) else ()
    meta = read_meta(storage)
    problems = tuple(check(url))
    intact = not any(problem.file.endswith("index.bin") for problem in problems)
    stale = tuple(name for name in meta.columns if intact and stale_sources(storage, meta, name))
    return RepairReport(mended=tuple(mended), problems=problems, advice=tuple(advice), stale=stale)


def _again(storage: Storage, column: ColumnMeta, lost: Sequence[Lost], make: Callable[[], object]) -> None:
    """Write shards anew. Where that fails, their old receipts stand again: half a shard is more than none."""
    receipts = [f"{stem(column.folder, it.shard)}.json" for it in lost]
    kept = {name: storage.read(name) for name in receipts if storage.exists(name)}
    for name in kept:
        storage.remove(name)
    try:
        make()
    finally:
        for name, data in kept.items():
            if not storage.exists(name):
                storage.put(name, data)


def _remaker(
    storage: Storage, meta: Meta, name: str, *, workers: int | None, tell: OnEvent
) -> Callable[[], object] | str:
    """What computes lost shards of a derived column again, or why that cannot be done."""
    column = meta.columns[name]
    if why := _broken_sources(storage, meta, name):
        return why
    given = {key: value for key, value in column.parameters.items() if key not in _MEASURED}
    kind = COLUMNS[column.kind]
    sources = {} if kind.text else dict(zip(("rgb", "flow"), _by_planes(meta, column), strict=False))
    try:
        if kind.text:
            parameters = text_maker().parameters()
        elif kind.table:
            resize = given.pop("resize", None)
            given["resize"] = tuple(resize) if isinstance(resize, list) else resize
            given |= sources
            parameters = label_maker(**given).parameters()
        else:
            given["source"] = sources["rgb"]
            parameters = flow_maker(**given).parameters()
    except (UserError, TypeError, KeyError, OSError) as error:
        return f"its parameters do not say how ({error})"
    digests = source_digests(storage, meta, tuple(column.sources))
    if (
        parameters != dict(column.parameters)
        or folder_for(storage, meta, name, parameters=parameters, digests=digests) != column.folder
    ):
        return "this version makes such a column in another way"
    if kind.text:
        return lambda: add_text(storage.url, column=name, workers=workers, on_event=tell)
    if kind.table:
        return lambda: add_labels(storage.url, column=name, workers=workers, on_event=tell, **given)
    return lambda: add_flow(storage.url, column=name, workers=workers, on_event=tell, **given)


def _broken_sources(storage: Storage, meta: Meta, name: str) -> str:
    """Why a column cannot be computed again from what there is; empty where it can."""
    column = meta.columns[name]
    if column.producer not in _MAKERS:
        return f"its shards come from {column.producer}"
    made_from = [s for s in column.sources if s != captions.SOURCE]
    if broken := [s for s in made_from if s not in meta.columns or not _whole(storage, meta, s)]:
        return f"it was made from {', '.join(broken)}, which is to be mended first"
    if stale := stale_sources(storage, meta, name):
        return f"it is stale: {', '.join(stale)} changed since"
    return ""


def _whole(storage: Storage, meta: Meta, name: str) -> bool:
    folder = meta.columns[name].folder
    return storage.exists(f"{folder}/index.bin") and all(
        has_receipt(storage, folder, shard) for shard in range(meta.shards)
    )


def _by_planes(meta: Meta, column: ColumnMeta) -> list[str]:
    """A column's sources: frames before flow."""
    return sorted(column.sources, key=lambda source: COLUMNS[meta.columns[source].kind].planes)


def _packer(
    storage: Storage,
    column: ColumnMeta,
    manifest: str | Path | None,
    *,
    root: str | Path | None,
    workers: int | None,
    tell: OnEvent,
) -> Callable[[], object] | str:
    """What packs lost shards again, or why that cannot be done."""
    options: Mapping[str, Any] = read_plan(storage).options
    if column.producer != "vidprep pack" or "operation" in options:
        return f"its shards come from {column.producer}"
    if manifest is None:
        return "there is no manifest to pack it from"
    size = options["size"]
    return lambda: pack(
        manifest,
        storage.url,
        short_side=size.get("short_side"),
        size=(size["height"], size["width"]) if "height" in size else None,
        fps=options["fps"],
        quality=options["quality"],
        shard_size=options["shard_size"],
        segment_frames=options["segment_frames"],
        name=options["name"],
        root=root,
        workers=workers,
        max_bad=1.0,  # it was published once
        on_event=tell,
    )


def _advice(storage: Storage, column: ColumnMeta, lost: Sequence[Lost], why: str) -> str:
    receipts = " ".join(f"{storage.url}/{stem(column.folder, it.shard)}.json" for it in lost)
    ways = [f"vidprep check {storage.url} --repair --from COPY takes them from a copy"]
    if column.producer == "vidprep pack":
        ways.append(f"vidprep check {storage.url} --repair --manifest MANIFEST packs them again")
    else:
        ways.append(f"remove {receipts} and run the same {column.producer} command again")
    shards = ", ".join(f"{it.shard} ({it.why})" for it in lost[:5])
    more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
    return f"{column.folder}: shards {shards}{more} are lost: {why}; {'; or '.join(ways)}"
