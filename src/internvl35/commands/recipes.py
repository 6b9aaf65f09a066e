"""``internvl35 recipes``: the released training stages, and what one of them sets.

The recipes are left to :mod:`internvl35.train.recipes`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from internvl35.train.arguments import flatten_settings
from internvl35.train.recipes import Recipe, find_recipe, list_recipes


def show_recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Show all settings of this one, such as 8B-sft."),
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the recipes of training, or show all settings of one.

    A recipe is used as internvl35 sft --recipe 8B-sft --dataset meta.json; flags go before it.
    """
    recipes = list_recipes() if name is None else [find_recipe(name)]
    if is_json:
        rows = [describe_recipe(recipe) for recipe in recipes]
        typer.echo(json.dumps(rows if name is None else rows[0], indent=2))
    elif name is None:
        print_table(recipes)
    else:
        print_recipe(recipes[0])


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """Put a recipe into a JSON-ready object.

    Args:
        recipe: which.

    Returns:
        Its facts, and under ``settings`` every setting of a run.
    """
    return {
        "name": recipe.name,
        "command": recipe.command,
        "stage": recipe.stage,
        "description": recipe.sentence,
        "num_tokens": recipe.num_tokens,
        "settings": flatten_settings(recipe.build()),
    }


def print_table(recipes: list[Recipe]) -> None:
    """Print one line a recipe.

    Args:
        recipes: which.
    """
    typer.echo(
        f"{'recipe':<33}{'command':<8}{'rate':>7}{'steps':>7}{'batch':>6}{'drop path':>10}"
        f"{'tokens':>8}"
    )
    for recipe in recipes:
        settings = recipe.build()
        rates, steps = settings.optimization, settings.optimization.max_steps
        packs = rates.global_batch_size or rates.gradient_accumulation_steps
        tokens = "-" if recipe.num_tokens is None else f"{recipe.num_tokens / 1e9:.0f}B"
        typer.echo(
            f"{recipe.name:<33}{recipe.command:<8}{rates.learning_rate:>7.0e}"
            f"{'-' if steps < 0 else steps:>7}{packs or '-':>6}{rates.drop_path_rate:>10}"
            f"{tokens:>8}"
        )
    typer.echo("\nbatch: packs a step over all processes; of lora, rows a step of one process")


def print_recipe(recipe: Recipe) -> None:
    """Print every setting of a recipe, marked where it is no default.

    Args:
        recipe: which.
    """
    typer.echo(f"{recipe.name}, for internvl35 {recipe.command} --recipe {recipe.name}")
    typer.echo(f"{recipe.sentence}\n")
    for setting, value in flatten_settings(recipe.build()).items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else json.dumps(value)
        mark = "*" if setting in recipe.settings else " "
        typer.echo(f"{mark} {setting:<30} {shown}")
    typer.echo("\n* set by the recipe; the others are the defaults")
