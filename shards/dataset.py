"""Opening and reading a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from shards import captions, jpeg
from shards.derived import missing_column
from shards.errors import DataError, UserError
from shards.flow import Codec, codec_of
from shards.keys import key_hash
from shards.meta import Meta, read_meta
from shards.reader import ColumnReader
from shards.samples import SampleRow, SampleTable
from shards.selection import select
from shards.spec import VideoFacts
from shards.storage import Storage, open_storage
from shards.storage.base import Span
from shards.table import ClipTable, decode_table
from shards.tarwriter import read_info
from shards.video import decode_frames

Frames = Sequence[int] | npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is known about a sample.

    Attributes:
        number: its place in the data set.
        key: its key; `video`: the key of the video it is, or is a segment of.
        label: class name, None without label; `label_index`: its place in the class list, −1 without.
        frames: how many; `fps`: frames a second, the mean where the rate varies.
        height, width: of the stored frames.
        splits, group, captions: as the sample table has them.
    """

    number: int
    key: str
    video: str
    label: str | None
    label_index: int
    frames: int
    fps: float
    height: int
    width: int
    splits: tuple[str, ...]
    group: str | None
    captions: tuple[str, ...]
    _info: Callable[[], dict[str, Any]] = field(repr=False, compare=False)

    @property
    def caption(self) -> str | None:
        """The first one, None without."""
        return self.captions[0] if self.captions else None

    @cached_property
    def info(self) -> dict[str, Any]:
        """KEY.json: where the video came from and what it was (read when first asked for)."""
        return self._info()


def open_dataset(
    url: str | Path, *, columns: Sequence[str] = ("rgb",), storage_options: Mapping[str, object] | None = None
) -> Dataset:
    """Open a packed data set; maps its tables, so size costs neither time nor memory.

    Args:
        url: the DEST of `vidprep pack`: a path or URL.
        columns: those that will be read.
        storage_options: of object storage, such as `{"endpoint": …, "cache": …}`; docs/object-storage.md.

    Raises:
        UserError: there is no finished data set, or it has no such column.
        DataError: its files do not agree with each other.
        StorageError: the place cannot be reached.
    """
    storage = open_storage(url, storage_options)
    return Dataset(storage, read_meta(storage), columns=columns)


class Dataset:
    """A data set, open for reading. Safe for threads; pickles as its address and what dataset.json said when it was
    opened, so that a worker process sees the same columns and labels.

    Attributes:
        url: absolute path.
        meta: contents of dataset.json.
        table: the sample table.
    """

    def __init__(self, storage: Storage, meta: Meta, *, columns: Sequence[str] = ("rgb",), verify: bool = True) -> None:
        self.url, self.meta = storage.url, meta
        self.storage = storage
        self.table = SampleTable(storage, meta, verify=verify)
        self._columns: dict[str, ColumnReader] = {}
        for name in columns:
            if name not in meta.columns:
                raise UserError(missing_column(self.url, meta, name))
            self._columns[name] = ColumnReader(storage, name, meta.columns[name], meta)
            if self._columns[name].keys_digest != self.table.header["keys_digest"]:
                raise DataError(
                    f"{self.url}/{meta.columns[name].folder}/index.bin and {meta.samples_stem}.bin are not of the same "
                    f"samples; run the same {meta.columns[name].producer} command again"
                )
        if not columns:
            raise UserError(f"name at least one column; {self.url} has: {', '.join(meta.columns)}")
        self._main = self._columns[columns[0]]
        self._planes = self._main.kind.planes

    def with_columns(self, columns: Sequence[str]) -> Dataset:
        """This data set, as it was when it was opened, with these columns open. Raises as `open_dataset`."""
        if tuple(columns) == tuple(self._columns):
            return self
        return Dataset(self.storage, self.meta, columns=columns, verify=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.storage, self.meta, tuple(self._columns))

    def __len__(self) -> int:
        return self.meta.samples

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the open columns, the main one first."""
        return tuple(self._columns)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.meta.classes

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of all splits."""
        return self.meta.splits

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """(N,) class indices, −1 for none."""
        return self.table.labels

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """(N,) group numbers, −1 for none."""
        return self.table.groups

    @property
    def frame_counts(self) -> npt.NDArray[np.int64]:
        """(N,) frames of every sample in the first column; of a flow column its fields."""
        return self._main.samples["frames"].astype(np.int64) // self._planes

    def frames_of(self, samples: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """(n,) `frame_counts` of some samples, without looking at the others."""
        return np.asarray(self._main.samples[samples]["frames"].astype(np.int64) // self._planes)

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """(N,): False where a sample failed in one of the open columns."""
        return np.asarray(np.logical_and.reduce([reader.valid for reader in self._columns.values()]))

    @property
    def records(self) -> npt.NDArray[np.void]:
        """(N,) records of the first column's index.bin (`shards.index.SAMPLE`)."""
        return self._main.samples

    def __getitem__(self, i: int) -> Sample:
        """Sample number `i`; negative numbers count from the end. Raises IndexError."""
        i = self._number(i)
        row, record = self._row(i), self._main.samples[i]
        label = int(self.table.records[i]["label"])
        return Sample(
            number=i,
            key=row.key,
            video=row.video or row.key,
            label=None if label < 0 else self.classes[label],
            label_index=label,
            frames=int(record["frames"]) // self._planes,
            fps=float(record["fps"]),
            height=int(record["height"]),
            width=int(record["width"]),
            splits=row.splits,
            group=row.group,
            captions=row.captions,
            _info=_Info(self, i),
        )

    def key(self, i: int) -> str:
        """Key of sample number `i`."""
        return self._row(self._number(i)).key

    def number(self, key: str) -> int:
        """Number of the sample with this key. Raises UserError where there is none."""
        wanted = np.uint64(key_hash(key))
        hashes, order = self._by_hash
        at = int(np.searchsorted(hashes, wanted))
        while at < len(order) and hashes[at] == wanted:
            i = int(order[at])
            if self.table.row(i).key == key:
                return i
            at += 1
        raise UserError(f"{self.url} has no sample {key!r}; the keys stand in {self.meta.samples_stem}.jsonl")

    def by_key(self, key: str) -> Sample:
        """The sample with this key. Raises UserError where there is none."""
        return self[self.number(key)]

    def facts(self, i: int) -> VideoFacts:
        """What clip plans depend on."""
        i = self._number(i)
        record = self._main.samples[i]
        return VideoFacts(
            frames=int(record["frames"]) // self._planes,
            height=int(record["height"]),
            width=int(record["width"]),
            times_us=self._main.times_us(i)[:: self._planes],
        )

    def jpegs(self, i: int, wanted: Frames, *, column: str | None = None) -> list[memoryview]:
        """Encoded frames, verified; reads only their bytes, each once.

        Args:
            wanted: (T,) frame numbers from 0, in any order, repeats allowed; of a flow column numbers of planes.

        Raises:
            IndexError: the sample or a frame does not exist.
            DataError: stored bytes are damaged; names shard, key and repair command.
        """
        found = self._images(column).read(self._number(i), wanted)
        return [found[int(number)] for number in wanted]

    def frames(
        self, i: int, wanted: Frames, *, column: str | None = None, out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decoded frames of an RGB column, (T,H,W,3) uint8; arguments and errors as in `jpegs`. Each is decoded once.

        Args:
            out: C-contiguous array of the result's shape to decode into; saves the allocation.
        """
        i = self._number(i)
        reader = self._reader(column)
        if not reader.kind.framed or reader.kind.planes != 1:
            raise UserError(f"column {reader.name} holds no RGB frames; read it with .flow, .clip_table or .captions")
        record = reader.samples[i]
        found = reader.read(i, self._records(reader, i, wanted))
        shape = (len(wanted), int(record["height"]), int(record["width"]), 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape}; it must be a C-contiguous array of {shape}")
        if reader.kind.encoded:
            try:
                decode_frames(reader.coding(i), found, [int(number) for number in wanted], out)
            except ValueError as error:
                raise reader.damaged(int(record["shard"]), int(record["place"]), str(error)) from error
            return out
        place_of: dict[int, int] = {}
        for place, number in enumerate(map(int, wanted)):
            if number in place_of:
                out[place] = out[place_of[number]]
                continue
            place_of[number] = place
            try:
                jpeg.decode(found[number], out=out[place])
            except ValueError as error:
                what = f"frame {number} is not the JPEG it should be ({error})"
                raise reader.damaged(int(record["shard"]), int(record["place"]), what) from error
        return out

    def record(self, i: int, column: str) -> Any:
        """A sample's record in the index.bin of an open column (`shards.index.SAMPLE`)."""
        return self._reader(column).samples[self._number(i)]

    def has(self, i: int, column: str) -> bool:
        """Whether a sample has something in an open column, or failed there."""
        return bool(self._reader(column).valid[self._number(i)])

    def times_us(self, i: int, column: str) -> npt.NDArray[np.int64]:
        """(frames,) microseconds since the first frame, of every image in a column."""
        return self._reader(column).times_us(self._number(i))

    def spans(self, i: int, wanted: Frames, *, column: str | None = None) -> tuple[int, list[Span]]:
        """Number of a sample's shard, and (offset, size) in its tar of what reading these images (of a flow column:
        planes; of a table: number 0) reads, ascending."""
        reader, i = self._reader(column), self._number(i)
        return reader.spans(i, self._records(reader, i, wanted))

    def tar_sizes(self, column: str) -> npt.NDArray[np.int64]:
        """(S,) bytes of every shard's tar in an open column."""
        return self._reader(column).shards["tar_size"].astype(np.int64)

    @property
    def shard_firsts(self) -> npt.NDArray[np.int64]:
        """(S,) number of every shard's first sample."""
        return self._main.shards["first"].astype(np.int64)

    def shard_span(self, shard: int) -> tuple[int, int]:
        """Number of a shard's first sample, and how many it has."""
        record = self._main.shards[shard]
        return int(record["first"]), int(record["samples"])

    def codec(self, i: int, *, column: str = "flow") -> Codec:
        """How the planes of sample `i` in a flow column stand for pixels."""
        record = self._flow_reader(column).samples[self._number(i)]
        return codec_of(self.meta.columns[column].parameters, int(record["height"]), int(record["width"]))

    def grey(self, i: int, wanted: Frames, *, column: str | None = None) -> npt.NDArray[np.uint8]:
        """Luma of RGB frames, (T,H,W) uint8: as their JPEGs store it, of videos that of the RGB frames. Arguments and
        errors as in `jpegs`."""
        i = self._number(i)
        reader = self._reader(column)
        record = reader.samples[i]
        out = np.empty((len(wanted), int(record["height"]), int(record["width"])), np.uint8)
        if reader.kind.encoded:
            for image, grey in zip(self.frames(i, wanted, column=column), out, strict=True):
                cv2.cvtColor(image, cv2.COLOR_RGB2GRAY, dst=grey)
            return out
        for place, (number, data) in enumerate(zip(wanted, self.jpegs(i, wanted, column=column), strict=True)):
            try:
                jpeg.decode(data, out=out[place])
            except ValueError as error:
                what = f"frame {number} is not the JPEG it should be ({error})"
                raise reader.damaged(int(record["shard"]), int(record["place"]), what) from error
        return out

    def flow_planes(self, i: int, wanted: Frames, *, column: str = "flow") -> npt.NDArray[Any]:
        """Stored planes of flow fields, (T,2,H,W) uint8 (codec lossless: uint16); errors as `jpegs`.

        Args:
            wanted: (T,) numbers of fields; field t leads from frame t to frame t + 1. In any order, repeats allowed.
        """
        i = self._number(i)
        reader, codec = self._flow_reader(column), self.codec(i, column=column)
        record = reader.samples[i]
        fields = [int(t) for t in wanted]
        found = reader.read(i, [2 * t + c for t in fields for c in (0, 1)])
        planes: dict[int, npt.NDArray[Any]] = {}
        for number, data in found.items():
            try:
                planes[number] = codec.decode(data)
            except (ValueError, DataError) as error:
                what = f"plane {number} is not the image it should be ({error})"
                raise reader.damaged(int(record["shard"]), int(record["place"]), what) from error
        if not fields:
            return np.empty((0, 2, int(record["height"]), int(record["width"])), np.uint8)
        return np.stack([np.stack([planes[2 * t], planes[2 * t + 1]]) for t in fields])

    def flow(self, i: int, wanted: Frames, *, column: str = "flow") -> npt.NDArray[np.float32]:
        """Flow fields in pixels of the stored frames, (T,H,W,2) float32: u to the right, v down. As `flow_planes`."""
        return self.codec(i, column=column).restore(self.flow_planes(i, wanted, column=column))

    def clip_table(self, i: int, *, column: str = "statistics") -> ClipTable:
        """The clip table of a sample in a table column. Raises as `jpegs`."""
        i = self._number(i)
        reader = self._reader(column)
        if not reader.kind.table:
            held, how = ("texts", ".captions") if reader.kind.text else ("frames", ".frames or .flow")
            raise UserError(f"column {column} holds {held}, not tables; read it with {how}")
        data = reader.payload(i)
        try:
            return decode_table(data)
        except ValueError as error:
            record = reader.samples[i]
            what = f"its table cannot be read ({error})"
            raise reader.damaged(int(record["shard"]), int(record["place"]), what) from error

    def captions(self, samples: Sequence[int], *, column: str | None = None) -> list[tuple[str, ...]]:
        """Captions of some samples, each on one line as `shards.captions.lines` gives them; empty without any.

        Args:
            samples: (n,) numbers in any order.
            column: a text column, whose payloads are read shard by shard, each verified; None: the sample table.

        Raises:
            UserError: the column is not open, or holds no text.
            DataError: stored bytes are damaged.
        """
        numbers = [self._number(int(i)) for i in samples]
        if column is None:
            return [captions.lines(self.table.captions(i)) for i in numbers]
        reader = self._reader(column)
        if not reader.kind.text:
            what = f"column {column} is of kind {self.meta.columns[column].kind} and holds no captions"
            raise UserError(f"{what}; vidprep text {self.url} makes a column that does")
        payloads = reader.payloads(numbers)
        found = []
        for i in numbers:
            try:
                found.append(captions.decode(payloads[i]) if i in payloads else ())
            except ValueError as error:
                record = reader.samples[i]
                what = f"its text is not UTF-8 ({error})"
                raise reader.damaged(int(record["shard"]), int(record["place"]), what) from error
        return found

    def select(
        self, *, split: str | None = None, keep: float | str | Path | None = None, seed: int = 0
    ) -> npt.NDArray[np.int64]:
        """(n,) ascending sample numbers of a split, thinned out by `keep`; see `shards.selection.select`.

        Samples that failed in one of the open columns are left out.
        """
        return select(self, split=split, keep=keep, seed=seed)

    @cached_property
    def _by_hash(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        hashes = np.ascontiguousarray(self._main.samples["key_hash"])
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def _row(self, i: int) -> SampleRow:
        row = self.table.row(i)
        if key_hash(row.key) != self._main.samples[i]["key_hash"]:
            raise DataError(
                f"{self.url}/{self.meta.samples_stem}.jsonl:{i + 1} is of {row.key}, not of {self._main.key(i)}; "
                "run the same vidprep pack command again"
            )
        return row

    def _reader(self, column: str | None) -> ColumnReader:
        if column is None:
            return self._main
        if column not in self._columns:
            raise UserError(
                f"column {column!r} is not open; open_dataset(url, columns=…) has: {', '.join(self._columns)}"
            )
        return self._columns[column]

    def _images(self, column: str | None) -> ColumnReader:
        reader = self._reader(column)
        if reader.kind.encoded:
            raise UserError(f"column {reader.name} holds encoded videos, no images; read it with .frames")
        return reader

    def _records(self, reader: ColumnReader, i: int, wanted: Frames) -> Frames:
        """Numbers of the records in the index that have to be read for some frames. Raises IndexError."""
        if not reader.kind.encoded:
            return wanted
        count = int(reader.samples[i]["frames"])
        outside = [int(number) for number in wanted if not 0 <= number < count]
        # Reading refuses a number outside the video, and says so.
        return outside or (reader.coding(i).needed(int(number) for number in wanted) if len(wanted) else [])

    def _flow_reader(self, column: str) -> ColumnReader:
        reader = self._reader(column)
        if reader.kind.planes != 2:
            raise UserError(f"column {column} holds no flow; read it with .frames or .clip_table")
        return reader

    def _number(self, i: int) -> int:
        n = self.meta.samples
        if not -n <= i < n:
            raise IndexError(f"sample {i} does not exist; {self.url} has {n}")
        return int(i) if i >= 0 else int(i) + n


@dataclass(frozen=True)
class _Info:
    """Reads KEY.json of a sample when called; an object, so that samples can be pickled."""

    dataset: Dataset
    number: int

    def __call__(self) -> dict[str, Any]:
        reader = self.dataset._main
        record = reader.samples[self.number]
        try:
            return read_info(reader.info(self.number))
        except ValueError as error:
            what = f"its description is not JSON ({error})"
            raise reader.damaged(int(record["shard"]), int(record["place"]), what) from error


def _reopen(storage: Storage, meta: Meta, columns: tuple[str, ...]) -> Dataset:
    # The process that pickled it verified the whole sample table already.
    return Dataset(storage, meta, columns=columns, verify=False)
