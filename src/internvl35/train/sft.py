"""Supervised loss: cross-entropy on answers, averaged per sample the way the paper does.

Which tokens are answers is decided by :mod:`internvl35.data.encoding`, the arithmetic over the
vocabulary by :mod:`internvl35.train.cross_entropy`. Paper section 2.2.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from internvl35.data.batches import IGNORED, TrainingBatch
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.attention import packed_keywords
from internvl35.train.cross_entropy import linear_cross_entropy
from internvl35.train.settings import Averaging


def token_weights(labels: Tensor, averaging: Averaging, *, samples: Tensor | None = None) -> Tensor:
    """Weight of every position under an averaging rule (section 2.2).

    Args:
        labels: ``(B, T)`` targets, ``IGNORED`` where there is none.
        averaging: the rule; ``square`` is InternVL's 1/sqrt(n).
        samples: ``(B, T)`` which sample, counted from 0, each position belongs to; ``None`` for one
            sample a row.

    Returns:
        ``(B, T)`` float32 weights, zero at ignored positions.
    """
    is_target = labels != IGNORED
    if samples is None:
        counts = is_target.sum(dim=1, keepdim=True)  # (B, 1)
    else:
        # shifted by one, a row can belong to one sample more than it has positions
        sums = torch.zeros(labels.numel() + 1, dtype=torch.long, device=labels.device)
        counts = sums.scatter_add(0, samples.flatten(), is_target.long().flatten())[samples]
    power = {"token": 0.0, "sample": -1.0, "square": -0.5}[averaging]
    return is_target.float() * counts.clamp(min=1).float().pow(power)


def sft_loss(logits: Tensor, labels: Tensor, *, averaging: Averaging = "square") -> Tensor:
    """Weighted next-token cross-entropy (section 2.2).

        L = sum_i w_i * CE_i / sum_i w_i

    Args:
        logits: ``(B, T, W)``; position t predicts the token at t + 1.
        labels: ``(B, T)`` targets of one sample a row, ``IGNORED`` where there is none.
        averaging: how samples of different lengths are weighed.

    Returns:
        The loss, a float32 scalar; zero if no position carries loss.
    """
    targets = labels[:, 1:]
    weights = token_weights(targets, averaging)
    chosen = targets != IGNORED
    losses = functional.cross_entropy(
        logits[:, :-1][chosen].float(), targets[chosen], reduction="none"
    )
    weighed = weights[chosen]
    return (losses * weighed).sum() / weighed.sum().clamp(min=torch.finfo(torch.float32).tiny)


def next_tokens(batch: TrainingBatch, averaging: Averaging) -> tuple[Tensor, Tensor]:
    """What each position has to predict, and how much that counts.

    Args:
        batch: padded rows of one sample each, or one row of packed samples.
        averaging: how samples of different lengths are weighed.

    Returns:
        Targets ``(B, T - 1)``, ``IGNORED`` where there is none, and their float32 weights. The last
        token of a packed sample predicts nothing, as if it stood in a row of its own.
    """
    targets = batch.labels[:, 1:]
    if batch.segments is None:
        return targets, token_weights(targets, averaging)
    samples = samples_of(batch)
    targets = targets.masked_fill(samples[:, 1:] != samples[:, :-1], IGNORED)
    return targets, token_weights(targets, averaging, samples=samples[:, 1:])


def samples_of(batch: TrainingBatch) -> Tensor:
    """Say which sample every position belongs to.

    Args:
        batch: padded or packed samples.

    Returns:
        ``(B, T)`` int64, counted from 0; padding belongs to the sample before it.
    """
    num_rows, length = batch.labels.shape
    if batch.segments is None:
        rows = torch.arange(num_rows, device=batch.labels.device)
        return rows[:, None].expand(num_rows, length)
    places = torch.arange(length, device=batch.labels.device)
    starts = batch.segments.to(places.device, places.dtype)
    return (torch.bucketize(places, starts, right=True) - 1)[None]


def batch_weight(batch: TrainingBatch, averaging: Averaging) -> float:
    """Sum of the weights of all targets of a batch: what its loss is a share of.

    Args:
        batch: padded or packed samples.
        averaging: how samples of different lengths are weighed.

    Returns:
        The number of targets for ``token``, of samples with targets for ``sample``, the sum of the
        square roots of the samples' numbers of targets for ``square``.
    """
    return float(next_tokens(batch, averaging)[1].sum(dtype=torch.float64))


def count_experts(model: VisionLanguageModel) -> tuple[int, int]:
    """Count the experts of a layer, and how many of them a token takes; 0 and 0 without any."""
    config = model.config.text_config
    names = ("num_experts", "num_local_experts")  # of Qwen3-MoE, of GPT-OSS
    num_experts = next((n for name in names if (n := getattr(config, name, None))), 0)
    return num_experts, config.num_experts_per_tok if num_experts else 0


def recompute_activations(model: VisionLanguageModel) -> None:
    """Keep only the inputs of tower and decoder layers and compute the rest again when needed.

    Frozen embeddings do no harm: adapters behind them get their gradients all the same.

    Args:
        model: the network, changed in place; only training mode is affected.
    """
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # the name in newer transformers
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)


class Trainee(nn.Module):
    """A network together with its supervised loss, as one module to wrap, shard and train.

    Pictures, language model, output head and loss all run inside :meth:`forward`, so that a unit
    that shards this module has the weights gathered whenever they are needed. Parts in which
    nothing is trained run without keeping anything for the backward pass.

    Args:
        model: the network, with or without adapters in its layers; for packed rows,
            ``use_packed_attention`` was called on it.
        averaging: how samples of different lengths are weighed.
        ce_chunk_size: positions whose logits exist at one time.
        router_loss_coef: weight of the loss that spreads tokens over experts, of training alone;
            only for networks that have experts.
        keep_dummy_tile: run one empty tile through tower and projector, without effect on the loss,
            where a batch has no pictures. Sharded parts have to run in all processes or in none.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        averaging: Averaging = "square",
        ce_chunk_size: int = 1024,
        router_loss_coef: float = 0.0,
        keep_dummy_tile: bool = False,
    ) -> None:
        """Hold the network; nothing of it is changed."""
        super().__init__()
        self.model = model
        self.averaging: Averaging = averaging
        self.ce_chunk_size = ce_chunk_size
        self.router_loss_coef = router_loss_coef
        self.keep_dummy_tile = keep_dummy_tile

    def forward(self, batch: TrainingBatch, total_weight: Tensor | float) -> dict[str, Tensor]:
        """Compute a batch's share of the loss of a step (section 2.2).

            loss = sum_i w_i * CE_i / total_weight

        With a loss of routers, every batch adds its own, weighed by its share of the step's weight.

        Args:
            batch: padded or packed samples, on the device of the network.
            total_weight: sum of :func:`batch_weight` over all batches of the step, those of other
                processes included; with the weight of this batch alone the loss is its mean.

        Returns:
            ``loss``, a float32 scalar; ``num_correct``, how many targets are the likeliest token;
            ``num_targets``. The two counts are int64 scalars without gradient.
        """
        return self.answer_loss(batch, total_weight, None)

    def answer_loss(
        self, batch: TrainingBatch, total_weight: Tensor | float, features: Tensor | None
    ) -> dict[str, Tensor]:
        """What :meth:`forward` returns, from visual tokens that are there already.

        Args:
            batch: padded or packed samples, on the device of the network.
            total_weight: as in :meth:`forward`.
            features: ``(N, V, D)`` visual tokens of the batch's tiles; None to compute them.
        """
        targets, weights = next_tokens(batch, self.averaging)
        chosen = targets != IGNORED
        states, router_loss = self.hidden_states(batch, features)
        hidden = states[:, :-1][chosen]  # (P, D)
        head: Any = self.model.get_output_embeddings()  # a plain layer, or a wrapped copy of one
        loss, num_correct = linear_cross_entropy(
            hidden,
            head.weight,
            targets[chosen],
            weights[chosen],
            bias=getattr(head, "bias", None),
            chunk_size=self.ce_chunk_size,
        )
        if router_loss is not None:
            loss = loss + self.router_loss_coef * weights.sum() * router_loss
        return {
            "loss": loss / total_weight,
            "num_correct": num_correct,
            "num_targets": chosen.sum(),
        }

    def hidden_states(
        self, batch: TrainingBatch, features: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Last hidden states ``(B, T, D)`` of the language model, and the loss of its experts.

        Args:
            batch: padded or packed samples, on the device of the network.
            features: ``(N, V, D)`` or ``(tokens, D)`` visual tokens of the batch's tiles; None to
                compute them.

        Padding lies to the right, where causal attention keeps it out of everything that counts, so
        padded rows need no mask.
        """
        keywords: dict[str, Any] = {}
        if batch.segments is not None:
            keywords = packed_keywords(self.model, batch.segments)
        has_router_loss = self.router_loss_coef > 0 and self.training
        if has_router_loss:
            keywords["output_router_logits"] = True
        output = self.model.language_model.model(
            inputs_embeds=self._inputs(batch, features),
            position_ids=batch.position_ids,
            use_cache=False,
            **keywords,
        )
        if not has_router_loss:
            return output.last_hidden_state, None
        num_experts, num_chosen = count_experts(self.model)
        is_padded = batch.segments is None
        router_loss: Tensor = load_balancing_loss_func(
            output.router_logits, num_experts, num_chosen,
            batch.attention_mask if is_padded else None,
        )  # fmt: skip
        return output.last_hidden_state, router_loss

    def _inputs(self, batch: TrainingBatch, features: Tensor | None) -> Tensor:
        """Embedded tokens ``(B, T, D)`` with visual tokens in their places."""
        if batch.pixel_values is not None:
            if features is None:
                features = self._encode(batch.pixel_values)
            return self.model.embed_inputs(batch.input_ids, features)
        embed = self.model.get_input_embeddings()
        if not self.keep_dummy_tile:
            embeds: Tensor = embed(batch.input_ids)
            return embeds
        height, width = self.model.config.vision_config.image_size
        empty = torch.zeros(1, 3, height, width, device=batch.input_ids.device)
        # first, as pictures are: processes that gather weights have to do so in the same order
        nothing = 0 * self._encode(empty).mean()
        embeds = embed(batch.input_ids)
        return embeds + nothing.to(embeds.dtype)

    def _encode(self, pixel_values: Tensor) -> Tensor:
        """Visual tokens ``(N, V, D)``, without a graph as far as nothing is trained."""
        tower_trains, projector_trains = (
            _is_trained(part)
            for part in (self.model.vision_tower, self.model.multi_modal_projector)
        )
        with nullcontext() if tower_trains else torch.no_grad():
            patches = self.model.encode_patches(pixel_values)
        # a tower that trains computes wider than a frozen projector, whose norm takes its own dtype
        patches = patches.to(next(self.model.multi_modal_projector.parameters()).dtype)
        with nullcontext() if tower_trains or projector_trains else torch.no_grad():
            return self.model.project_patches(patches)


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
