"""The recipe that makes a Flash checkpoint of the embedded one, from drawings to thresholds.

Draws rows, runs both stages of ViCO on them, and settles the threshold at which the router
compresses a given share of tiles. The stages are left to :mod:`internvl35.train.vico`, drawing to
:mod:`internvl35.data.drawn_rows`. Paper section 2.3.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from internvl35.config import TINY
from internvl35.data.drawn_rows import ROWS_FILE, DrawnRows, write_rows
from internvl35.data.tiles import make_pixel_values
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer
from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.arguments import build_settings
from internvl35.train.checkpoints import list_checkpoints, read_state
from internvl35.train.finetune import finetune
from internvl35.train.resuming import check_progress, check_resumed
from internvl35.train.vico_settings import Stage, VicoRunSettings

CHECKPOINT = "checkpoint"
"""Folder of the finished checkpoint in the run folder."""

ROWS_FOLDER = "rows"

STAGE_FOLDERS: dict[Stage, str] = {"consistency": "1-consistency", "router": "2-router"}


@dataclass(frozen=True)
class FlashRecipe:
    """A whole run."""

    model: str = TINY
    """Checkpoint that a Flash one is made of."""
    families: tuple[str, ...] = (
        "reading", "lines", "receipts", "counting", "shapes", "relations", "several", "motion",
        "sums", "svg", "bars", "curves", "pies", "screens", "formulas", "rooms", "honesty",
    )  # fmt: skip
    """Kinds of task that rows are drawn of, those without pictures left out."""
    num_rows: int = 64_000
    """Rows that are drawn; both stages learn from all of them."""
    factors: tuple[float, ...] = (1.0, 2.0, 2.0, 3.0)
    """Times that drawings are enlarged, drawn for every row; larger ones fill several tiles."""
    consistency_steps: int = 4000
    """Steps of the first stage; 0 leaves it out, for a model that is a Flash one already."""
    consistency_rate: float = 5e-4
    """Peak learning rate of the first stage."""
    router_steps: int = 600
    """Steps of the second stage."""
    router_rate: float = 5e-4
    """Peak learning rate of the second stage."""
    rows_per_step: int = 16
    """Rows a step, in one batch."""
    is_only_projector: bool = False
    """Train nothing but the compressed projector in the first stage, so that all other weights stay
    those of the model."""
    compress_unit: str = "tile"
    """What a rate is drawn for in the first stage: image or tile."""
    attribution: str = "one_tile"
    """How the second stage finds a tile's loss ratio: one_tile or all_tiles."""
    background: float = 0.68
    """How often another tile is compressed while one_tile judges one; here as often as in the end.
    """
    percentile: float = 50.0
    """Percentile of the ratios below which a tile is labelled compress."""
    ratio_loss: str = "cross_entropy"
    """The loss in the ratio: cross_entropy of the rows' answers, or divergence from model."""
    tiles_per_row: int = 4
    """Most tiles of a row that are judged in a step."""
    compressed_share: float = 0.72
    """Share of the tiles of enlarged validation drawings that the final threshold compresses. Two
    of three leave half of the visual tokens; here are also larger and emptier drawings."""
    num_judged: int = 30
    """Validation drawings a family that the threshold is settled on."""
    save_every: int = 100
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of rows and training."""

    def __post_init__(self) -> None:
        """Refuse what a stage could not be trained with, before anything is drawn."""
        if self.consistency_steps < 0 or self.router_steps < 1:
            raise ConfigError(
                f"consistency_steps is {self.consistency_steps} and router_steps "
                f"{self.router_steps}; needed: 0 or more, and at least 1"
            )
        if not 0 < self.compressed_share < 1 or self.num_judged < 1:
            raise ConfigError(
                f"compressed_share is {self.compressed_share} and num_judged {self.num_judged}; "
                "needed: above 0 and below 1, and at least 1"
            )
        for stage in STAGE_FOLDERS:
            if stage == "router" or self.consistency_steps:
                self.settings(stage, self.model, Path(ROWS_FILE), Path(STAGE_FOLDERS[stage]))
        _ = self.rows  # refuses what cannot be drawn

    @property
    def rows(self) -> DrawnRows:
        """Rows that are drawn."""
        return DrawnRows(self.num_rows, self.families, self.factors, seed=self.seed)

    def settings(self, stage: Stage, model: str, rows: Path, output: Path) -> VicoRunSettings:
        """Say what a stage is run with.

        Args:
            stage: which one.
            model: checkpoint that it begins from.
            rows: file of rows.
            output: run folder.

        Returns:
            The settings, those of ``internvl35 vico``.
        """
        is_first = stage == "consistency"
        values: dict[str, Any] = {
            "stage": stage,
            "model": model,
            "dataset": [str(rows)],
            "split_dataset_ratio": 0.01,
            "tuner_type": "full",
            "torch_dtype": "bfloat16",
            "attn_impl": "eager",
            "learning_rate": self.consistency_rate if is_first else self.router_rate,
            "max_steps": self.consistency_steps if is_first else self.router_steps,
            "warmup_ratio": 0.03,
            "weight_decay": 0.05,
            "per_device_train_batch_size": self.rows_per_step,
            "per_device_eval_batch_size": self.rows_per_step,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "group_by_length": True,
            "seed": self.seed,
            "output_dir": str(output),
            "add_version": False,
            "logging_steps": 10,
            "save_steps": self.save_every,
            "eval_steps": 5 * self.save_every,
            "save_total_limit": 2,
            "report_to": ["none"],
        }
        if is_first:
            values |= {"compress_unit": self.compress_unit, "freeze_llm": self.is_only_projector}
        else:
            values |= {
                "attribution": self.attribution,
                "background": self.background if self.attribution == "one_tile" else 0.0,
                "percentile": self.percentile,
                "tiles_per_row": self.tiles_per_row,
                "ratio_loss": self.ratio_loss,
            }
            if self.ratio_loss == "divergence":
                values["reference_model"] = self.model
        settings = build_settings(values, VicoRunSettings())
        assert isinstance(settings, VicoRunSettings)
        return settings


def make_flash(
    folder: Path, recipe: FlashRecipe, on_row: Callable[[], object] | None = None
) -> Path:
    """Make a Flash checkpoint; what an earlier call has finished is not done again.

    Args:
        folder: run folder.
        recipe: of the run.
        on_row: called after every row that is drawn.

    Returns:
        The checkpoint.

    Raises:
        InternVLError: as drawing and training.
    """
    rows = folder / ROWS_FOLDER / ROWS_FILE
    if not rows.exists():
        write_rows(rows.parent, recipe.rows, on_row)
    model = recipe.model
    for stage in STAGE_FOLDERS:
        if stage == "router" or recipe.consistency_steps:
            model = str(run_stage(stage, model, rows, folder, recipe))
    return settle_checkpoint(Path(model), folder / CHECKPOINT, recipe)


def run_stage(stage: Stage, model: str, rows: Path, folder: Path, recipe: FlashRecipe) -> Path:
    """Run a stage, go on with it, or find that it is done.

    Args:
        stage: which one.
        model: checkpoint that it begins from.
        rows: file of rows.
        folder: run folder of the recipe.
        recipe: of the run.

    Returns:
        Its last checkpoint.

    Raises:
        ConfigError: if it began, or ended, with other settings.
    """
    output = folder / STAGE_FOLDERS[stage]
    settings = recipe.settings(stage, model, rows, output)
    saved = list_checkpoints(output) if output.is_dir() else []
    if saved:
        step, last = read_state(saved[-1])["global_step"], settings.optimization.max_steps
        if step >= last:
            check_resumed(settings, saved[-1])
            check_progress(saved[-1], step, last)
            return saved[-1]
        values = {"resume_from_checkpoint": str(output)}
        resumed = build_settings(values, settings)
        return finetune(resumed, command="vico").last_checkpoint
    if output.is_dir():  # stopped before its first checkpoint
        shutil.rmtree(output)
    return finetune(settings, command="vico").last_checkpoint


def settle_checkpoint(trained: Path, target: Path, recipe: FlashRecipe) -> Path:
    """Write the finished checkpoint, with thresholds, in bfloat16.

    Args:
        trained: last checkpoint of the second stage.
        target: where it is written to.
        recipe: says how many tiles shall be compressed.

    Returns:
        ``target``.
    """
    model = VisionLanguageModel.from_pretrained(trained, dtype=torch.bfloat16).eval()
    scores = judge_drawings(model, recipe)
    threshold = share_threshold(scores, recipe.compressed_share)
    model.config.flash_absolute_threshold = threshold
    # under released the threshold decides too: its quantile then spares the lowest score alone
    model.config.flash_relative_threshold = 0.0
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    save_tokenizer(load_tokenizer(trained), partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    return target


@torch.inference_mode()
def judge_drawings(model: VisionLanguageModel, recipe: FlashRecipe) -> list[float]:
    """Let the router judge the tiles of enlarged validation drawings.

    Args:
        model: a Flash model in eval mode.
        recipe: says which and how many.

    Returns:
        Scores of all tiles.
    """
    factors = tuple(factor for factor in recipe.factors if factor > 1) or recipe.factors
    drawn = DrawnRows(
        recipe.num_judged * len(recipe.families), recipe.families, factors, "validation",
        seed=recipe.seed,
    )  # fmt: skip
    scores: list[float] = []
    for number in range(drawn.num_rows):
        for image in drawn.drawing(number).images:
            tiles = make_pixel_values(image, model.config.tile_settings)
            scores += model.score_tiles(model.encode_patches(tiles.to(model.device))).tolist()
    return scores


def share_threshold(scores: Sequence[float], compressed_share: float) -> float:
    """Find the highest threshold that a share of scores reach.

    Args:
        scores: of tiles, 0 to 1.
        compressed_share: the share, 0 to 1.

    Returns:
        One of the scores, unrounded: routers in bfloat16 give many tiles the very same.
    """
    values = torch.tensor(scores, dtype=torch.float64)
    return float(values.quantile(1 - compressed_share, interpolation="lower"))
