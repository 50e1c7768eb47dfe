"""Whether a data set has what a clip spec asks for."""

from __future__ import annotations

from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.derived import missing_column
from shards.errors import UserError
from shards.spec import ClipSpec
from shards.table import TableGeometry


def check_columns(dataset: Dataset, spec: ClipSpec) -> None:
    """Refuse a spec whose columns are not there, hold something else, or whose table is of other clips.

    Raises:
        UserError: says what is there and names the command that makes what is needed.
    """
    columns = dataset.meta.columns
    for name in spec.columns:
        if name not in columns:
            make = _command(dataset, spec) if name == spec.table else None
            hint = f"; make it with: {make}" if make else ""
            message = f"{dataset.url} has no column {name!r}; it has: {', '.join(columns)}{hint}"
            raise UserError(message if make else missing_column(dataset.url, dataset.meta, name))
    wanted = {"clips": (spec.column, True, (1, 2)), "flow": (spec.flow, True, (2,)), "table": (spec.table, False, (1,))}
    for use, (asked, framed, planes) in wanted.items():
        if asked is None:
            continue
        kind = COLUMNS[columns[asked].kind]
        if kind.framed != framed or kind.planes not in planes or kind.text:
            raise UserError(
                f"column {asked!r} of {dataset.url} is of kind {columns[asked].kind} and cannot be read as {use}; the "
                f"columns are: {', '.join(f'{name} ({column.kind})' for name, column in columns.items())}"
            )
    if spec.area is not None and COLUMNS[columns[spec.column].kind].planes == 2:
        raise UserError(
            f"column {spec.column!r} is flow, whose vectors belong to frames of one scale: set data.area=null"
        )
    if spec.table is not None:
        _check_table(dataset, spec, spec.table)


def _check_table(dataset: Dataset, spec: ClipSpec, name: str) -> None:
    wanted, found = _geometry(spec), TableGeometry.of(dataset.meta.columns[name].parameters)
    if wanted == found:
        return
    others = [
        other
        for other, column in dataset.meta.columns.items()
        if COLUMNS[column.kind].table and TableGeometry.of(column.parameters) == wanted
    ]
    if others:
        help_ = f"--set task.table={others[0]} names one that fits"
    else:
        help_ = f"make one with: {_command(dataset, spec)} and use it with --set task.table={_free_name(dataset, spec)}"
    raise UserError(
        f"table {name!r} of {dataset.url} is of clips made with {found.flags()}, the recipe's are made with "
        f"{wanted.flags()} (data.crop, data.frames, data.resize); {help_}"
    )


def _geometry(spec: ClipSpec) -> TableGeometry:
    height, _ = spec.crop_size or (0, 0)
    return TableGeometry(window=spec.frames, resize=spec.resize, crop=height)


def _free_name(dataset: Dataset, spec: ClipSpec) -> str:
    name = spec.table or "statistics"
    return name if name not in dataset.meta.columns else f"{name}-{_geometry(spec).crop}x{spec.frames}"


def _command(dataset: Dataset, spec: ClipSpec) -> str:
    return f"vidprep labels {dataset.url} {_geometry(spec).flags()} --column {_free_name(dataset, spec)}"
