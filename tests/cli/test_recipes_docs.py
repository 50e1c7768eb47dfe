"""Command lines of the pages on recipes and references parse, and name what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
import pytest

from cli.main import root
from tests.commands import parse_command
from tests.conftest import ROOT
from trainer.config import load_recipe
from trainer.recipes.about import About
from trainer.recipes.files import recipe_names

PAGES = ("docs/from-the-references.md", "docs/recipes.md")
_SPAN = re.compile(r"`(vidprep [^`]+)`")
_LINE = re.compile(r"^(?:    |)(vidprep .*)$", re.MULTILINE)


def lines(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [re.sub(r"\s{2,}.*$", "", line) for line in _LINE.findall(text)]  # a remark may stand behind
    return list(dict.fromkeys([*_SPAN.findall(text), *blocks]))


def mention(line: str) -> bool:
    """A command that is only named, perhaps with options: `vidprep labels --stride --views`."""
    words = line.split()[1:]
    command: click.Command = root
    while words and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            return False
        command, words = found, words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    return all(word in options for word in words)


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in lines(page)])
def test_the_command_parses(page: str, line: str, tmp_path: Path) -> None:
    if mention(line):
        return
    try:
        command, values = parse_command(line)
    except click.MissingParameter:
        assert "…" in line, line
        return
    recipe = values.get("recipe")
    if command in ("train", "evaluate finetune", "evaluate retrieve", "recipes show") and recipe in recipe_names():
        changes = [text for text in values["overrides"] if "…" not in text]
        assert load_recipe(recipe, changes).name == recipe
    elif recipe not in (None, "NAME") and "." not in str(recipe):
        raise AssertionError(f"{page}: there is no recipe {recipe}")


def test_every_recipe_of_a_reference_is_named() -> None:
    """Recipes whose names the page of the references does not give, one by one or as a family."""
    text = (ROOT / PAGES[0]).read_text(encoding="utf-8")
    family = re.compile(r"`([\w-]+)-\{([\w,]+)\}`")
    named = {f"{head}-{tail}" for head, tails in family.findall(text) for tail in tails.split(",")}
    missing = [name for name in recipe_names() if name not in named and not re.search(rf"\b{name}\b", text)]
    assert [name for name in missing if not name.startswith(("demo-", "joint-"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_tables_have_equal_rows(page: str) -> None:
    width = None
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.split(r"(?<!\\)\|", line))
        assert width in (None, cells), f"{page}:{number} has {cells - 2} cells"
        width = cells


# Section of the specification that lists the options → heading of our page.
OPTIONS = {
    "pace": ("10", "Pace"),
    "statistics": ("11", "Statistics"),
    "rspnet": ("11", "RSPNet"),
    "cpd": ("11", "CPD"),
    "concepts": ("10", "Static and dynamic concepts"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", OPTIONS)
def test_every_flag_of_a_reference_is_mapped(name: str, research_data: Path) -> None:
    number, heading = OPTIONS[name]
    text = (research_data / "reference" / f"{name}.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)[int(number)]
    assert section.startswith(f"{number}. ")
    flags = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(re.findall(r"`([^`]+)`", section))))
    page = (ROOT / PAGES[0]).read_text(encoding="utf-8")
    ours = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    missing = sorted(flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", ours))
    assert flags and missing == []


@pytest.mark.parametrize("page", PAGES)
def test_keys_that_are_named_exist(page: str) -> None:
    """`data.crop`, `task.queue` and so on, `task` being one of our tasks."""
    from trainer import config
    from trainer.models import BACKBONES
    from trainer.tasks import TASKS

    known = {
        "data": set(config.DataConfig.model_fields),
        "data.jitter": set(config.JitterConfig.model_fields),
        "train": set(config.TrainConfig.model_fields),
        "optim": {key for kind in (config.Sgd, config.Adam, config.AdamW) for key in kind.model_fields},
        "schedule": {
            key
            for kind in (config.Constant, config.StepSchedule, config.Milestones, config.Cosine)
            for key in kind.model_fields
        },
        "task": {"name", *(key for task in TASKS.values() for key in task.Options.model_fields)},
        "backbone": {"name", *(key for build in BACKBONES.values() for key in inspect.signature(build).parameters)},
        "about": set(About.model_fields),
    }
    text = (ROOT / page).read_text(encoding="utf-8")
    spans = " ".join(re.findall(r"`([^`]+)`", text))
    named = re.findall(
        r"(?<![\w./-])(data\.jitter|data|train|optim|schedule|task|backbone|about)\.(?!(?:py|txt|pt)\b)(\w+)", spans
    )
    unknown = sorted({f"{part}.{key}" for part, key in named if key not in known[part]})
    assert named and unknown == []
