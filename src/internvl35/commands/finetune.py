"""``internvl35 sft`` and ``internvl35 pt``: fine-tuning and pre-training on data sets of one's own.

What other commands that train on data sets share with them stands here too. Flags are read by
:mod:`internvl35.commands.flags`, training is left to :mod:`internvl35.train.finetune`. Paper
section 2.2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from internvl35.commands.flags import GivenFlags, spread_flags
from internvl35.commands.launch import is_main_process, launch_processes
from internvl35.commands.terminal import paused_collection, silence_libraries, spinner
from internvl35.errors import ConfigError
from internvl35.train.arguments import build_settings
from internvl35.train.settings import FinetuneSettings
from internvl35.train.vico_settings import VicoRunSettings

if TYPE_CHECKING:
    from internvl35.train.finetune import FinetuneResult

Command = Literal["sft", "pt", "vico"]

PRETRAINING: Mapping[str, Any] = {"loss_scale": "all"}
"""Where ``pt`` differs from ``sft``: every token of every row carries loss."""

EXCLUSIVE = (("gradient_accumulation_steps", "global_batch_size"), ("fsdp", "deepspeed"))
"""Flags that say the same in other ways: one that is given takes the place of all of them."""

RecipeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Settings of a released training stage, such as 8B-sft; internvl35 recipes lists "
        "them. Flags that are given go before it.",
    ),
]


@spread_flags(FinetuneSettings)
def sft(flags: GivenFlags, recipe: RecipeOption = None) -> None:
    """Fine-tune a checkpoint on conversations.

    Rows hold messages, pictures and videos; internvl35 sft --model tiny --dataset mine.jsonl is
    enough. With NPROC_PER_NODE=4 in the environment four processes train together; NNODES,
    NODE_RANK, MASTER_ADDR and MASTER_PORT bring several machines together.
    """
    run_finetuning("sft", flags, recipe)


@spread_flags(FinetuneSettings)
def pt(flags: GivenFlags, recipe: RecipeOption = None) -> None:
    """Train a checkpoint on plain text and captions.

    Every token carries loss (--loss_scale all): rows hold one assistant message, in which pictures
    may be marked. Everything else is as in sft.
    """
    run_finetuning("pt", flags, recipe)


def choose_settings(
    command: Command, given: Mapping[str, Any], recipe: str | None
) -> FinetuneSettings:
    """Decide on the settings of a run.

    Args:
        command: its defaults come last.
        given: what the user gave, which comes first.
        recipe: name of a recipe, which comes between.

    Returns:
        The settings.

    Raises:
        ConfigError: if there is no such recipe, or a value is out of range.
    """
    values: dict[str, Any] = dict(PRETRAINING) if command == "pt" else {}
    if recipe is not None:
        from internvl35.train.recipes import find_recipe

        values |= find_recipe(recipe).settings
    values |= _resumed(command, given)  # a recipe that the run began with is among them
    for names in EXCLUSIVE:
        if any(given.get(name) for name in names):
            for name in names:
                values.pop(name, None)
    base = VicoRunSettings() if command == "vico" else FinetuneSettings()
    return build_settings(values | dict(given), base)


def _resumed(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the run that is gone on with, so that none has to be given again."""
    place = given.get("resume_from_checkpoint")
    if place is None or given.get("resume_only_model"):
        return {}
    from internvl35.train.checkpoints import find_checkpoint
    from internvl35.train.run_folder import FACTS, read_arguments

    arguments = read_arguments(find_checkpoint(Path(place).expanduser()))
    began = arguments.get("command")
    if (began == "vico") != (command == "vico"):
        raise ConfigError(
            f"the run of {place} began with internvl35 {began}; go on with that command, or pass "
            "resume_only_model true for a new run that begins with these weights"
        )
    left_out = (*FACTS, "resume_from_checkpoint", "resume_only_model")
    return {name: value for name, value in arguments.items() if name not in left_out}


def run_finetuning(command: Command, flags: GivenFlags, recipe: str | None) -> None:
    """Train in this process, or in several that it starts.

    Args:
        command: which of them.
        flags: what the user gave.
        recipe: name of a recipe.
    """
    settings = choose_settings(command, flags.values, recipe)
    launch_processes(flags.arguments)
    is_main = is_main_process(os.environ)
    with spinner("starting") if is_main else nullcontext(), paused_collection():
        silence_libraries()
        from internvl35.train.finetune import finetune
    result = finetune(settings, command=command)
    if is_main:
        print_result(result)


def print_result(result: FinetuneResult) -> None:
    """Say where a run's outcome lies.

    Args:
        result: of the run.
    """
    lines = {
        "run folder": result.run_folder,
        "last checkpoint": result.last_checkpoint,
        "best checkpoint": result.best_checkpoint,
        "best metric": result.best_metric,
    }
    for name, value in lines.items():
        if value is not None:
            sys.stdout.write(f"{name}: {value}\n")
