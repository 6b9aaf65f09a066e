"""``internvl35 train flash``: makes a Flash checkpoint of the embedded one.

The recipe is left to :mod:`internvl35.train.flash_recipe`. Paper section 2.3.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from internvl35.commands.options import read_sentences
from internvl35.commands.recipe import parse_changes, settle_recipe
from internvl35.commands.terminal import note, paused_collection, silence_libraries, spinner

_RECIPE = read_sentences("internvl35.train.flash_recipe", "FlashRecipe")

CHANGEABLE = ("save_every", "compressed_share", "num_judged")
"""Settings that a run may change under way; the others decide on weights or on what was drawn."""


def train_flash(
    output_dir: Annotated[
        Path, typer.Option(help="Run folder; a run that was stopped there goes on.")
    ] = Path("runs/flash"),
    model: Annotated[str | None, typer.Option("--model", "-m", help=_RECIPE["model"])] = None,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change any other setting of the recipe, for example consistency_steps=500; "
            "recipe.json in the run folder lists them.",
        ),
    ] = [],  # noqa: B006 - typer makes a new list every time
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default torch's own choice.", min=1)
    ] = None,
) -> None:
    """Make a Flash checkpoint of the embedded one, on pictures that it draws.

    Draws enlarged tasks, runs both stages of internvl35 vico on them, and settles the threshold. At
    the end the folder holds checkpoint/. Needs the extras train and tiny.
    """
    wanted = parse_changes(changes) | ({} if model is None else {"model": model})
    with spinner("starting"), paused_collection():
        silence_libraries()
        import torch
        from rich.console import Console
        from rich.progress import track

        from internvl35.train.flash_recipe import FlashRecipe, make_flash
    recipe = settle_recipe(output_dir, FlashRecipe(), wanted, CHANGEABLE)
    if threads is not None:
        torch.set_num_threads(threads)
    bar = iter(
        track(
            range(recipe.num_rows), "drawing", console=Console(stderr=True), transient=True,
            disable=not sys.stderr.isatty(),
        )
    )  # fmt: skip
    try:
        checkpoint = make_flash(output_dir, recipe, on_row=lambda: next(bar, None))
    except KeyboardInterrupt:
        note(f"stopped; the same command with --output-dir {output_dir} goes on")
        raise
    typer.echo(f"checkpoint: {checkpoint}")
