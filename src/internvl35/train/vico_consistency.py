"""ViCO's first stage: answers with compressed tiles follow those with all visual tokens.

The frozen reference sees every tile whole, the policy sees tiles at rates that are drawn. Their
divergence is computed by :mod:`internvl35.train.divergence`; what is trained, and settings, are
left to :mod:`internvl35.train.vico`. Paper section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from internvl35.data.batches import IGNORED, TrainingBatch
from internvl35.data.compression import compress_batch
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.adapter_states import adapters_off
from internvl35.train.divergence import HeadInputs, linear_kl_divergence
from internvl35.train.sft import Trainee, next_tokens

_DUMMY_TILES = 2
"""Empty tiles that keep all parts in use, of which the first is compressed."""


def images_of_tiles(input_ids: Tensor, image_token_id: int, tokens_per_tile: int) -> Tensor:
    """Say which image, or frame of a video, every tile of a batch belongs to.

    Places of one image stand side by side, those of two never do.

    Args:
        input_ids: ``(B, T)`` token ids.
        image_token_id: marks the places of visual tokens.
        tokens_per_tile: places of one tile.

    Returns:
        ``(N,)`` int64, counted from 0 over the batch, in the order of the tiles.
    """
    is_place = input_ids == image_token_id
    starts = is_place.clone()
    starts[:, 1:] &= ~is_place[:, :-1]
    images = starts.flatten().cumsum(0) - 1
    return images[is_place.flatten()][::tokens_per_tile]


def draw_compressed(images: Tensor, unit: Literal["image", "tile"], probability: float) -> Tensor:
    """Draw which tiles are compressed, from torch's own random numbers on the CPU.

    Args:
        images: ``(N,)`` which image each tile belongs to, in rising order.
        unit: whether tiles of an image share their fate.
        probability: that a tile is compressed.

    Returns:
        ``(N,)`` bool, on the CPU.
    """
    images = images.cpu()
    if unit == "tile" or len(images) == 0:
        return torch.rand(len(images)) < probability
    return (torch.rand(int(images[-1]) + 1) < probability)[images]


class ConsistencyTrainee(nn.Module):
    """A policy together with its divergence from a reference (section 2.3).

    In training every tile, or every image, is compressed or not by chance; in evaluation all tiles
    are, so that two evaluations can be compared.

    Args:
        policy: the network that trains, as supervised training calls it.
        reference: a frozen network with the same vocabulary; None for the policy itself with its
            adapters switched off.
        compress_unit: what a rate is drawn for.
        compress_probability: how often a sixteenth is drawn and not a quarter.
        pad_token_id: fills padded rows.
        keep_dummy_tile: let two empty tiles run through everything, without effect on the loss, so
            that every part is used in every batch; the processes of a run need that.
    """

    def __init__(
        self,
        policy: Trainee,
        reference: VisionLanguageModel | None,
        *,
        compress_unit: Literal["image", "tile"],
        compress_probability: float,
        pad_token_id: int,
        keep_dummy_tile: bool = False,
    ) -> None:
        """Hold both networks."""
        super().__init__()
        self.policy = policy
        self.reference = None if reference is None else Trainee(reference)
        self.compress_unit: Literal["image", "tile"] = compress_unit
        self.compress_probability = compress_probability
        self.pad_token_id = pad_token_id
        self.keep_dummy_tile = keep_dummy_tile
        tower = policy.model.vision_tower
        # while adapters are off none of their weights asks for a gradient, so this is found out now
        self._tower_trains = any(parameter.requires_grad for parameter in tower.parameters())
        own = reference is not None and reference.vision_tower is not tower
        self._shares_patches = not self._tower_trains and not own

    def forward(self, batch: TrainingBatch, total_weight: Tensor | float) -> dict[str, Tensor]:
        """Compute a batch's share of the divergence of a step.

            loss = sum_i w_i * KL(reference(256 a tile) || policy(drawn))_i / total_weight

        Args:
            batch: padded or packed samples with all places of their tiles, on the device of the
                network.
            total_weight: sum of the weights of all response tokens of the step.

        Returns:
            ``loss``, a float32 scalar; ``num_correct``, response tokens at which both have the same
            likeliest token; ``num_targets``; ``num_compressed``, tiles. Counts carry no gradient.
        """
        model = self.policy.model
        is_compressed = self._draw(batch)
        pixel_values = self._with_dummies(batch)
        followed, patches = self._follow(batch, pixel_values)
        nothing = None
        features = None
        if pixel_values is not None:
            if self._tower_trains or patches is None:
                patches = model.encode_patches(pixel_values)
            features, nothing = self._project(patches, is_compressed)
        short = batch
        if batch.pixel_values is not None:
            short = compress_batch(
                batch, is_compressed, model.config.image_token_id, model.config.tokens_per_tile,
                model.config.compressed_tokens_per_tile, self.pad_token_id,
            )  # fmt: skip
        states, expert_loss = self.policy.hidden_states(short, features)
        _, weights = next_tokens(batch, self.policy.averaging)
        chosen = _targets(batch, self.policy)
        own = _head_inputs(model, states, _targets(short, self.policy))
        loss, num_same = linear_kl_divergence(
            own, followed, weights[chosen], chunk_size=self.policy.ce_chunk_size
        )
        if expert_loss is not None:
            loss = loss + self.policy.router_loss_coef * weights.sum() * expert_loss
        if nothing is not None:
            loss = loss + nothing.to(loss.dtype)
        return {
            "loss": loss / total_weight,
            "num_correct": num_same,
            "num_targets": chosen.sum(),
            "num_compressed": is_compressed.sum(),
        }

    def _draw(self, batch: TrainingBatch) -> Tensor:
        if not self.training:
            return torch.ones(batch.num_tiles, dtype=torch.bool)
        config = self.policy.model.config
        images = images_of_tiles(batch.input_ids, config.image_token_id, config.tokens_per_tile)
        return draw_compressed(images, self.compress_unit, self.compress_probability)

    def _with_dummies(self, batch: TrainingBatch) -> Tensor | None:
        if not self.keep_dummy_tile:
            return batch.pixel_values
        height, width = self.policy.model.config.vision_config.image_size
        empty = torch.zeros(_DUMMY_TILES, 3, height, width, device=batch.input_ids.device)
        if batch.pixel_values is None:
            return empty
        return torch.cat([batch.pixel_values, empty.to(batch.pixel_values)])

    def _follow(
        self, batch: TrainingBatch, pixel_values: Tensor | None
    ) -> tuple[HeadInputs, Tensor | None]:
        """What the reference says, and patches ``(N, G, G, C)`` if the policy has the same."""
        patches, features = None, None
        with self._as_reference() as reference:
            model = reference.model
            if pixel_values is not None:
                patches = model.encode_patches(pixel_values)
                projector = model.multi_modal_projector
                features = model.project_patches(patches.to(next(projector.parameters()).dtype))
                features = features[: batch.num_tiles] if batch.pixel_values is not None else None
            states, _ = reference.hidden_states(batch, features)
            inputs = _head_inputs(model, states, _targets(batch, self.policy))
        return inputs, patches if self._shares_patches else None

    @contextmanager
    def _as_reference(self) -> Iterator[Trainee]:
        """The reference, which drops nothing and learns nothing."""
        reference = self.policy if self.reference is None else self.reference
        reference.eval()
        try:
            with torch.no_grad(), adapters_off(reference.model):
                yield reference
        finally:
            self.train(self.training)  # parts that both share too

    def _project(self, patches: Tensor, is_compressed: Tensor) -> tuple[Tensor | None, Any]:
        """Visual tokens ``(tokens, D)`` of the batch; and zero, made from empty tiles."""
        model = self.policy.model
        if not self.keep_dummy_tile:
            return model.project_tiles(patches, is_compressed), None
        dummies = torch.arange(_DUMMY_TILES) == 0
        features = model.project_tiles(patches, torch.cat([is_compressed, dummies]))
        num_empty = model.config.tokens_per_tile + model.config.compressed_tokens_per_tile
        own, empty = features[:-num_empty], features[-num_empty:]
        return (own if len(is_compressed) else None), 0 * empty.float().sum()


def _targets(batch: TrainingBatch, policy: Trainee) -> Tensor:
    """``(B, T - 1)`` bool, the positions at which a response token is predicted."""
    return next_tokens(batch, policy.averaging)[0] != IGNORED


def _head_inputs(model: VisionLanguageModel, states: Tensor, chosen: Tensor) -> HeadInputs:
    head: Any = model.get_output_embeddings()  # a plain layer, or a wrapped copy of one
    return HeadInputs(states[:, :-1][chosen], head.weight, getattr(head, "bias", None))
