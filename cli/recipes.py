"""`vidprep recipes`: list, show and compare recipes."""

from __future__ import annotations

from typing import Any

import click

_SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Show it with this value changed; may be repeated."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group(invoke_without_command=True)
@_JSON
@click.pass_context
def recipes(context: click.Context, as_json: bool) -> None:
    """List recipes, show one, or compare two.

    \b
    vidprep recipes                            a table of all
    vidprep recipes show pace-c3d              one, with its commands, memory and published figures
    vidprep recipes diff pace-c3d pace-s3dg    what differs

    A recipe is a name of the list or a YAML file of your own.
    """
    if context.invoked_subcommand is not None:
        return
    from trainer.config import load_recipe
    from trainer.recipes.facts import facts
    from trainer.recipes.files import recipe_names
    from trainer.recipes.shown import table

    found = [facts(load_recipe(name)) for name in recipe_names()]
    click.echo(_json(found) if as_json else table(found))


@recipes.command()
@click.argument("recipe")
@_SET
@_JSON
@click.option("--source", is_flag=True, help="The file itself, with the source of each value.")
@click.option("--memory", is_flag=True, help="Estimate the GPU memory of a step, from shapes; needs no GPU.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="With --memory: videos a step, of all GPUs.")
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="With --memory: GPUs that share the batch.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="With --memory: training videos (task cpd).")
def show(
    recipe: str,
    overrides: tuple[str, ...],
    as_json: bool,
    source: bool,
    memory: bool,
    batch: int | None,
    gpus: int | None,
    samples: int | None,
) -> None:
    """Show a recipe: what it is, and all its values.

    The output is a recipe file itself: what is told stands in comments.

    \b
    vidprep recipes show rspnet-c3d > mine.yaml
    vidprep recipes show rspnet-c3d --memory --batch 64 --gpus 1
    """
    from shards.errors import UserError
    from trainer.config import load_recipe
    from trainer.recipes.facts import facts
    from trainer.recipes.files import find_recipe
    from trainer.recipes.shown import head

    if not memory and (batch, gpus, samples) != (None, None, None):
        raise UserError(
            "--batch, --gpus and --samples go with --memory: vidprep recipes show RECIPE --memory --batch 32"
        )
    path, resolved = find_recipe(recipe), load_recipe(recipe, overrides)
    if source:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    estimate: dict[str, Any] = {}
    if memory:
        from trainer.engine.memory import estimate_memory

        estimate = {"memory": estimate_memory(resolved, batch=batch, gpus=gpus, samples=samples)}
    if as_json:
        told = {**facts(resolved), "file": str(path), "recipe": resolved.tree()}
        click.echo(_json({**told, **{key: value.tree() for key, value in estimate.items()}}))
        return
    lines = head(resolved, file=path, changed=overrides, memory=not memory).splitlines()
    lines += [line for value in estimate.values() for line in ["", *value.lines()]]
    click.echo("\n".join(f"# {line}".rstrip() for line in lines) + "\n\n" + resolved.yaml(), nl=False)


@recipes.command()
@click.argument("first")
@click.argument("second")
@_SET
def diff(first: str, second: str, overrides: tuple[str, ...]) -> None:
    """Show what differs between two recipes: their values, and what is told of them."""
    from trainer.config import load_recipe
    from trainer.recipes.shown import differences

    click.echo(differences(*(load_recipe(name, overrides) for name in (first, second))) or "no difference")


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1, ensure_ascii=False)
