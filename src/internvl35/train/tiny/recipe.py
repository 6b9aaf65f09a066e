"""The recipe of the embedded checkpoint: what is learned, in which order, and how long.

The shape of the network is left to :mod:`internvl35.train.tiny.shape`, drawing to
:mod:`internvl35.data.synthetic`. Stages follow the paper: section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from internvl35.errors import ConfigError
from internvl35.train.settings import Averaging

StageName = Literal["tower", "projector", "pretrain", "sft"]
"""Stages, in their order."""

STAGES: tuple[StageName, ...] = get_args(StageName)

Shares = tuple[tuple[str, float], ...]
"""Families with their weights."""

LOOKED_AT: Shares = (
    ("page", 8.0), ("reading", 1.0), ("lines", 1.0), ("receipts", 0.5), ("counting", 1.0),
    ("shapes", 1.0), ("bars", 1.0), ("curves", 1.0), ("pies", 1.0), ("screens", 2.0),
    ("rooms", 1.5), ("formulas", 1.0),
)  # fmt: skip
"""What the tower alone learns from: pages of print, and pictures in which things are marked."""

ASKED: Shares = (
    ("reading", 3.0), ("lines", 1.8), ("receipts", 1.2), ("counting", 2.5), ("shapes", 1.0),
    ("relations", 1.5), ("several", 1.0), ("motion", 0.8), ("bars", 1.2), ("curves", 0.8),
    ("pies", 0.8),
    ("rooms", 1.5), ("screens", 3.0), ("svg", 1.5), ("svg code", 0.4), ("formulas", 1.2),
    ("sums", 1.2), ("talk", 0.3), ("arithmetic", 0.6), ("honesty", 0.6),
)  # fmt: skip
"""What the whole model is asked."""

WITH_PAGES: Shares = (*ASKED, ("page", 2.5))
"""The same, beside pages of print."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    num_steps: int
    """Optimizer steps; 0 leaves the stage out."""
    learning_rate: float = 4e-3
    """Peak learning rate of hidden matrices and everything else."""
    num_warmup_steps: int = 40
    """Steps over which the rate rises from zero."""
    decay_share: float = 0.3
    """Last share of the stage over which the rate falls linearly to zero; 0 for none."""
    first_level: float = 1.0
    """How hard drawings are in the beginning, 0 to 1."""
    level_share: float = 0.5
    """Share of the stage after which they are as hard as those of the test."""
    patch_loss_weight: float = 0.3
    """Weight of the dense labels beside the loss of the answers."""
    averaging: Averaging = "square"
    """Weight of a token of a conversation with n targets: token 1, sample 1/n, square 1/sqrt(n)."""
    shares: Shares = WITH_PAGES
    """How often each family is drawn; names that no family bears are left out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.num_steps < 0 or not self.shares:
            raise ConfigError(
                f"a stage of {self.num_steps} steps on {len(self.shares)} families; needed: 0 or "
                "more steps and at least one family"
            )
        for name in ("decay_share", "first_level", "level_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: 0 to 1")

    def level_at(self, step: int) -> float:
        """How hard the drawings of a step are, 0 to 1."""
        rise = self.num_steps * self.level_share
        done = min(1.0, step / rise) if rise else 1.0
        return self.first_level + (1.0 - self.first_level) * done


@dataclass(frozen=True)
class TinyRecipe:
    """A whole run."""

    tower: Stage = field(
        default_factory=lambda: Stage(
            1700, first_level=0.0, level_share=0.7, decay_share=0.0, shares=LOOKED_AT
        )
    )
    """The tower alone learns what stands in which patch."""
    projector: Stage = field(
        default_factory=lambda: Stage(300, first_level=0.0, level_share=1.0, decay_share=0.0)
    )
    """The tower is frozen; projector and language model learn to read what it sees."""
    pretrain: Stage = field(
        default_factory=lambda: Stage(3000, first_level=0.2, level_share=0.8, decay_share=0.0)
    )
    """Everything learns, drawings get harder."""
    sft: Stage = field(
        default_factory=lambda: Stage(1250, num_warmup_steps=0, decay_share=1.0, shares=ASKED)
    )
    """Everything learns from drawings as hard as the test's while the rate falls to zero."""
    samples_per_step: int = 48
    """Drawings a step."""
    max_tiles_per_batch: int = 48
    """Most tiles that are computed at once."""
    max_answer_letters: int = 120
    """Letters of the answers of one conversation, lists apart; further turns are left out."""
    max_examples_per_batch: int = 16
    """Most conversations that are computed at once."""
    system_share: float = 0.4
    """Share of conversations that open with the official system prompt; the others have none."""
    thinking_share: float = 0.5
    """Share of the drawings with reasoning that are asked in thinking mode."""
    light_jitter: float = 0.06
    """How much brightness and contrast of drawings that are used again vary, share of the range."""
    listing_share: float = 0.5
    """Share of conversations in which everything in the picture is asked for, too, with places."""
    enlarged_share: float = 0.05
    """Share of the single pictures that are made twice as large, and so fill several tiles."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """``muon`` takes the hidden matrices to Muon and the rest to AdamW."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors have none."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the forward and backward pass; weights and moments stay float32."""
    save_every: int = 100
    """Steps between two checkpoints."""
    log_every: int = 10
    """Steps between two lines of figures."""
    evaluate_every: int = 1000
    """Steps between two evaluations on fresh validation drawings; 0 for none."""
    seed: int = 0
    """Seed of the weights and of the drawings."""

    def stage(self, name: StageName) -> Stage:
        """Look a stage up by its name."""
        found: Stage = getattr(self, name)
        return found
