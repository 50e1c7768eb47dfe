"""dataset.json: what a data set consists of. One write of it puts new columns or labels in force."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shards.errors import DataError, UserError
from shards.storage import MissingError, Storage, open_storage
from shards.text import to_json

NAME = "dataset.json"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ColumnMeta:
    """One column.

    Attributes:
        kind: key of `shards.columns.COLUMNS`.
        folder: where its tars are, relative to the data set.
        producer: the command and version that made it.
        parameters: what its bytes depend on besides the source.
        sources: for a derived column, the columns it was made from with their digests (`shards.index.column_digest`).
    """

    kind: str
    folder: str
    producer: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Meta:
    """A data set.

    Attributes:
        name: what reports call it.
        columns: column name to where it is.
        size: frame size as asked for: `{"short_side": 128}` or `{"height": 128, "width": 171}`.
        classes: class names in the order of their indices.
        splits: names of the splits; their places are the bits of samples.bin.
        samples, shards: counts.
        samples_stem: name of the sample table's two files without extension.
        version: of the format.
    """

    name: str
    columns: Mapping[str, ColumnMeta]
    size: Mapping[str, int]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    samples: int
    shards: int
    samples_stem: str = "samples"
    version: int = VERSION


def write_meta(url: str | Storage, meta: Meta) -> None:
    """Publish dataset.json, replacing the one before in one step."""
    storage = open_storage(url) if isinstance(url, str) else url
    storage.put(NAME, (to_json(asdict(meta), indent=1) + "\n").encode(), replace=True)


def read_meta(url: str | Storage) -> Meta:
    """Read dataset.json.

    Raises:
        UserError: there is none at this place.
        DataError: it cannot be understood, or a newer version wrote it.
        StorageError: the place cannot be reached.
    """
    storage = open_storage(url) if isinstance(url, str) else url
    try:
        text = storage.read(NAME)
    except MissingError as error:
        raise UserError(_no_dataset(storage)) from error
    where = f"{storage.url}/{NAME}"
    try:
        data = json.loads(text)
        if data["version"] > VERSION:
            raise DataError(
                f"{where} has format version {data['version']}; this vidprep reads up to {VERSION}: "
                "pip install -U vidprep"
            )
        columns = {name: ColumnMeta(**column) for name, column in data.pop("columns").items()}
        classes, splits = tuple(data.pop("classes")), tuple(data.pop("splits"))
        return Meta(columns=columns, classes=classes, splits=splits, **data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where} cannot be understood ({error!r}); remove it and run the same vidprep pack command again, "
            "which writes it anew from the receipts (labels changed by vidprep annotate have to be given again)"
        ) from error


def _no_dataset(storage: Storage) -> str:
    if storage.exists("plan.jsonl"):
        return (
            f"{storage.url} is not finished: it has a plan but no {NAME}; run the same vidprep pack command again, "
            "it goes on where it stopped"
        )
    return (
        f"{storage.url} is not a packed data set: it has no {NAME}; give the DEST of vidprep pack, or make one with "
        f"vidprep pack MANIFEST {storage.url}"
    )
