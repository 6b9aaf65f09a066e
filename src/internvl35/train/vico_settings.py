"""Settings of ViCO, the training that lets a model see tiles with fewer visual tokens.

What they do is left to :mod:`internvl35.train.vico_consistency` and
:mod:`internvl35.train.vico_router`; why they are what they are stands in
``docs/decisions/0007-vico.md``. Needs no torch. Paper section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from internvl35.errors import ConfigError
from internvl35.train.settings import FinetuneSettings, OptimizationSettings

Stage = Literal["consistency", "router"]


@dataclass(frozen=True)
class VicoSettings:
    """Which of the two stages is trained, and how."""

    stage: Stage = "consistency"
    """consistency teaches the model to answer alike with compressed tiles, and makes a Flash model
    of any model; router then teaches a Flash model's router which tiles may be compressed."""
    reference_model: str | None = None
    """Checkpoint whose answers with all visual tokens are followed, named as model is. Stage
    consistency: by default the model as it begins. Stage router: needed for loss divergence."""
    compress_unit: Literal["image", "tile"] = "image"
    """What a rate is drawn for in stage consistency: all tiles of an image together, or each."""
    compress_probability: float = 0.5
    """How often the rate that is drawn is a sixteenth and not a quarter, above 0 to 1."""
    attribution: Literal["one_tile", "all_tiles"] = "one_tile"
    """How stage router finds a tile's loss ratio: by compressing that tile alone, or all tiles of
    the row, which then share one ratio."""
    background: float = 0.0
    """How often another tile of the row is compressed while one_tile judges one, 0 to 1; 0 compares
    with all tiles whole. A tile that shows again what a thumbnail shows is worth nothing beside it,
    and much where that is compressed."""
    tiles_per_row: int = 4
    """Most tiles of a row that one_tile judges in a step, drawn anew every time; each costs a
    forward pass of the language model."""
    ratio_loss: Literal["cross_entropy", "divergence"] = "cross_entropy"
    """The loss in the ratio: cross-entropy of the row's own answers, or the divergence from
    reference_model, the model before stage consistency."""
    ratio_floor: float = 0.01
    """Nats that are added to both losses of a ratio, so that answers that are certain either way
    have a ratio near one; above 0."""
    percentile: float = 50.0
    """Percentile of the ratios in the window below which a tile is labelled compress, above 0 to
    below 100."""
    window_size: int = 2048
    """Ratios in the sliding window."""
    window_warmup: int = 128
    """Ratios that the window has to hold before labels are made; steps before teach nothing."""
    balance_classes: bool = True
    """Weigh tiles so that both labels count alike, whatever the percentile."""

    def __post_init__(self) -> None:
        """Refuse values under which nothing could be learnt."""
        rules = {
            "compress_probability": (0 < self.compress_probability <= 1, "above 0, at most 1"),
            "background": (0 <= self.background <= 1, "0 to 1"),
            "tiles_per_row": (self.tiles_per_row >= 1, "at least 1"),
            "ratio_floor": (self.ratio_floor > 0, "above 0"),
            "percentile": (0 < self.percentile < 100, "above 0 and below 100"),
            "window_warmup": (
                1 <= self.window_warmup <= self.window_size,
                f"1 to window_size, which is {self.window_size}",
            ),
            "reference_model": (self.reference_model != "", "a checkpoint, for example 8B"),
        }
        for name, (is_right, needed) in rules.items():
            if not is_right:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; needed: {needed}")
        if self.background and self.attribution != "one_tile":
            raise ConfigError(
                f"background is {self.background} but attribution is {self.attribution}, which "
                "compresses all tiles anyway; leave it out or pass --attribution one_tile"
            )
        if self.stage == "router":
            needs_reference = self.ratio_loss == "divergence"
            if needs_reference and self.reference_model is None:
                raise ConfigError(
                    "ratio_loss is divergence, but reference_model is not given; name the model "
                    "that stage consistency began from"
                )
            if self.reference_model is not None and not needs_reference:
                raise ConfigError(
                    f"reference_model is {self.reference_model!r}, which stage router only needs "
                    "for ratio_loss divergence; give both or neither"
                )


@dataclass(frozen=True)
class VicoRunSettings(FinetuneSettings):
    """All settings of a run of ``vico``."""

    optimization: OptimizationSettings = field(
        default_factory=lambda: OptimizationSettings(loss_reduction="token")
    )
    """How it learns; its loss is the mean over all response tokens, as the paper writes it."""
    vico: VicoSettings = field(default_factory=VicoSettings)
    """Which stage, and what is peculiar to it."""

    @property
    def trains_own_parts(self) -> bool:
        """The compressed projector, or the router."""
        return True

    def __post_init__(self) -> None:
        """Refuse what ViCO cannot be done with."""
        super().__post_init__()
        adapter, spread = self.adapter, self.distributed
        if adapter.adapters:
            raise ConfigError(
                f"adapters is {list(adapter.adapters)}, but vico begins from one checkpoint; merge "
                "them first with internvl35 export --merge_lora true"
            )
        if adapter.quant_bits is not None:
            raise ConfigError(
                f"quant_bits is {adapter.quant_bits}, but vico ends in a checkpoint with all "
                "weights, into which adapters of quantised ones cannot be merged; leave it out"
            )
        if spread.deepspeed is not None:
            raise ConfigError(
                f"deepspeed is {spread.deepspeed!r}, which vico does not know; use fsdp full_shard"
            )
        has_adapters = self.vico.stage == "consistency" and adapter.tuner_type == "lora"
        if spread.fsdp and has_adapters:
            raise ConfigError(
                f"fsdp is {spread.fsdp!r} and tuner_type is 'lora', but sharded adapters cannot be "
                "merged into the checkpoint that vico writes; pass --tuner_type full"
            )
