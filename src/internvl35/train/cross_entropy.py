"""Cross-entropy of an output head without ever holding all of its logits.

Logits of 32,768 positions over a vocabulary of 150,000 would take 20 GB in float32, several times
over. Positions are taken chunk by chunk instead, and gradients of a chunk are computed while its
logits are at hand. Which positions carry loss, and how much, is left to
:mod:`internvl35.train.sft`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from internvl35.train.head_gradients import HeadGradients, chunks, product_dtype, scale_saved


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    token_weights: Tensor,
    *,
    bias: Tensor | None = None,
    chunk_size: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropies of ``hidden @ weight.T + bias``.

        L = sum_p token_weights[p] * (logsumexp(logits[p]) - logits[p, targets[p]])

    Logits come from a product in the number format that autocast asks for, or else that of
    ``hidden``, and everything behind the product is float32, as with an ordinary head. Gradients of
    ``hidden`` and ``weight`` are computed in the forward pass, and only if they will be asked for.
    Tensors have to be plain: where weights are sharded, call this inside the forward pass of the
    unit that gathers the head.

    Args:
        hidden: ``(P, D)`` last hidden states, any float dtype.
        weight: ``(W, D)`` rows of the output head.
        targets: ``(P,)`` token ids, each in ``[0, W)``.
        token_weights: ``(P,)`` how much each position counts; they carry no gradient.
        bias: ``(W,)`` of the output head, or ``None``.
        chunk_size: positions whose logits exist at one time.

    Returns:
        The sum, a float32 scalar (float64 for float64 inputs), and the number of positions whose
        largest logit is the target's, an int64 scalar without gradient.

    Raises:
        ValueError: if the chunk size is not positive.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1 position")
    dtype = product_dtype(hidden)
    needs_gradient = torch.is_grad_enabled()  # inside the function it always reads False
    with torch.autocast(hidden.device.type, enabled=False):
        found: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, targets, token_weights, chunk_size, dtype, needs_gradient
        )
    return found


class _LinearCrossEntropy(torch.autograd.Function):
    """The sum, with gradients made in the forward pass and only scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        token_weights: Tensor,
        chunk_size: int,
        dtype: torch.dtype,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        gradients = HeadGradients(ctx, hidden, weight, bias, dtype, is_needed=needs_gradient)
        rows = weight.to(dtype)
        offsets = None if bias is None else bias.to(dtype)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        num_correct = torch.zeros((), dtype=torch.long, device=hidden.device)
        for part in chunks(len(hidden), chunk_size):
            vectors, wanted_ids = hidden[part].to(dtype), targets[part, None]
            logits = torch.nn.functional.linear(vectors, rows, offsets).to(wide)  # (chunk, W)
            num_correct += (logits.argmax(dim=-1, keepdim=True) == wanted_ids).sum()
            chances, losses = _softmax_in_place(logits, wanted_ids)
            loss += (losses * token_weights[part].to(wide)).sum()
            if not gradients.is_wanted:
                continue
            chances.scatter_add_(1, wanted_ids, chances.new_full((1, 1), -1).expand_as(wanted_ids))
            to_logits = chances.mul_(token_weights[part, None].to(wide)).to(dtype)
            gradients.add(part, to_logits, vectors, rows)
        ctx.mark_non_differentiable(num_correct)
        gradients.save(ctx)
        return loss, num_correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return scale_saved(ctx, to_loss, num_others=5)


def _softmax_in_place(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits ``(chunk, W)`` into probabilities where they lie; also ``(chunk,)`` losses."""
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    at_target = logits.gather(1, targets)
    total = logits.exp_().sum(dim=-1, keepdim=True)
    return logits.div_(total), (total.log() - at_target).squeeze(1)
