"""Recipe files: finding them by name or path, and reading YAML strictly."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from shards.errors import UserError

Tree = dict[str, Any]
FOLDER = Path(__file__).parent


# libyaml's parser, where PyYAML was built with it, reads four times as fast.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RecipeLoader(_Loader):  # type: ignore[misc, valid-type, unused-ignore]
    """PyYAML's safe loader, but `1e-3` is a number (as in YAML 1.2) and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            mark = node.start_mark
            raise UserError(f"{mark.name}, line {mark.line + 1}: {', '.join(twice)} is given twice")
        return dict(super().construct_mapping(node, deep))


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_recipe(recipe: str | Path, *, folder: Path | None = None) -> Path:
    """File of a recipe given by name or path.

    Args:
        recipe: a shipped recipe's name, or a path (anything with a separator or a YAML suffix).
        folder: where relative paths start; the current folder by default.
    """
    path = Path(recipe)
    if len(path.parts) > 1 or path.suffix in (".yaml", ".yml"):
        path = (folder or Path.cwd()) / path
        if not path.is_file():
            raise UserError(f"there is no recipe file {path}; `vidprep recipes` lists the shipped ones")
        return path
    names = recipe_names()
    if str(recipe) not in names:
        near = difflib.get_close_matches(str(recipe), names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"there is no recipe {str(recipe)!r}: {hint}shipped are {', '.join(names)}; "
            "a recipe of your own is given as a path ending in .yaml"
        )
    return FOLDER / f"{recipe}.yaml"


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=RecipeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        kind = type(tree).__name__
        raise UserError(f"recipe {path} holds {kind}; a mapping with the keys task, backbone, train is needed")
    return tree


def merge(base: Tree, change: Tree) -> Tree:
    """`base` with the keys of `change` put over it, section by section.

    A section whose `name` changes (another task, backbone, optimiser, schedule) is replaced as a whole, since
    the options of the old one do not belong to the new one.
    """
    merged = dict(base)
    for key, value in change.items():
        new = value
        old = merged.get(key)
        if isinstance(new, dict) and isinstance(old, dict) and not _renames(old, new):
            new = merge(old, new)
        merged[key] = new
    return merged


def _renames(old: Tree, new: Tree) -> bool:
    return "name" in old and "name" in new and old["name"] != new["name"]


def parse_overrides(overrides: Iterable[str]) -> Tree:
    """`["optim.lr=0.1", "data.crop=[64, 64]"]` as a tree."""
    tree: Tree = {}
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise UserError(f"--set {text!r} is not of the form section.key=value; an example: --set optim.lr=0.01")
        try:
            branch: Tree = {path.split(".")[-1]: yaml.load(value, Loader=RecipeLoader)}
        except yaml.YAMLError as error:
            raise UserError(f"--set {text!r}: the value is not YAML: {error}") from error
        for part in reversed(path.split(".")[:-1]):
            branch = {part: branch}
        tree = merge(tree, branch)
    return tree
