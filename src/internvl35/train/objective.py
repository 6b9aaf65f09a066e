"""What a run learns: which weights train, the loss they are trained by, which figures are told.

Everything else about a run is the same whatever it learns, and is left to
:mod:`internvl35.train.finetune`. The objective of ``sft`` and ``pt`` stands here; those of ViCO in
:mod:`internvl35.train.vico`. Paper section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from internvl35.data.batches import TrainingBatch
from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig
from internvl35.train.adapters import add_adapters
from internvl35.train.distributed import Workers
from internvl35.train.plan import Sizes
from internvl35.train.settings import FinetuneSettings
from internvl35.train.sft import Trainee, batch_weight, count_experts
from internvl35.train.trainable import freeze_parts


@dataclass(frozen=True)
class Surroundings:
    """What a loss module has to know of the run that it is part of."""

    pad_token_id: int
    """Fills padded rows."""
    keep_dummy_tile: bool
    """Whether tower and projectors have to run in batches without pictures too."""
    device: torch.device
    """Where the network is when the module is made."""


class Objective:
    """What a run learns.

    Args:
        settings: of the run.
    """

    accuracy = "token_acc"
    """Name of the share of targets that were hit."""
    others: tuple[str, ...] = ()
    """Names of further scalars that the loss module returns, which are summed up."""

    def __init__(self, settings: FinetuneSettings) -> None:
        """Look at the settings; nothing is loaded yet."""
        self.settings = settings

    @property
    def writes_adapters(self) -> bool:
        """Whether checkpoints hold adapters alone and not all weights."""
        return self.settings.adapter.tuner_type == "lora"

    @property
    def can_evaluate(self) -> bool:
        """Whether there is a loss yet that could be measured on other rows."""
        return True

    def check_start(self, config: InternVLChatConfig) -> None:
        """Refuse a checkpoint that this cannot begin from.

        Args:
            config: of the checkpoint.

        Raises:
            ConfigError: if it lacks what is needed.
        """

    def check_rows(self, sizes: Sizes) -> None:
        """Refuse rows of which nothing can be learnt.

        Args:
            sizes: of the rows that train.

        Raises:
            DataError: if they lack what is needed.
        """

    def prepare(self, model: VisionLanguageModel) -> None:
        """Add to a network what it lacks, and let exactly what is to be trained train.

        Args:
            model: with the weights of the checkpoint; changed in place.
        """
        raise NotImplementedError

    def make_module(self, model: VisionLanguageModel, surroundings: Surroundings) -> nn.Module:
        """Make the module that is called with a batch and returns its loss.

        Args:
            model: after :meth:`prepare`.
            surroundings: of the module.

        Returns:
            A module as :class:`internvl35.train.loop.TrainingLoop` takes it.
        """
        raise NotImplementedError

    def networks(self, model: VisionLanguageModel) -> list[VisionLanguageModel]:
        """List the networks that the module calls, of which the first one trains.

        Args:
            model: the one that trains.
        """
        return [model]

    def weigh(self, batch: TrainingBatch) -> float:
        """Sum of the weights of all targets of a batch, of which its loss is a share."""
        raise NotImplementedError

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Further figures of a line of the log.

        Args:
            sums: over the steps of the line, those of :attr:`others` among them.
        """
        return {}

    def end_step(self, workers: Workers) -> None:
        """Learn from a step that is over; called by every process after each step."""

    def untaught(self) -> str | None:
        """What a run that is over could not learn and why; None if there is nothing to say."""
        return None

    def keep(self) -> dict[str, Any]:
        """What :meth:`restore` takes, ready for JSON: state that is no weight."""
        return {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stood.

        Args:
            saved: what :meth:`keep` gave.
        """


class SupervisedObjective(Objective):
    """The answers of the rows, token by token (section 2.2)."""

    def prepare(self, model: VisionLanguageModel) -> None:
        """Put adapters in, or let the parts train that are not frozen."""
        settings = self.settings
        if settings.adapter.tuner_type == "lora":
            add_adapters(model, settings.adapter, settings.freeze)
        else:
            freeze_parts(model, settings.freeze)

    def make_module(self, model: VisionLanguageModel, surroundings: Surroundings) -> nn.Module:
        """Make the module with the cross-entropy of answers."""
        chosen = self.settings.optimization
        return Trainee(
            model,
            averaging=chosen.loss_reduction,
            ce_chunk_size=chosen.ce_chunk_size,
            router_loss_coef=expert_loss_coef(model, chosen.router_aux_loss_coef),
            keep_dummy_tile=surroundings.keep_dummy_tile,
        )

    def weigh(self, batch: TrainingBatch) -> float:
        """Sum of the weights of the tokens that carry loss."""
        return batch_weight(batch, self.settings.optimization.loss_reduction)


def expert_loss_coef(model: VisionLanguageModel, given: float) -> float:
    """Find the weight of the loss that spreads tokens over experts.

    Args:
        model: with or without experts.
        given: as in the settings; -1 for what the checkpoint's config says.

    Returns:
        The weight, 0 for a network without experts.

    Raises:
        ConfigError: if a weight is given and there are no experts.
    """
    num_experts, _ = count_experts(model)
    if num_experts:
        own: float = model.config.text_config.router_aux_loss_coef
        return own if given == -1 else given
    if given > 0:
        raise ConfigError(
            f"router_aux_loss_coef is {given}, but this network has no experts; leave it out"
        )
    return 0.0
