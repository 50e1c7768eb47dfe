"""Validated sections whose errors name the wrong key, the nearest right one, and what is allowed. Torch-free."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from shards.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def validate(model: type[Model], values: dict[str, Any], *, where: str, also: tuple[str, ...] = ()) -> Model:
    """An instance of `model`, or a UserError that names every wrong key and value and what is allowed.

    Args:
        also: keys that may stand beside those of `model`, and that somebody else has taken out of `values`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, e["loc"], e["type"], e["msg"], e["input"], also) for e in error.errors()]
    raise UserError("\n".join([f"{where}:", *(f"  {line}" for line in lines), "see: vidprep recipes"]))


def _explain(
    model: type[BaseModel], loc: tuple[int | str, ...], kind: str, message: str, value: Any, also: tuple[str, ...]
) -> str:
    tags = ("optim", "schedule")  # pydantic puts the union's tag into the path there
    shown = ".".join(str(part) for i, part in enumerate(loc) if not (i == 1 and loc[0] in tags))
    if kind == "extra_forbidden":
        allowed = sorted({*_keys_at(model, loc), *(also if len(loc) == 1 else ())})
        near = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"unknown key {shown}: {hint}allowed: {', '.join(allowed)}"
    if kind == "missing":
        return f"{shown} is missing"
    text = message.removeprefix("Value error, ")
    return f"{shown or 'recipe'}: {text}" + ("" if isinstance(value, dict) else f" (got {value!r})")


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys allowed beside the one at `loc`."""
    models = [model]
    for part in loc[:-1]:
        tagged = [m for m in models if "name" in m.model_fields and m.model_fields["name"].default == part]
        models = tagged or [
            inner
            for m in models
            if part in m.model_fields
            for inner in _models_in(m.model_fields[str(part)].annotation)
        ]
    return sorted({name for m in models for name in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [m for inner in get_args(annotation) for m in _models_in(inner)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
