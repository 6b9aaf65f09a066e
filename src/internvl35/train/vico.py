"""ViCO, which makes a Flash model of any model: what trains in its two stages, and what is told.

The losses stand in :mod:`internvl35.train.vico_consistency` and
:mod:`internvl35.train.vico_router`; the run itself is that of :mod:`internvl35.train.finetune`.
Paper section 2.3.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from internvl35.data.batches import TrainingBatch
from internvl35.errors import ConfigError, DataError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig
from internvl35.model.flash_parts import add_router
from internvl35.model.hub import resolve_checkpoint
from internvl35.model.publish import choose_hub
from internvl35.train.adapters import add_adapters
from internvl35.train.distributed import Workers
from internvl35.train.objective import Objective, Surroundings, expert_loss_coef
from internvl35.train.plan import Sizes
from internvl35.train.ratio_window import RatioWindow
from internvl35.train.sft import Trainee, batch_weight
from internvl35.train.trainable import freeze_parts
from internvl35.train.vico_consistency import ConsistencyTrainee
from internvl35.train.vico_router import RouterTrainee, count_judged, samples_of_tiles
from internvl35.train.vico_settings import VicoRunSettings

UNTAUGHT, UNDECIDED = 1.0, 0.5
"""Thresholds beside a router that stage router has not trained, whose scores mean nothing and
compress nothing, and beside one that it has."""


def choose_vico_objective(settings: VicoRunSettings) -> Objective:
    """Make the objective of the stage that the settings name.

    Args:
        settings: of the run.

    Returns:
        The objective.
    """
    is_router = settings.vico.stage == "router"
    return RouterObjective(settings) if is_router else ConsistencyObjective(settings)


class _VicoObjective(Objective):
    """What both stages have in common.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: VicoRunSettings) -> None:
        """Look at the settings; nothing is loaded yet."""
        super().__init__(settings)
        self.vico = settings.vico
        self.reference: VisionLanguageModel | None = None

    @property
    def writes_adapters(self) -> bool:
        """Never: they are Flash checkpoints with all weights, ready for the next stage."""
        return False

    def check_rows(self, sizes: Sizes) -> None:
        """Refuse rows without any tile: both stages learn from tiles alone."""
        good = sizes.good
        if not sizes.tiles[good].any():
            raise DataError(
                f"none of the {len(good)} rows has a picture or a video, and internvl35 vico "
                "learns from tiles alone; name them in images or videos of the rows"
            )

    def networks(self, model: VisionLanguageModel) -> list[VisionLanguageModel]:
        """List the network that trains, and the reference if it is another one."""
        return [model] if self.reference is None else [model, self.reference]

    def _load_reference(self, model: VisionLanguageModel, device: torch.device) -> None:
        """Load the reference that the settings name."""
        assert self.vico.reference_model is not None
        chosen = self.settings.model
        hub, _ = choose_hub(self.settings.dataset.use_hf, chosen.hub_token)
        folder = resolve_checkpoint(self.vico.reference_model, hub=hub, token=chosen.hub_token)
        reference = VisionLanguageModel.from_pretrained(
            folder,
            dtype=chosen.torch_dtype,
            attn_implementation=model.language_model.config._attn_implementation,
        )
        sizes = [
            (n.config.text_config.vocab_size, n.config.tokens_per_tile, n.config.image_token_id)
            for n in (model, reference)
        ]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"reference_model {self.vico.reference_model} has vocabulary, visual tokens a tile "
                f"and image token {sizes[1]} but model has {sizes[0]}; name the checkpoint that "
                "model was made from"
            )
        self.reference = reference.to(device).requires_grad_(False).eval()


class ConsistencyObjective(_VicoObjective):
    """Stage ``consistency``: the policy follows the reference whatever rate is drawn."""

    others = ("num_compressed",)

    def prepare(self, model: VisionLanguageModel) -> None:
        """Add router and compressed projector if there are none, adapters, or thaw parts.

        The compressed projector always trains as a whole, the router never.
        """
        settings = self.settings
        if not model.config.flash_mode:
            add_router(model, absolute_threshold=UNTAUGHT)
        if settings.adapter.tuner_type == "lora":
            add_adapters(model, settings.adapter, settings.freeze)
        else:
            freeze_parts(model, settings.freeze)
        assert model.compressed_projector is not None
        model.compressed_projector.requires_grad_(True)

    def make_module(self, model: VisionLanguageModel, surroundings: Surroundings) -> nn.Module:
        """Make the module with the divergence from the reference.

        With adapters the reference is the same network without them; else parts that train are
        copied, and the others shared.
        """
        chosen = self.settings.optimization
        if self.vico.reference_model is not None:
            self._load_reference(model, surroundings.device)
        elif self.settings.adapter.tuner_type == "full":
            self.reference = _frozen_copy(model)
        policy = Trainee(
            model,
            averaging=chosen.loss_reduction,
            ce_chunk_size=chosen.ce_chunk_size,
            router_loss_coef=expert_loss_coef(model, chosen.router_aux_loss_coef),
        )
        return ConsistencyTrainee(
            policy,
            self.reference,
            compress_unit=self.vico.compress_unit,
            compress_probability=self.vico.compress_probability,
            pad_token_id=surroundings.pad_token_id,
            keep_dummy_tile=surroundings.keep_dummy_tile,
        )

    def weigh(self, batch: TrainingBatch) -> float:
        """Sum of the weights of the response tokens."""
        return batch_weight(batch, self.settings.optimization.loss_reduction)

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Share of tiles that were compressed."""
        return {"compressed_share": sums["num_compressed"] / max(1.0, sums["num_tiles"])}


class RouterObjective(_VicoObjective):
    """Stage ``router``: the router learns labels that follow from loss ratios.

    Args:
        settings: of the run.
    """

    accuracy = "tile_acc"
    others = ("num_compress",)

    def __init__(self, settings: VicoRunSettings) -> None:
        """Begin with an empty window."""
        super().__init__(settings)
        vico = self.vico
        self.window = RatioWindow(vico.window_size, vico.percentile, vico.window_warmup)
        self._config: InternVLChatConfig | None = None
        self._last_threshold: float | None = None

    @property
    def can_evaluate(self) -> bool:
        """Whether there are labels yet."""
        return self.window.threshold is not None

    def check_start(self, config: InternVLChatConfig) -> None:
        """Refuse a checkpoint without router and compressed projector."""
        if not config.flash_mode:
            raise ConfigError(
                f"model is {self.settings.model.model}, which is no Flash model; train it with "
                "--stage consistency first, then --stage router on the checkpoint that leaves"
            )
        self._config = config

    def prepare(self, model: VisionLanguageModel) -> None:
        """Freeze everything but the router, whose scores may count from now on."""
        model.requires_grad_(False)
        if model.config.flash_absolute_threshold == UNTAUGHT:
            model.config.flash_absolute_threshold = UNDECIDED
        assert model.router is not None
        model.router.requires_grad_(True)
        if model.config.router_repeats_second_step:  # the last two steps are never taken
            pooling = model.router.pooling
            for unused in (*pooling.attentions[2:], *pooling.norms[2:]):
                unused.requires_grad_(False)
        self._config = model.config

    def make_module(self, model: VisionLanguageModel, surroundings: Surroundings) -> nn.Module:
        """Make the module with the router's cross-entropy."""
        if self.vico.reference_model is not None:
            self._load_reference(model, surroundings.device)
        return RouterTrainee(
            model,
            self.reference,
            self.window,
            self.vico,
            pad_token_id=surroundings.pad_token_id,
            chunk_size=self.settings.optimization.ce_chunk_size,
        )

    def weigh(self, batch: TrainingBatch) -> float:
        """Tiles of a batch that are judged."""
        assert self._config is not None
        tokens_per_tile = self._config.tokens_per_tile
        samples = samples_of_tiles(batch, self._config.image_token_id, tokens_per_tile)
        is_alone = self.vico.attribution == "one_tile"
        return float(count_judged(samples, self.vico.tiles_per_row if is_alone else None))

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Share of labels that say compress, and the ratio below which the last step's did."""
        found = {"compress_share": sums["num_compress"] / max(1.0, sums["num_targets"])}
        if self._last_threshold is not None:
            found["tau"] = self._last_threshold
        return found

    def end_step(self, workers: Workers) -> None:
        """Let the ratios of the step join the window."""
        self._last_threshold = self.window.threshold
        self.window.advance(workers)

    def untaught(self) -> str | None:
        """Say so if there never was a label."""
        if self.window.threshold is not None:
            return None
        return (
            f"the router has learnt nothing: labels need {self.window.warmup} tiles "
            f"(window_warmup) and {len(self.window)} were judged; take rows with pictures, or more "
            "steps"
        )

    def keep(self) -> dict[str, Any]:
        """The window."""
        return {"window": self.window.keep()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Bring the window back."""
        self.window.restore(saved["window"])


def _frozen_copy(model: VisionLanguageModel) -> VisionLanguageModel:
    """Copy the parts that train, and share those that stay as they are."""
    shared: dict[int, Any] = {
        id(part): part
        for part in model.children()
        if not any(parameter.requires_grad for parameter in part.parameters())
    }
    flash = (model.compressed_projector, model.router)  # the reference sees every tile whole
    shared |= {id(part): part for part in flash if part is not None}
    reference: VisionLanguageModel = copy.deepcopy(model, shared)
    for name, part in reference.named_children():
        if id(part) not in shared:
            part.requires_grad_(False)
            assert name in ("vision_tower", "multi_modal_projector", "language_model")
    reference.eval()
    return reference
