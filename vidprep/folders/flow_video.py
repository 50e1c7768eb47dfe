"""What worker processes of `flow_folders` do: the flow of one frame folder, as two folders of JPEGs."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from shards import jpeg
from shards.errors import StorageError, UserError
from shards.flow import Release
from shards.procs import notify
from vidprep.flow.backends import BACKENDS, choose_backend
from vidprep.flow.methods import METHODS
from vidprep.flow.params import TVL1Params
from vidprep.folders.frames import BadFolder
from vidprep.resize import Resize

ANY_FRAME = re.compile(r"(?!flow_[xy]_)(.*?)(\d+)\.(?:jpe?g|png|bmp)", re.IGNORECASE)
"""A numbered image, but not one of the flow that denseflow writes beside its frames: prefix and number."""

PLANES = ("u", "v")
_ASIDE = re.compile(r"\..+\.[0-9a-f]+\.part")
_METHODS = ("tvl1", "dis", "farneback")
_PAIRS = 32  # at once: bounds memory, and a GPU has enough to do; no pair's result depends on it

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """What the bytes of a field depend on besides its two frames.

    Attributes:
        method, backend, repeat_last, quality: as in `vidprep.folders.flow_trees.flow_folders`.
        resize: size of the frames the flow is computed from; None: as they are.
    """

    method: str = "tvl1"
    backend: str = "auto"
    resize: Resize | None = None
    quality: int = 95
    repeat_last: bool = False

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise UserError(f"flow method {self.method!r} is unknown; allowed: {', '.join(_METHODS)}")
        if self.backend not in ("auto", *BACKENDS):
            raise UserError(f"TV-L1 backend {self.backend!r} is unknown; allowed: auto, {', '.join(BACKENDS)}")
        if self.method != "tvl1" and self.backend != "auto":
            raise UserError(f"backend {self.backend!r} is one of tvl1; method {self.method} has no backends")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality is {self.quality}; allowed are 1 to 100")

    def arguments(self) -> dict[str, Any]:
        """Of the method."""
        return {"backend": self.backend} if self.method == "tvl1" else {}

    def parameters(self) -> dict[str, Any]:
        """All of it, as plain JSON values."""
        resize = None if self.resize is None else self.resize.short_side or list(self.resize.size or ())
        method = {"method": self.method, **self.arguments(), **(vars(TVL1Params()) if self.method == "tvl1" else {})}
        codec = {"codec": Release.name, "bound": Release().bound, "quality": self.quality}
        return {**method, "resize": resize, **codec, "repeat_last": self.repeat_last}


@dataclass(frozen=True, kw_only=True)
class FlowTask:
    """One video. `name`: where it goes below `out`/u and `out`/v, with `/` between folders."""

    folder: str
    out: str
    name: str
    options: FlowOptions

    def target(self, plane: str) -> Path:
        return Path(self.out, plane, self.name)


@dataclass(frozen=True, kw_only=True)
class Done:
    """A video that was written. `clipped`: share of its components beyond the codec's bound."""

    folder: str
    fields: int
    clipped: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A video that has no flow, and why."""

    folder: str
    reason: str


def is_done(task: FlowTask) -> bool:
    """Whether both folders are there; each is renamed into place when it is whole."""
    return all(task.target(plane).is_dir() for plane in PLANES)


def remove_leftovers(tasks: Iterable[FlowTask]) -> None:
    """Remove what a killed run left unfinished. Of a run that goes on at the same time it would be the work, too."""
    parents = {task.target(plane).parent for task in tasks for plane in PLANES}
    for parent in sorted(parents):
        for path in parent.iterdir() if parent.is_dir() else ():
            if _ASIDE.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def probe(options: FlowOptions) -> FlowOptions:
    """The options with the backend that "auto" stands for here, tried on a small pair.

    So a backend that does not run here ends the run at its start, and code that has to be compiled is compiled once.

    Raises:
        UserError: the backend does not run here.
    """
    if options.method == "tvl1" and options.backend == "auto":
        options = replace(options, backend=choose_backend()[0])
    pair = np.zeros((2, 64, 64), np.uint8)
    pair[:, 20:40, 20:40] = 255
    METHODS[options.method](pair, **options.arguments())
    return options


def write_video(task: FlowTask) -> Done | Failed:
    """Compute and write the flow of a video.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        return _write(task)
    except BadFolder as bad:
        return Failed(folder=task.folder, reason=bad.reason)


def _write(task: FlowTask) -> Done:
    files, codec = _files(Path(task.folder)), Release()
    asides = [_make_aside(task.target(plane)) for plane in PLANES]
    clipped, written = 0.0, 0
    planes: npt.NDArray[np.uint8] | None = None
    try:
        for numbers, frames in _runs(task, files):
            try:
                flow = METHODS[task.options.method](frames, **task.options.arguments())
                fields, share = codec.quantise(flow)
            except UserError as error:  # frames that the method does not take
                raise BadFolder("no-flow", str(error)) from error
            for number, planes in zip(numbers, fields, strict=False):
                _put(asides, number, planes, quality=task.options.quality)
            clipped += share * len(fields)
            written += len(fields)
            notify((task.folder, written))
        if task.options.repeat_last and planes is not None:
            _put(asides, max(files), planes, quality=task.options.quality)
        for aside, plane in zip(asides, PLANES, strict=True):
            _publish(aside, task.target(plane))
    finally:
        for aside in asides:
            shutil.rmtree(aside, ignore_errors=True)
    return Done(folder=task.folder, fields=written, clipped=clipped / written)


def _files(folder: Path) -> dict[int, Path]:
    """Number → image, ascending and without gaps; at least two, of one series."""
    found: dict[int, Path] = {}
    prefixes: set[str] = set()
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise BadFolder("unreadable", f"the folder cannot be read: {error.strerror or error}") from error
    for path in paths:
        match = ANY_FRAME.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        number = int(match[2])
        prefixes.add(match[1])
        if number in found and len(prefixes) == 1:
            raise BadFolder("frame-names", f"{found[number].name} and {path.name} have the same number")
        found[number] = path
    if len(prefixes) > 1:
        listed = ", ".join(f"{prefix}…" for prefix in sorted(prefixes))
        raise BadFolder("frame-names", f"it holds images of several series: {listed}")
    found = dict(sorted(found.items()))
    if len(found) < 2:
        raise BadFolder("one-frame", f"it holds {len(found)} frame; flow needs two")
    if (gap := next((n for n in found if n + 1 not in found and n < max(found)), None)) is not None:
        raise BadFolder("frames-missing", f"frame {gap + 1} is missing")
    return found


def _runs(task: FlowTask, files: dict[int, Path]) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
    """Numbers and (T,H,W) grey frames of parts of the video; each part begins with the last frame of the one before."""
    numbers = list(files)
    resize, first = task.options.resize, None
    before: Grey | None = None
    for start in range(0, len(numbers) - 1, _PAIRS):
        part = numbers[start : start + _PAIRS + 1]
        frames: list[Grey] = [] if before is None else [before]
        for number in part[len(frames) :]:
            image = _grey(files[number])
            first = first or image.shape
            if image.shape != first:
                here, there = ("x".join(map(str, shape)) for shape in (image.shape, first))
                raise BadFolder("frame-sizes", f"{files[number].name} is {here}, the first frame is {there}")
            frames.append(image if resize is None else _resized(image, resize))
        before = frames[-1]
        yield part, np.stack(frames)


def _grey(path: Path) -> Grey:
    """(H,W), by OpenCV's weights of red, green and blue."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadFolder("unreadable", f"{path.name} cannot be read: {error.strerror or error}") from error
    if path.suffix.lower() in (".jpg", ".jpeg"):
        try:
            image = jpeg.decode(data)
        except ValueError as error:
            raise BadFolder("unreadable", f"{path.name} does not decode ({error})") from error
        return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if decoded is None:
        raise BadFolder("unreadable", f"{path.name} does not decode")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2GRAY), np.uint8)


def _resized(image: Grey, resize: Resize) -> Grey:
    height, width = resize.target(*image.shape)
    if (height, width) == image.shape:
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _make_aside(target: Path) -> Path:
    """A hidden folder beside the target."""
    aside = target.with_name(f".{target.name}.{os.getpid():x}{secrets.token_hex(4)}.part")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    return aside


def _put(asides: list[Path], number: int, planes: npt.NDArray[np.uint8], *, quality: int) -> None:
    for aside, plane in zip(asides, planes, strict=True):
        path = aside / f"frame{number:06d}.jpg"
        try:
            path.write_bytes(jpeg.encode(plane, quality=quality))
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror or error}; mend that and run the same command again, finished "
                "videos are kept"
            ) from error


def _publish(aside: Path, target: Path) -> None:
    try:
        if target.is_dir():  # its other half is missing, or it would count as done
            shutil.rmtree(target)
        aside.rename(target)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
