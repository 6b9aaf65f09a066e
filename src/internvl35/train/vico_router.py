"""ViCO's second stage: the router learns which tiles lose nothing when they are compressed.

Everything but the router is frozen. Labels come from :mod:`internvl35.train.ratio_window`; what is
trained, and settings, are left to :mod:`internvl35.train.vico`. Paper section 2.3.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from internvl35.data.batches import IGNORED, TrainingBatch
from internvl35.data.compression import compress_batch
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.divergence import HeadInputs, token_cross_entropies, token_divergences
from internvl35.train.ratio_window import COMPRESS, RatioWindow, class_weights, loss_ratios
from internvl35.train.sft import Trainee, next_tokens, samples_of
from internvl35.train.vico_settings import VicoSettings


def samples_of_tiles(batch: TrainingBatch, image_token_id: int, tokens_per_tile: int) -> Tensor:
    """Say which sample every tile of a batch belongs to.

    Args:
        batch: padded or packed samples with all places of their tiles.
        image_token_id: marks the places of visual tokens.
        tokens_per_tile: places of one tile.

    Returns:
        ``(N,)`` int64, in the order of the tiles.
    """
    is_place = batch.input_ids == image_token_id
    return samples_of(batch)[is_place][::tokens_per_tile]


def turns_of_tiles(
    samples: Tensor, most: int | None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw in which pass every tile is compressed, one tile of a sample at a time.

    Args:
        samples: ``(N,)`` which sample each tile belongs to, in rising order.
        most: tiles of a sample that have a turn; None for all.
        generator: of random numbers on the CPU; None for torch's own.

    Returns:
        ``(N,)`` int64 number of the pass, -1 for tiles without a turn.
    """
    samples = samples.cpu()
    turns = torch.full_like(samples, -1)
    for sample in samples.unique().tolist():
        tiles = (samples == sample).nonzero().flatten()
        chosen = tiles[torch.randperm(len(tiles), generator=generator)[:most]]
        turns[chosen] = torch.arange(len(chosen))
    return turns


def count_judged(samples: Tensor, most: int | None) -> int:
    """Count the tiles that :func:`turns_of_tiles` gives a turn."""
    counts = samples.unique(return_counts=True)[1]
    return int((counts if most is None else counts.clamp(max=most)).sum())


class RouterTrainee(nn.Module):
    """A frozen network together with the loss of its router (section 2.3).

    Args:
        model: a Flash model in which nothing but the router trains.
        reference: the model before the first stage, for the divergence; None for cross-entropy.
        window: past ratios, which labels follow from.
        settings: of ViCO.
        pad_token_id: fills padded rows.
        chunk_size: positions whose logits exist at one time.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        reference: VisionLanguageModel | None,
        window: RatioWindow,
        settings: VicoSettings,
        *,
        pad_token_id: int,
        chunk_size: int = 1024,
    ) -> None:
        """Hold the networks."""
        super().__init__()
        self.policy = Trainee(model)
        self.reference = None if reference is None else Trainee(reference)
        self.window = window
        self.settings = settings
        self.pad_token_id = pad_token_id
        self.chunk_size = chunk_size

    def train(self, mode: bool = True) -> Self:
        """Let the router alone drop values in training."""
        super().train(False)
        self.training = mode
        router = self.policy.model.router
        assert router is not None
        router.train(mode)
        return self

    def forward(self, batch: TrainingBatch, total_weight: Tensor | float) -> dict[str, Tensor]:
        """Compute a batch's share of the router's loss of a step.

            loss = sum_i w(label_i) * CE(router(tile_i), label_i) / total_weight

        Args:
            batch: padded or packed samples with all places of their tiles, on the device of the
                network.
            total_weight: tiles that are judged in the step.

        Returns:
            ``loss``, a float32 scalar, zero while too few ratios are known; ``num_correct``,
            ``num_targets`` and ``num_compress``: tiles whose label the router gives, that have
            one, and whose label is compress. Counts carry no gradient.
        """
        model = self.policy.model
        router = model.router
        assert router is not None
        if batch.pixel_values is None:
            return self._untaught(self._empty_patches(batch))
        with torch.no_grad():
            patches = model.encode_patches(batch.pixel_values)
            turns = self._turns(batch)
            ratios, judged = self._judge(batch, patches, turns)
        if self.training:
            self.window.note(ratios)
        labels = self.window.label(ratios)
        if labels is None or len(labels) == 0:
            return self._untaught(patches[:1])
        logits = router.logits(patches[judged])  # (J, 2)
        share = self.window.compress_share
        balance = class_weights(share) if self.settings.balance_classes else (1.0, 1.0)
        losses = functional.cross_entropy(logits.float(), labels, reduction="none")
        weights = losses.new_tensor(balance)[labels]
        return {
            "loss": (losses * weights).sum() / total_weight,
            "num_correct": (logits.argmax(-1) == labels).sum(),
            "num_targets": losses.new_tensor(len(labels), dtype=torch.long),
            "num_compress": (labels == COMPRESS).sum(),
        }

    def _empty_patches(self, batch: TrainingBatch) -> Tensor:
        height, width = self.policy.model.config.vision_config.image_size
        empty = torch.zeros(1, 3, height, width, device=batch.input_ids.device)
        with torch.no_grad():
            return self.policy.model.encode_patches(empty)

    def _untaught(self, patches: Tensor) -> dict[str, Tensor]:
        """A loss of zero that still reaches every weight of the router."""
        router = self.policy.model.router
        assert router is not None
        zero = torch.zeros((), dtype=torch.long, device=patches.device)
        counts = dict.fromkeys(("num_correct", "num_targets", "num_compress"), zero)
        return {"loss": 0 * router.logits(patches).float().sum(), **counts}

    def _turns(self, batch: TrainingBatch) -> Tensor:
        """``(N,)`` in which pass each tile is compressed; -1 for none."""
        config = self.policy.model.config
        samples = samples_of_tiles(batch, config.image_token_id, config.tokens_per_tile)
        if self.settings.attribution == "all_tiles":
            return torch.zeros_like(samples.cpu())
        return turns_of_tiles(samples, self.settings.tiles_per_row, self._numbers(len(samples)))

    def _judge(self, batch: TrainingBatch, patches: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Loss ratios ``(J,)`` of the tiles that have a turn, and which tiles those are."""
        config = self.policy.model.config
        samples = samples_of_tiles(batch, config.image_token_id, config.tokens_per_tile)
        followed = self._followed(batch, patches)
        background = self._background(len(turns))
        before = self._sample_losses(batch, patches, background, followed)
        ratios = before.new_zeros(len(turns))
        for turn in range(int(turns.max()) + 1):
            has_turn = turns == turn
            after = self._sample_losses(batch, patches, background ^ has_turn, followed)
            found = loss_ratios(after, before, self.settings.ratio_floor)
            has_turn = has_turn.to(ratios.device)
            ratios[has_turn] = found[samples[has_turn]]
        # a tile that is compressed in the background is whole in its turn
        ratios = torch.where(background.to(ratios.device), 1 / ratios, ratios)
        judged = (turns >= 0).to(ratios.device)
        return ratios[judged], judged

    def _background(self, num_tiles: int) -> Tensor:
        """``(N,)`` bool, tiles that are compressed unless they have their turn."""
        chance = torch.rand(num_tiles, generator=self._numbers(num_tiles))
        return chance < self.settings.background

    def _numbers(self, num_tiles: int) -> torch.Generator | None:
        """Random numbers: torch's own in training.

        Evaluations draw the same for the same batch, and leave torch's own alone.
        """
        return None if self.training else torch.Generator().manual_seed(num_tiles)

    def _followed(self, batch: TrainingBatch, patches: Tensor) -> HeadInputs | None:
        """What the reference says with all visual tokens; None without one."""
        if self.reference is None:
            return None
        assert batch.pixel_values is not None
        features = self.reference.model.get_image_features(batch.pixel_values)
        return _answers(self.reference, batch, features)

    def _sample_losses(
        self,
        batch: TrainingBatch,
        patches: Tensor,
        is_compressed: Tensor,
        followed: HeadInputs | None,
    ) -> Tensor:
        """Mean loss of the response tokens of every sample, ``(S,)``."""
        config = self.policy.model.config
        short = compress_batch(
            batch, is_compressed, config.image_token_id, config.tokens_per_tile,
            config.compressed_tokens_per_tile, self.pad_token_id,
        )  # fmt: skip
        features = self.policy.model.project_tiles(patches, is_compressed)
        own = _answers(self.policy, short, features)
        targets = next_tokens(short, "token")[0]
        chosen = targets != IGNORED
        if followed is None:
            losses = token_cross_entropies(own, targets[chosen], chunk_size=self.chunk_size)
        else:
            losses = token_divergences(own, followed, chunk_size=self.chunk_size)
        samples = samples_of(short)[:, 1:][chosen]
        sums = losses.new_zeros(len(batch)).index_add(0, samples, losses)
        counts = losses.new_zeros(len(batch)).index_add(0, samples, torch.ones_like(losses))
        return sums / counts.clamp(min=1)


def _answers(trainee: Trainee, batch: TrainingBatch, features: Tensor) -> HeadInputs:
    """What the output head gets at the positions that predict response tokens."""
    states, _ = trainee.hidden_states(batch, features)
    chosen = next_tokens(batch, "token")[0] != IGNORED
    head = trainee.model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    return HeadInputs(states[:, :-1][chosen], head.weight, head.bias)
