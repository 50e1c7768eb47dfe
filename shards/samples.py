"""The sample table: labels, splits, groups and captions, beside the tars and replaced without touching them.

`samples.jsonl` is for people, `samples.bin` is compiled from it: fixed width, mapped into memory. docs/format.md has
the layout.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards import captions as texts
from shards.annotations import read_changes
from shards.caption_files import Listed, find_keys, read_caption_file
from shards.errors import DataError, UserError
from shards.index import HEADER_SIZE, keys_digest
from shards.keys import key_hash
from shards.mapped import checksum
from shards.meta import Meta, read_meta, write_meta
from shards.plan import NAME as PLAN
from shards.plan import read_plan
from shards.receipts import read_receipts
from shards.storage import MissingError, Storage, open_storage
from shards.text import to_json

VERSION = 1
MAX_SPLITS = 64
NO_GROUP = 0xFFFFFFFF
_SHOWN = 5  # names in messages
_MAGIC = b"VPSAMPL\0"

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("record_size", "<u4"),
        ("samples", "<u8"),
        ("groups", "<u4"),
        ("crc32", "<u4"),  # of everything after the header
        ("lines_size", "<u8"),  # of the .jsonl file
        ("lines_crc32", "<u4"),
        ("reserved0", "V4"),
        ("keys_digest", "<u8"),  # as in index.bin
        ("reserved1", "V8"),
    ]
)
RECORD = np.dtype(
    [
        ("label", "<i4"),  # index in dataset.json's classes, −1 for none
        ("group", "<u4"),  # numbered by first appearance, 0xFFFFFFFF for none
        ("splits", "<u8"),  # bit b: in split number b of dataset.json
        ("line", "<u8"),  # offset of the sample's line in the .jsonl file
        ("line_size", "<u4"),  # with its newline
        ("reserved", "V4"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """One line of samples.jsonl.

    Attributes:
        captions: texts, in the line's field `caption`: text where there is one, a list where there are several.
        video: key of the video that a segment is part of, None for whole videos.
    """

    key: str
    label: str | None = None
    splits: tuple[str, ...] = ()
    group: str | None = None
    captions: tuple[str, ...] = ()
    video: str | None = None

    @property
    def caption(self) -> str | None:
        """The first one."""
        return self.captions[0] if self.captions else None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> SampleRow:
        """From the fields of a line. Raises TypeError: one is unknown, or the key is missing."""
        rest = {name: value for name, value in fields.items() if name not in ("splits", "caption")}
        captions = texts.of(fields.get("caption"))
        return cls(splits=tuple(fields.get("splits") or ()), captions=captions, **rest)

    def tree(self) -> dict[str, Any]:
        """The fields of a line, which `of` reads; those without a value are left out."""
        values = {
            "key": self.key,
            "label": self.label,
            "splits": list(self.splits) or None,
            "group": self.group,
            "caption": texts.tree(self.captions),
            "video": self.video,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class AnnotateReport:
    """What `annotate` did.

    Attributes:
        form: of the file, where it is a file of captions in somebody else's form; else empty.
        lines: how many samples or videos it names; changed: samples it changed.
        without_sample: names of videos that have no sample (bad ones; in others' files any); unknown: some of them.
        captioned: samples that have a caption now, of how many.
        classes, splits, samples_stem: the tables in force now.
    """

    form: str
    lines: int
    changed: int
    without_sample: int
    unknown: tuple[str, ...]
    captioned: tuple[int, int]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    samples_stem: str


class SampleTable:
    """Rows of all samples in the order of the data set.

    Raises:
        DataError: the two files do not agree with each other or with dataset.json, e.g. samples.jsonl was edited
            by hand (found with `verify`, which reads all of it).
    """

    def __init__(self, storage: Storage, meta: Meta, *, verify: bool = True) -> None:
        self._where = f"{storage.url}/{meta.samples_stem}"
        self.split_names = meta.splits
        self._labels = (*meta.classes,)
        try:
            data = storage.map(f"{meta.samples_stem}.bin")
            self._lines = storage.map(f"{meta.samples_stem}.jsonl")
        except MissingError as error:
            raise DataError(f"{error}; {_REPAIR}") from error
        if data.size < HEADER_SIZE or data[:8].tobytes() != _MAGIC:
            raise DataError(f"{self._where}.bin is not a sample table ({data.size} bytes); {_REPAIR}")
        self.header = data[:HEADER_SIZE].view(HEADER)[0]
        if self.header["version"] > VERSION:
            raise DataError(
                f"{self._where}.bin has format version {self.header['version']}; this vidprep reads up to {VERSION}: "
                "pip install -U vidprep"
            )
        n = int(self.header["samples"])
        if (
            self.header["record_size"] != RECORD.itemsize
            or n != meta.samples
            or data.size != HEADER_SIZE + n * RECORD.itemsize
        ):
            raise DataError(
                f"{self._where}.bin has {data.size} bytes for {n} samples; {meta.samples} are expected; {_REPAIR}"
            )
        if verify and checksum(data, HEADER_SIZE) != self.header["crc32"]:
            raise DataError(f"{self._where}.bin does not agree with its own checksum; {_REPAIR}")
        size = int(self.header["lines_size"])
        if self._lines.size != size or (verify and checksum(self._lines) != self.header["lines_crc32"]):
            raise DataError(
                f"{self._where}.jsonl was changed after {meta.samples_stem}.bin was compiled from it "
                f"({self._lines.size} bytes, {size} expected); keep a copy of it as EDITED.jsonl, remove dataset.json, "
                f"run the same vidprep pack command again, then vidprep annotate {storage.url} EDITED.jsonl"
            )
        self.records: npt.NDArray[np.void] = data[HEADER_SIZE:].view(RECORD)

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """(N,) class indices, −1 for none."""
        return np.ascontiguousarray(self.records["label"])

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """(N,) group numbers, −1 for none."""
        groups = self.records["group"].astype(np.int64)
        return np.where(groups == NO_GROUP, -1, groups)

    def mask(self, split: str) -> npt.NDArray[np.bool_]:
        """(N,) which samples are in a split. Raises UserError for an unknown one."""
        if split not in self.split_names:
            known = ", ".join(self.split_names) or "none (vidprep annotate adds them)"
            raise UserError(f"there is no split {split!r}; splits of this data set: {known}")
        bit = np.uint64(1 << self.split_names.index(split))
        return np.asarray(self.records["splits"] & bit != 0)

    def row(self, i: int) -> SampleRow:
        record = self.records[i]
        start = int(record["line"])
        return self._parse(self._lines[start : start + int(record["line_size"])].tobytes(), i)

    def group(self, i: int) -> str | None:
        return self.row(i).group

    def captions(self, i: int) -> tuple[str, ...]:
        return self.row(i).captions

    @property
    def with_caption(self) -> int:
        """How many samples have a caption, from the bytes of the table alone."""
        return self._lines.tobytes().count(b', "caption": ')  # within a text the quotes would be escaped

    def captioned(self, first: int, count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Key and captions of samples in a row, without looking at the rest of their lines."""
        for i, line in enumerate(self._lines_of(first, count), first):
            try:
                fields = json.loads(line)
                yield fields["key"], texts.of(fields.get("caption"))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise self._damaged(i, error) from error

    def _lines_of(self, first: int, count: int) -> list[bytes]:
        if not count:
            return []
        records = self.records[first : first + count]
        start, end = int(records[0]["line"]), int(records[-1]["line"]) + int(records[-1]["line_size"])
        return self._lines[start:end].tobytes().split(b"\n")[:count]

    def rows(self) -> Iterator[SampleRow]:
        """All rows in order."""
        for i in range(len(self)):
            yield self.row(i)

    def _parse(self, line: bytes, i: int) -> SampleRow:
        try:
            return SampleRow.of(json.loads(line))
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(i, error) from error

    def _damaged(self, i: int, error: Exception) -> DataError:
        return DataError(f"{self._where}.jsonl:{i + 1} is not a sample's line ({error}); {_REPAIR}")


_REPAIR = "remove dataset.json and run the same vidprep pack command again, then vidprep annotate if it was used"


def build_samples(rows: Iterable[SampleRow], *, classes: Sequence[str], splits: Sequence[str]) -> tuple[bytes, bytes]:
    """Contents of samples.jsonl and samples.bin.

    Raises:
        UserError: a label is not in `classes`, or there are more than 64 splits.
    """
    if len(splits) > MAX_SPLITS:
        raise UserError(f"there are {len(splits)} splits; at most {MAX_SPLITS} are allowed")
    label_of = {name: i for i, name in enumerate(classes)}
    bit_of = {name: 1 << i for i, name in enumerate(splits)}
    groups: dict[str, int] = {}
    lines: list[bytes] = []
    records: list[tuple[Any, ...]] = []
    hashes: list[int] = []
    position = 0
    for row in rows:
        label = -1 if row.label is None else label_of.get(row.label, -2)
        if label == -2:
            raise UserError(f"label {row.label!r} of {row.key} is not one of the {len(classes)} classes")
        group = NO_GROUP if row.group is None else groups.setdefault(row.group, len(groups))
        line = _format(row)
        bits = sum(bit_of[name] for name in set(row.splits))
        records.append((label, group, bits, position, len(line), b""))
        lines.append(line)
        hashes.append(key_hash(row.key))
        position += len(line)
    text = b"".join(lines)
    body = np.array(records, RECORD).tobytes()
    header = np.zeros((), HEADER)
    values = {
        "magic": _MAGIC,
        "version": VERSION,
        "record_size": RECORD.itemsize,
        "samples": len(records),
        "groups": len(groups),
        "crc32": zlib.crc32(body),
        "lines_size": len(text),
        "lines_crc32": zlib.crc32(text),
        "keys_digest": keys_digest(np.array(hashes, np.uint64)),
    }
    for name, value in values.items():
        header[name] = value
    return text, header.tobytes() + body


def write_samples(
    storage: Storage,
    rows: Iterable[SampleRow],
    *,
    classes: Sequence[str],
    splits: Sequence[str],
    stem: str | None = None,
) -> str:
    """Write the table's two files; in force once dataset.json names their stem.

    Args:
        stem: None gives `samples-<digest>`, a name that no other table has.

    Returns:
        The stem.
    """
    text, table = build_samples(rows, classes=classes, splits=splits)
    if stem is None:
        tables = to_json([list(classes), list(splits)]).encode()
        stem = f"samples-{hashlib.sha256(text + tables).hexdigest()[:8]}"
    storage.put(f"{stem}.jsonl", text, replace=True)
    storage.put(f"{stem}.bin", table, replace=True)
    return stem


def annotate(url: str | Path, file: Path, *, classes: Sequence[str] | None = None, key: str = "{}") -> AnnotateReport:
    """Replace labels, splits, groups and captions of a packed data set by those of a file.

    Args:
        url: the data set.
        file: JSON lines or CSV, see `shards.annotations.read_changes`; keys are those of samples, or of videos where
            the data set holds segments. Or a file of captions as data sets publish them, see `shards.caption_files`,
            which may name videos that are not here. What the file does not mention stays.
        classes: the new class list. None: the present one, new names appended in alphabetical order.
        key: of others' files: what the key of a sample is, `{}` standing for the name in the file.

    Raises:
        UserError: the file cannot be understood, has keys the data set has not (of others' files: only such), or labels
            that are not in `classes`.
    """
    storage = open_storage(url)
    meta = read_meta(storage)
    present = list(SampleTable(storage, meta).rows())
    listed = read_caption_file(file)
    unknown: tuple[str, ...] = ()
    if listed is None:
        if key != "{}":
            raise UserError(
                f"--key {key} is for published files of captions; the lines of {file} have keys of their own"
            )
        changes = read_changes(file)
    else:
        changes, unknown = _by_key(listed, present, file, key, storage)
    used: set[str] = set()
    changed = 0
    rows: list[SampleRow] = []
    for row in present:
        named = row.key if row.key in changes else row.video
        change = changes.get(named) if named is not None else None
        new = replace(row, **change) if change else row
        if change is not None and named is not None:
            used.add(named)
        changed += new != row
        rows.append(new)
    without_sample = _check_unused(storage, meta, file, changes.keys() - used)
    labels = {row.label for row in rows if row.label is not None}
    table = _class_table(meta.classes, labels, classes, file)
    splits = tuple(sorted({name for row in rows for name in row.splits}))
    stem = write_samples(storage, rows, classes=table, splits=splits)
    write_meta(storage, replace(meta, classes=table, splits=splits, samples_stem=stem))
    return AnnotateReport(
        form="" if listed is None else listed.form,
        lines=len(changes) if listed is None else len(listed.changes),
        changed=changed,
        without_sample=without_sample + len(unknown),
        unknown=unknown[:_SHOWN],
        captioned=(sum(bool(texts.lines(row.captions)) for row in rows), len(rows)),
        classes=table,
        splits=splits,
        samples_stem=stem,
    )


def _by_key(
    listed: Listed, rows: Sequence[SampleRow], file: Path, template: str, storage: Storage
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The changes of another's file by our keys, and the names that fit no sample."""
    paths = {key: "" for row in rows for key in (row.video or row.key, row.key)}
    if storage.exists(PLAN):  # keys of names with blanks and the like end in digits; the plan has the names themselves
        planned = {str(entry.video["key"]): str(entry.video.get("path", "")) for entry in read_plan(storage)}
        paths |= {key: path for key, path in planned.items() if key in paths}
    found = find_keys(listed.changes, paths, template=template, where=str(file))
    if not found:
        names = ", ".join(list(listed.changes)[:_SHOWN]) or "none"
        raise UserError(
            f"{file} ({listed.form}) names no video of {storage.url}: it has {names}, the keys are such as "
            f"{rows[0].key}; --key 'prefix_{{}}' says how a key is made from a name"
        )
    changes: dict[str, dict[str, Any]] = {}
    for name, key in found.items():
        if key in changes:
            raise UserError(f"{file} names the sample {key} twice, the second time as {name!r}; remove one of the two")
        changes[key] = dict(listed.changes[name])
    return changes, tuple(name for name in listed.changes if name not in found)


def _check_unused(storage: Storage, meta: Meta, file: Path, unused: Iterable[str]) -> int:
    """How many of the keys are those of bad videos; any other is a UserError."""
    missing = set(unused)
    if not missing:
        return 0
    bad = {
        verdict.key
        for column in meta.columns.values()
        for receipt in read_receipts(storage, column.folder)
        for verdict in receipt.verdicts
    }
    unknown = sorted(missing - bad)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UserError(
            f"{file} has {len(unknown)} keys that {storage.url} has not: {', '.join(unknown[:5])}{more}; "
            f"the keys stand in {storage.url}/{meta.samples_stem}.jsonl"
        )
    return len(missing)


def _class_table(
    present: tuple[str, ...], labels: set[str], wanted: Sequence[str] | None, file: Path
) -> tuple[str, ...]:
    if wanted is None:
        return present + tuple(sorted(labels - set(present)))
    if len(set(wanted)) != len(wanted):
        raise UserError(f"the class list names a class twice: {', '.join(map(repr, wanted))}")
    if outside := sorted(labels - set(wanted)):
        raise UserError(
            f"after {file}, samples have labels that the class list of {len(wanted)} has not: "
            f"{', '.join(map(repr, outside[:5]))}; add them to the list or give those samples other labels"
        )
    return tuple(wanted)


def _format(row: SampleRow) -> bytes:
    return (to_json(row.tree()) + "\n").encode()
