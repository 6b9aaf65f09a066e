"""How far one output head's words are from another's, without ever holding all of their logits.

The forward Kullback-Leibler divergence of a policy from a reference over the vocabulary, chunk by
chunk as in :mod:`internvl35.train.cross_entropy`. Which positions count, and what the two networks
see, is left to :mod:`internvl35.train.vico_consistency`. Paper section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from internvl35.train.head_gradients import HeadGradients, chunks, product_dtype, scale_saved


@dataclass(frozen=True)
class HeadInputs:
    """What an output head turns into logits, ``hidden @ weight.T + bias``."""

    hidden: Tensor
    """``(P, D)`` last hidden states, any float dtype."""
    weight: Tensor
    """``(W, D)`` rows of the head."""
    bias: Tensor | None = None
    """``(W,)`` of the head, or ``None``."""

    def logits(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Logits ``(chunk, W)`` of some positions, from a product in ``dtype``; float32 or wider.

        Args:
            part: the positions.
            dtype: of the product.
        """
        bias = None if self.bias is None else self.bias.to(dtype)
        found = functional.linear(self.hidden[part].to(dtype), self.weight.to(dtype), bias)
        return found.to(torch.promote_types(dtype, torch.float32))


def linear_kl_divergence(
    policy: HeadInputs, reference: HeadInputs, token_weights: Tensor, *, chunk_size: int = 1024
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the divergences of the policy from the reference.

        L = sum_p token_weights[p] * KL(softmax(reference[p]) || softmax(policy[p]))

    Gradients flow to the policy's hidden states, weight and bias alone, are computed in the forward
    pass, and only if they will be asked for. Products are in the number format that autocast asks
    for, or else that of the policy's hidden states; everything behind them is float32.

    Args:
        policy: the head that learns.
        reference: the head that is followed, over the same vocabulary and positions.
        token_weights: ``(P,)`` how much each position counts; they carry no gradient.
        chunk_size: positions whose logits exist at one time.

    Returns:
        The sum, a float32 scalar (float64 for float64 inputs), and the number of positions at
        which both have the same likeliest token, an int64 scalar without gradient.

    Raises:
        ValueError: if the chunk size is not positive, or positions or vocabularies differ.
    """
    _check_shapes(policy, reference, chunk_size)
    dtype = product_dtype(policy.hidden)
    needs_gradient = torch.is_grad_enabled()  # inside the function it always reads False
    with torch.autocast(policy.hidden.device.type, enabled=False):
        found: tuple[Tensor, Tensor] = _LinearDivergence.apply(  # type: ignore[no-untyped-call]
            policy.hidden, policy.weight, policy.bias, reference, token_weights, chunk_size,
            dtype, needs_gradient,
        )  # fmt: skip
    return found


@torch.no_grad()
def token_divergences(
    policy: HeadInputs, reference: HeadInputs, *, chunk_size: int = 1024
) -> Tensor:
    """Divergence of the policy from the reference at every position, without gradient.

    Args:
        policy: one head.
        reference: the head that is followed.
        chunk_size: positions whose logits exist at one time.

    Returns:
        ``(P,)`` float32, in nats.

    Raises:
        ValueError: as of :func:`linear_kl_divergence`.
    """
    _check_shapes(policy, reference, chunk_size)
    dtype = product_dtype(policy.hidden)
    parts = []
    with torch.autocast(policy.hidden.device.type, enabled=False):
        for part in chunks(len(policy.hidden), chunk_size):
            own = policy.logits(part, dtype).log_softmax(-1)
            parts.append(_divergences(own, reference.logits(part, dtype).log_softmax(-1)))
    return torch.cat(parts) if parts else policy.hidden.new_zeros(0, dtype=torch.float32)


@torch.no_grad()
def token_cross_entropies(head: HeadInputs, targets: Tensor, *, chunk_size: int = 1024) -> Tensor:
    """Cross-entropy of every position, without gradient.

    Args:
        head: what predicts.
        targets: ``(P,)`` token ids.
        chunk_size: positions whose logits exist at one time.

    Returns:
        ``(P,)`` float32, in nats.
    """
    dtype = product_dtype(head.hidden)
    parts = []
    with torch.autocast(head.hidden.device.type, enabled=False):
        for part in chunks(len(head.hidden), chunk_size):
            logits = head.logits(part, dtype)
            parts.append(functional.cross_entropy(logits, targets[part], reduction="none"))
    return torch.cat(parts) if parts else head.hidden.new_zeros(0, dtype=torch.float32)


def _check_shapes(policy: HeadInputs, reference: HeadInputs, chunk_size: int) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1 position")
    own, other = ((len(head.hidden), len(head.weight)) for head in (policy, reference))
    if own != other:
        raise ValueError(
            f"the policy has {own[0]} positions and {own[1]} words but the reference {other[0]} "
            f"and {other[1]}; both need the same answers and the same vocabulary"
        )


def _divergences(policy: Tensor, reference: Tensor) -> Tensor:
    """``(chunk,)`` divergences from ``(chunk, W)`` natural logarithms of probabilities."""
    return (reference.exp() * (reference - policy)).sum(-1)


class _LinearDivergence(torch.autograd.Function):
    """The sum, with gradients made in the forward pass and only scaled in the backward pass.

    The gradient by a logit of the policy is its own probability less the reference's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reference: HeadInputs,
        token_weights: Tensor,
        chunk_size: int,
        dtype: torch.dtype,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        gradients = HeadGradients(ctx, hidden, weight, bias, dtype, is_needed=needs_gradient)
        policy = HeadInputs(hidden, weight.to(dtype), None if bias is None else bias.to(dtype))
        followed = HeadInputs(reference.hidden, reference.weight.to(dtype), reference.bias)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        num_same = torch.zeros((), dtype=torch.long, device=hidden.device)
        for part in chunks(len(hidden), chunk_size):
            own = policy.logits(part, dtype).log_softmax(-1)  # (chunk, W)
            other = followed.logits(part, dtype).log_softmax(-1)
            num_same += (own.argmax(-1) == other.argmax(-1)).sum()
            scale = token_weights[part].to(wide)
            loss += (_divergences(own, other) * scale).sum()
            if not gradients.is_wanted:
                continue
            to_logits = own.exp_().sub_(other.exp_()).mul_(scale[:, None]).to(dtype)
            gradients.add(part, to_logits, hidden[part].to(dtype), policy.weight)
        ctx.mark_non_differentiable(num_same)
        gradients.save(ctx)
        return loss, num_same

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return scale_saved(ctx, to_loss, num_others=5)
