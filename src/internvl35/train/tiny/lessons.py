"""What the embedded checkpoint learns from: answers, and dense labels of what stands where.

Drawings become batches in :mod:`internvl35.train.tiny.examples`. The loss of the answers is that of
the paper's section 2.2; the dense labels have no counterpart in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from internvl35.data.batches import TrainingBatch
from internvl35.data.synthetic.labels import MARK_LABELS
from internvl35.data.tiles import IMAGENET_MEAN, IMAGENET_STD
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.settings import Averaging
from internvl35.train.sft import Trainee, batch_weight

FIGURES = ("patch_loss", "num_patches_right", "num_patches", "num_tiles_seen")
"""Scalars beside those of answers: summed losses of tiles, labelled patches whose likeliest label
is right, labelled patches, tiles."""


class TinyTrainee(Trainee):
    """The network together with a head for dense labels, which only training needs.

    Args:
        model: the network.
        averaging: how conversations of different lengths are weighed.
        patch_loss_weight: weight of the dense labels where there are conversations.
        has_frozen_tower: whether the tower stays as it is; there are no dense lessons then.
        light_jitter: how much brightness and contrast vary in training, share of their range.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        averaging: Averaging = "square",
        patch_loss_weight: float = 0.3,
        has_frozen_tower: bool = False,
        light_jitter: float = 0.0,
    ) -> None:
        """Start the head near "nothing stands here"."""
        super().__init__(model, averaging=averaging)
        self.patch_loss_weight = patch_loss_weight
        self.has_frozen_tower = has_frozen_tower
        self.light_jitter = light_jitter
        self.patch_head = nn.Linear(model.config.vision_config.hidden_size, len(MARK_LABELS))
        nn.init.constant_(self.patch_head.bias, -3.0)

    def weigh(self, batch: TrainingBatch) -> float:
        """Weight of a batch in its step: that of its answers, or of its tiles if nothing is asked.

        Args:
            batch: conversations, or pictures alone.
        """
        if batch.input_ids.shape[1]:
            return batch_weight(batch, self.averaging)
        return float(batch.num_tiles)

    def forward(self, batch: TrainingBatch, total_weight: Tensor | float) -> dict[str, Tensor]:
        """Compute a batch's share of the loss of a step.

            loss = (sum_i w_i * CE_i + c * w * mean patch loss) / total_weight

        where w is :meth:`weigh` of the batch and c the weight of the dense labels, 1 where nothing
        is asked.

        Args:
            batch: conversations, or pictures alone, with levels 0 to 255 as ``pixel_values``.
            total_weight: sum of :meth:`weigh` over the step.

        Returns:
            What :class:`~internvl35.train.sft.Trainee` returns, and ``FIGURES``.
        """
        has_text = batch.input_ids.shape[1] > 0
        zero = torch.zeros((), device=self.patch_head.weight.device)
        output = {"loss": zero, "num_correct": zero, "num_targets": zero}
        output |= dict.fromkeys(FIGURES, zero)
        features = None
        if batch.pixel_values is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.has_frozen_tower):
                levels = batch.pixel_values.float()
                if self.training and self.light_jitter:
                    levels = vary_light(levels, self.light_jitter)
                patches = self.model.encode_patches(level_pixels(levels))
            features = self.model.project_patches(patches) if has_text else None
            if batch.patch_labels is not None and not self.has_frozen_tower:
                share = self.patch_loss_weight if has_text else 1.0
                output |= self._look(patches, batch, share * self.weigh(batch) / total_weight)
        if not has_text and self.has_frozen_tower:  # nothing to learn, but a step goes backward
            trained = next(value for value in self.parameters() if value.requires_grad)
            output["loss"] = 0.0 * trained.sum()
        if has_text:
            answers = self.answer_loss(batch, total_weight, features)
            output |= answers | {"loss": output["loss"] + answers["loss"]}
        return output

    def _look(
        self, patches: Tensor, batch: TrainingBatch, share: Tensor | float
    ) -> dict[str, Tensor]:
        assert batch.patch_labels is not None
        scores, labels = self.patch_head(patches), batch.patch_labels
        loss = patch_label_loss(scores, labels)
        right, labelled = count_right_patches(scores.detach(), labels)
        tiles = torch.tensor(float(len(labels)), device=loss.device)
        figures = (loss.detach() * tiles, right, labelled, tiles)
        return {"loss": loss * share} | dict(zip(FIGURES, figures, strict=True))


def vary_light(levels: Tensor, strength: float) -> Tensor:
    """Change brightness and contrast of every tile a little, where the tiles are.

    Args:
        levels: ``(N, 3, tile, tile)`` 0 to 255.
        strength: largest change, as a share of the range.

    Returns:
        The same shape, float32, 0 to 255.
    """
    gain, shift = strength * (2 * torch.rand(2, len(levels), 1, 1, 1, device=levels.device) - 1)
    varied: Tensor = 128 + (levels - 128) * (1 + gain) + 255 * shift
    return varied.clamp(0, 255)


def level_pixels(levels: Tensor) -> Tensor:
    """Turn levels into the tower's input where they are.

    Args:
        levels: ``(N, 3, tile, tile)`` 0 to 255.

    Returns:
        The same shape, float32, ImageNet mean and standard deviation, within rounding of
        :func:`internvl35.data.tiles.normalize_tiles`.
    """
    mean = torch.tensor(IMAGENET_MEAN, device=levels.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=levels.device)[:, None, None]
    return (levels.float() / 255 - mean) / std


def patch_label_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of all labels, summed over labels and averaged over patches.

    Args:
        scores: ``(N, G, G, L)`` logits.
        labels: ``(N, G, G, L)`` 0 or 1.

    Returns:
        The loss, a float32 scalar.
    """
    losses = functional.binary_cross_entropy_with_logits(
        scores.float(), labels.float(), reduction="none"
    )
    return losses.sum(dim=-1).mean()


def count_right_patches(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count patches with any label, and those of them whose highest score is one of their labels.

    Args:
        scores: ``(N, G, G, L)`` logits.
        labels: ``(N, G, G, L)`` 0 or 1.

    Returns:
        Right ones and labelled ones, float32 scalars.
    """
    is_labelled = labels.bool().any(dim=-1)
    best = scores.argmax(dim=-1, keepdim=True)
    is_right = labels.gather(-1, best).squeeze(-1).bool() & is_labelled
    return is_right.sum().float(), is_labelled.sum().float()
