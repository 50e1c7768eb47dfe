"""Where the trees of a layout are, and where the flow of each video lies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import StorageError, UserError
from vidprep.folders.layouts import TREE, Layout, numbered
from vidprep.folders.scan import Lookup
from vidprep.records import Video

Plane = tuple[Path, re.Pattern[str]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the flow of a video lies.

    Attributes:
        u, v: folders, absolute. beside: their files lie in one folder, with the layout's prefixes.
        source: for verdicts, relative to the root of the flow.
    """

    u: str
    v: str
    beside: bool
    source: str

    def planes(self, layout: Layout) -> tuple[Plane, Plane]:
        """Folder and file names of u and of v."""
        u, v = layout.beside if self.beside and layout.beside is not None else (TREE, TREE)
        return (Path(self.u), numbered(u)), (Path(self.v), numbered(v))


@dataclass(frozen=True, kw_only=True)
class Roots:
    """The trees.

    Attributes:
        rgb: of the frames. flow: of the fields, or None; no_flow: why not.
        beside: the fields of a video lie in one folder, not in `u` and `v`.
        skip: folders in the tree of frames that hold none.
    """

    rgb: Path
    flow: Path | None
    beside: bool = False
    no_flow: str = ""
    skip: tuple[Path, ...] = ()


def find_roots(
    root: Path, layout: Layout, *, rgb: str | Path | None, flow: str | Path | None, with_flow: bool
) -> Roots:
    """Find the trees below `root`, unless they are named.

    `u` and `v` among the class folders are taken for classes (sign alphabets have both) unless `flow` says otherwise.

    Raises:
        UserError: a named folder does not exist, or holds no flow.
    """
    frames = Path(rgb) if rgb is not None else root
    if rgb is None and layout.rgb is not None and (root / layout.rgb).is_dir():
        frames = root / layout.rgb
    skip = [frames / layout.flow] if layout.flow is not None else []
    if flow is not None:
        if not with_flow:
            raise UserError("give either --flow DIR or --no-flow")
        fields = Path(flow)
        if not fields.is_dir():
            raise UserError(f"--flow {fields} is not a folder; give the one that holds u and v")
        if not _has_planes(fields) and layout.beside is None:
            raise UserError(f"--flow {fields} holds no folders u and v; give the folder that does")
        same = fields.resolve() == frames.resolve()
        skip += [fields / "u", fields / "v"] if same and _has_planes(fields) else [fields]
        return Roots(rgb=frames, flow=fields, beside=not _has_planes(fields), skip=tuple(skip))
    if not with_flow:
        return Roots(rgb=frames, flow=None, no_flow="left out as asked", skip=tuple(skip))
    tried = [root] if frames != root else []
    if layout.flow is not None:
        tried.insert(0, root / layout.flow)
    place = next((it for it in tried if _has_planes(it)), None)
    if place is None and layout.beside is not None:
        why = f"no {layout.beside[0]}… and {layout.beside[1]}… beside the frames; --flow DIR names another place"
        return Roots(rgb=frames, flow=frames, beside=True, no_flow=why, skip=tuple(skip))
    listed = " nor ".join(str(it) for it in tried)
    why = (f"no folders u and v in {listed}; " if listed else "") + "--flow DIR names the folder of u and v"
    return Roots(rgb=frames, flow=place, no_flow=why, skip=tuple(skip))


def find_places(roots: Roots, layout: Layout, videos: Sequence[Video]) -> dict[str, Place] | None:
    """Key → where the flow of each video lies, without those that have none; None where no flow is to be imported."""
    if roots.flow is None:
        return None
    names = Counter(video.path.rpartition("/")[2].casefold() for video in videos)
    repeated = {name for name, count in names.items() if count > 1}
    if roots.beside:
        both = Lookup(roots.flow, repeated=repeated)
        found = {v.key: _place(roots.flow, it, roots.flow, it) for v in videos if (it := both.find(v.path))}
        holding = {key: place for key, place in found.items() if _holds_fields(place, layout)}
        return holding or None
    u, v = roots.flow / "u", roots.flow / "v"
    in_u, in_v = Lookup(u, repeated=repeated), Lookup(v, repeated=repeated)
    return {
        it.key: _place(u, a, v, b, tree="u/")
        for it in videos
        if (a := in_u.find(it.path)) is not None and (b := in_v.find(it.path)) is not None
    }


def _place(u: Path, in_u: str, v: Path, in_v: str, *, tree: str = "") -> Place:
    return Place(u=str((u / in_u).absolute()), v=str((v / in_v).absolute()), beside=not tree, source=f"{tree}{in_u}")


def _has_planes(folder: Path) -> bool:
    return (folder / "u").is_dir() and (folder / "v").is_dir()


def _holds_fields(place: Place, layout: Layout) -> bool:
    try:
        return all(any(name.fullmatch(file.name) for file in folder.iterdir()) for folder, name in place.planes(layout))
    except OSError as error:
        raise StorageError(f"cannot read the folder {place.u}: {error.strerror or error}") from error
