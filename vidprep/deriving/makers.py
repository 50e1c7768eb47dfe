"""What makes a column, from options and back: the options of a column are frozen in the data set before work starts.

`plan-COLUMN.json` holds them, all defaults resolved, so that every part of the work, on any machine, does the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from shards import captions
from shards.errors import DataError, UserError
from shards.keys import is_key
from shards.storage import MissingError, Storage
from shards.table import TableGeometry
from shards.text import to_json
from vidprep.deriving.flow import FlowMaker
from vidprep.deriving.labels import LabelMaker
from vidprep.deriving.text import TextMaker
from vidprep.flow.params import TVL1Params

VERSION = 1
_ON_GPU = ("triton", "opencv-cuda")
_PRODUCERS = {"flow": "vidprep flow", "statistics": "vidprep labels", "text": "vidprep text"}
_ORDER = ("flow", "statistics", "text")  # labels are made from flow

AnyMaker = FlowMaker | LabelMaker | TextMaker


def flow_maker(
    *,
    method: str = "tvl1",
    backend: str = "auto",
    codec: str = "byte",
    bound: float = 20.0,
    source: str = "rgb",
    **options: Any,
) -> FlowMaker:
    """The maker of a flow column; arguments as for `vidprep.derive.add_flow`. Raises UserError: wrong options."""
    if method == "tvl1":
        options = {"backend": backend, **options}
    elif backend != "auto":
        raise UserError(f"backend {backend!r} is one of tvl1; method {method} has no backends")
    return FlowMaker(method=method, options=options, codec=codec, bound=bound, source=source)


def label_maker(
    *,
    crop: int = 112,
    window: int = 16,
    resize: tuple[int, int] | int | None = (128, 171),
    **options: Any,
) -> LabelMaker:
    """The maker of a statistics column; arguments as for `vidprep.derive.add_labels`. Raises UserError."""
    unknown = sorted(set(options) - {field.name for field in fields(LabelMaker)})
    if unknown:
        raise UserError(f"unknown label option {unknown[0]!r}; see vidprep labels --help")
    return LabelMaker(geometry=TableGeometry(window=window, resize=resize, crop=crop), **options)


def text_maker(**options: Any) -> TextMaker:
    """The maker of a text column. Raises UserError: it has no options."""
    if options:
        raise UserError(f"unknown text option {next(iter(options))!r}; a text column has none")
    return TextMaker()


@dataclass(frozen=True, kw_only=True)
class ColumnPlan:
    """A column that is to be made.

    Attributes:
        column: its name.
        make: "flow", "statistics" or "text".
        options: of `flow_maker` or `label_maker`, none left to a default; of a text column there are none.
    """

    column: str
    make: Literal["flow", "statistics", "text"]
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not is_key(self.column):
            raise UserError(
                f"{self.column!r} cannot name a column; allowed are letters, digits, - and _, such as flow-raft"
            )
        if self.column == captions.SOURCE:
            raise UserError(f"column {self.column!r} would be taken for the captions of the sample table; name it text")

    @classmethod
    def of(cls, column: str, maker: AnyMaker) -> ColumnPlan:
        options: dict[str, Any]
        if isinstance(maker, TextMaker):
            return cls(column=column, make="text", options={})
        if isinstance(maker, FlowMaker):
            given = dict(maker.options)
            if maker.method == "tvl1":
                backend = given.pop("backend")
                given = {"backend": backend, **_params(given)}
            options = {"method": maker.method, "codec": maker.codec, "bound": maker.bound, "source": maker.source}
            return cls(column=column, make="flow", options={**options, **given})
        options = {f.name: getattr(maker, f.name) for f in fields(maker) if f.name != "geometry"}
        geometry = maker.geometry
        resize = list(geometry.resize) if isinstance(geometry.resize, tuple) else geometry.resize
        options = {"crop": geometry.crop, "window": geometry.window, "resize": resize, **options}
        return cls(column=column, make="statistics", options=options)

    def maker(self) -> AnyMaker:
        """Raises UserError: the options are not those of this version."""
        options = dict(self.options)
        if self.make == "text":
            return text_maker(**options)
        if self.make == "flow":
            return flow_maker(**options)
        if isinstance(options.get("resize"), list):
            options["resize"] = tuple(options["resize"])
        return label_maker(**options)

    @property
    def producer(self) -> str:
        """The command that makes such a column."""
        return _PRODUCERS[self.make]

    @property
    def on_gpu(self) -> bool:
        """Whether one process feeds the device that computes it."""
        return self.options.get("backend") in _ON_GPU


def plan_name(column: str) -> str:
    return f"plan-{column}.json"


def write_column_plan(storage: Storage, plan: ColumnPlan) -> None:
    data = (to_json({"plan": VERSION, **asdict(plan)}, indent=1) + "\n").encode()
    name = plan_name(plan.column)
    if not storage.exists(name) or storage.read(name) != data:
        storage.put(name, data, replace=True)


def read_column_plan(storage: Storage, column: str) -> ColumnPlan:
    """Raises: UserError: there is none. DataError: it cannot be understood."""
    name = plan_name(column)
    try:
        found = json.loads(storage.read(name))
        if found.pop("plan") > VERSION:
            raise DataError(f"{storage.url}/{name} is of a newer version: pip install -U vidprep")
        return ColumnPlan(**found)
    except MissingError as error:
        raise UserError(
            f"column {column} of {storage.url} is not planned; vidprep plan MANIFEST {storage.url} --columns "
            f"rgb,flow,statistics,text plans columns before there are shards, vidprep flow {storage.url} --plan-only, "
            f"vidprep labels {storage.url} --plan-only or vidprep text {storage.url} --plan-only afterwards"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{storage.url}/{name} is not the plan of a column ({error}); remove it and run vidprep flow, labels "
            "or text with its options again"
        ) from error


def column_plans(storage: Storage) -> list[ColumnPlan]:
    """All planned columns, flow columns first, as labels are made from them."""
    names = [name for name in storage.list("") if name.startswith("plan-") and name.endswith(".json")]
    found = [read_column_plan(storage, name.removeprefix("plan-").removesuffix(".json")) for name in names]
    return sorted(found, key=lambda plan: (_ORDER.index(plan.make), plan.column))


def _params(given: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(given) - set(TVL1Params.names())):
        raise UserError(f"unknown flow parameter {unknown[0]!r}; known are {', '.join(TVL1Params.names())}")
    return dict(vars(TVL1Params(**given)))
