"""``internvl35 train``: the training runs that are recipes of this project.

The recipes and the loop are left to :mod:`internvl35.train`. Paper section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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

_LOOP = read_sentences("internvl35.train.rounds", "RoundSettings")
_RECIPE = read_sentences("internvl35.train.tiny", "TinyRecipe")


@app.command("tiny")
def train_embedded(
    output_dir: Annotated[
        Path, typer.Option(help="Run folder; a run that was stopped there goes on.")
    ] = Path("runs/tiny"),
    rounds: Annotated[int | None, typer.Option(help=_LOOP["num_rounds"])] = None,
    learning_rate: Annotated[float | None, typer.Option(help=_LOOP["learning_rate"])] = None,
    seed: Annotated[int | None, typer.Option(help=_RECIPE["seed"])] = None,
    evaluate_every: Annotated[int | None, typer.Option(help=_LOOP["evaluate_every"])] = None,
    evaluation_pictures: Annotated[
        int, typer.Option(help="Pictures a family that an evaluation asks about.", min=1)
    ] = 50,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change any other setting of the recipe, for example samples_per_round=120 or "
            "loop.checkpoint_every=5; recipe.json in the run folder lists them.",
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
) -> None:
    """Train the embedded checkpoint on pictures that are drawn as it goes.

    Settings are those of the recipe, and in a folder that holds a run, those of that run. At the
    end the folder holds checkpoint/, metrics.jsonl and curve.png.
    """
    named = {
        "loop.num_rounds": rounds, "loop.learning_rate": learning_rate, "seed": seed,
        "loop.evaluate_every": evaluate_every,
    }  # fmt: skip
    wanted = parse_changes(changes) | {k: v for k, v in named.items() if v is not None}
    with spinner("starting"), paused_collection():
        silence_libraries()
        import torch

        from internvl35.train.tiny import TinyRecipe, train_tiny
    chosen_device = choose_device(device)
    recipe = settle_recipe(output_dir, TinyRecipe(), wanted, CHANGEABLE)
    if threads is not None:
        torch.set_num_threads(threads)

    def report(line: dict[str, float]) -> None:
        is_last = line["round"] == recipe.loop.num_rounds
        if is_last or line["round"] % recipe.loop.checkpoint_every == 0 or _evaluated(line):
            typer.echo(describe_round(line, recipe.loop.num_rounds))

    try:
        train_tiny(
            output_dir,
            recipe,
            device=chosen_device,
            num_workers=workers,
            evaluate=make_evaluation(evaluation_pictures) if recipe.loop.evaluate_every else None,
            on_log=report,
        )
    except KeyboardInterrupt:
        note(f"stopped; the same command with --output-dir {output_dir} goes on")
        raise
    from internvl35.train.plots import plot_curve
    from internvl35.train.rounds import METRICS_FILE

    plot_curve(output_dir / METRICS_FILE, output_dir / CURVE_FILE)
    typer.echo(f"curve: {output_dir / CURVE_FILE}")
    typer.echo(f"checkpoint: {output_dir / 'checkpoint'}")


CHANGEABLE = tuple(f"loop.{name}" for name in (
    "num_rounds", "learning_rate", "warmup_rounds", "decay_share", "weight_decay", "clip_norm",
    "checkpoint_every", "evaluate_every", "precision",
))  # fmt: skip
"""Settings that a run may change under way; the others decide on the data or the optimizer."""


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
        num_pictures: fresh pictures a family, the same ones every time.

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


def describe_round(line: dict[str, float], num_rounds: int) -> str:
    """Put the figures of a round into a line.

    Args:
        line: what the loop logs.
        num_rounds: rounds of the run.

    Returns:
        Round, samples, samples a second, losses, and shares in percent.
    """
    parts = [
        f"round {line['round']:.0f}/{num_rounds}",
        f"{line['samples']:,.0f} samples",
        f"{line['samples_per_s']:.1f}/s",
    ]
    parts += [f"{name} {line[name]:.3f}" for name in ("loss", "answer_loss") if name in line]
    shares: dict[str, Any] = {"patches": line.get("patch_accuracy")} | _evaluated(line)
    parts += [f"{name} {share:.1%}" for name, share in shares.items() if share is not None]
    return "  ".join(parts)


def _evaluated(line: dict[str, float]) -> dict[str, float]:
    return {k.removeprefix("eval/"): v for k, v in line.items() if k.startswith("eval/")}
