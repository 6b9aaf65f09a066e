"""``internvl35 train``: the training runs that are recipes of this project.

The recipes and the loop are left to :mod:`internvl35.train`. Paper section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from internvl35.commands.options import read_sentences
from internvl35.commands.recipe import parse_changes, settle_recipe
from internvl35.commands.terminal import note, paused_collection, silence_libraries, spinner
from internvl35.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from internvl35.model.composite import VisionLanguageModel

    Evaluate = Callable[[VisionLanguageModel, PreTrainedTokenizerBase], dict[str, float]]

app = typer.Typer(
    name="train", help="Train checkpoints.", no_args_is_help=True, rich_markup_mode=None
)

CURVE_FILE = "curve.png"

_RECIPE = read_sentences("internvl35.train.tiny.recipe", "TinyRecipe")


@app.command("tiny")
def train_embedded(
    output_dir: Annotated[
        Path, typer.Option(help="Run folder; a run that was stopped there goes on.")
    ] = Path("runs/tiny"),
    until: Annotated[
        Literal["tower", "projector", "pretrain", "sft"],
        typer.Option(help="Last stage; sft ends in a checkpoint."),
    ] = "sft",
    stop_after: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which the run writes its state and ends; the same command goes on.",
            min=0,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help=_RECIPE["seed"])] = None,
    evaluate_every: Annotated[int | None, typer.Option(help=_RECIPE["evaluate_every"])] = None,
    evaluation_pictures: Annotated[
        int, typer.Option(help="Drawings a family that an evaluation asks about.", min=1)
    ] = 30,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change any other setting of the recipe, for example samples_per_step=32 or "
            "pretrain.num_steps=2000; recipe.json in the run folder lists them.",
        ),
    ] = [],  # noqa: B006 - typer makes a new list every time
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default torch's own choice.", min=1)
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Default: cuda where there is a GPU.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that draw pictures; 0 draws in this one.", min=0)
    ] = 1,
    shards: Annotated[
        int,
        typer.Option(
            help="Shards of 2000 drawings that are rendered ahead of every stage and used again "
            "and again, for a GPU that learns faster than its machine draws; 0 draws all anew.",
            min=0,
        ),
    ] = 0,
    max_file_mb: Annotated[
        float | None,
        typer.Option(help="Split the state of the run into files of so many megabytes.", min=1),
    ] = None,
) -> None:
    """Train the embedded checkpoint on pictures that are drawn as it goes.

    Four stages: the tower alone, the projector, everything, fine-tuning. Settings are those of the
    recipe, and in a folder that holds a run, those of that run. At the end the folder holds
    checkpoint/, a folder a stage with its figures, and curve.png.
    """
    named = {"seed": seed, "evaluate_every": evaluate_every}
    wanted = parse_changes(changes) | {k: v for k, v in named.items() if v is not None}
    with spinner("starting"), paused_collection():
        silence_libraries()
        import torch

        from internvl35.train.tiny.recipe import TinyRecipe
        from internvl35.train.tiny.run import CHECKPOINT, RunPlace, TinyRun, read_curve
    chosen_device = choose_device(device)
    recipe = settle_recipe(output_dir, TinyRecipe(), wanted, CHANGEABLE)
    if threads is not None:
        torch.set_num_threads(threads)
    max_bytes = None if max_file_mb is None else int(max_file_mb * 1e6)
    place = RunPlace(chosen_device, workers, stop_after, max_bytes, shards)
    evaluate = make_evaluation(evaluation_pictures) if recipe.evaluate_every else None
    try:
        with spinner("drawing texts for the tokenizer"):
            run = TinyRun(output_dir, recipe, place, evaluate)
        is_done = run.execute(until)
    except KeyboardInterrupt:
        note(f"stopped; the same command with --output-dir {output_dir} goes on")
        raise
    from internvl35.train.plots import plot_curve

    plot_curve(read_curve(output_dir, recipe), output_dir / CURVE_FILE)
    typer.echo(f"curve: {output_dir / CURVE_FILE}")
    if not is_done:
        typer.echo(f"the time is up; the same command with --output-dir {output_dir} goes on")
    elif until == "sft":
        typer.echo(f"checkpoint: {output_dir / CHECKPOINT}")


_STAGE_CHANGES = ("num_steps", "learning_rate", "decay_share", "shares")
CHANGEABLE = (
    *(f"{stage}.{name}" for stage in ("tower", "projector", "pretrain", "sft")
      for name in _STAGE_CHANGES),
    "save_every", "log_every", "evaluate_every", "precision",
)  # fmt: skip
"""Settings that a run may change under way; the others decide on weights or on what was drawn."""


def choose_device(wanted: Literal["cpu", "cuda"] | None) -> torch.device:
    """Choose where a run is computed.

    Args:
        wanted: as given to ``--device``; a GPU if there is one, where None.

    Returns:
        The device.

    Raises:
        ConfigError: if a GPU is wanted and there is none.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError("device is cuda but torch finds no GPU; pass --device cpu")
    return torch.device("cuda" if has_gpu and wanted != "cpu" else "cpu")


def make_evaluation(num_pictures: int) -> Evaluate:
    """Make what a run calls now and then to see how far it is.

    Args:
        num_pictures: fresh drawings a family, the same ones every time.

    Returns:
        A function from the model to its share of right answers in each family.
    """

    def evaluate(
        model: VisionLanguageModel, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, float]:
        from internvl35.chat import Chat
        from internvl35.data.synthetic import FAMILIES
        from internvl35.evals.drawn import measure

        results = measure(Chat(model, tokenizer), list(FAMILIES), num_pictures)
        return {family: result.accuracy for family, result in results.items()}

    return evaluate
