"""Gradients of an output head that are made chunk by chunk, while the logits of a chunk are there.

Which loss the logits go into is left to :mod:`internvl35.train.cross_entropy` and
:mod:`internvl35.train.divergence`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Number format of an ordinary head's product: what autocast asks for, or that of its input."""
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device_type)
    return hidden.dtype


def chunks(num_positions: int, chunk_size: int) -> Iterator[slice]:
    """Cut positions into stretches of at most ``chunk_size``."""
    return (slice(start, start + chunk_size) for start in range(0, num_positions, chunk_size))


class HeadGradients:
    """Gradients of ``hidden @ weight.T + bias``, summed over chunks of positions.

    Args:
        ctx: of the autograd function whose first inputs are hidden states, weight and bias.
        hidden: ``(P, D)`` last hidden states.
        weight: ``(W, D)`` rows of the head.
        bias: ``(W,)`` of the head, or ``None``.
        dtype: number format of the products; sums are float32, or wider.
        is_needed: whether gradients are asked for at all.
    """

    def __init__(
        self,
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        *,
        is_needed: bool,
    ) -> None:
        """Begin with zeros for whatever is asked for."""
        wide = torch.promote_types(dtype, torch.float32)
        wants = [is_needed and needed for needed in ctx.needs_input_grad[:3]]
        self.is_wanted = any(wants)
        self._dtypes = (weight.dtype, None if bias is None else bias.dtype)
        self._hidden = torch.zeros_like(hidden) if wants[0] else None
        self._weight = torch.zeros_like(weight, dtype=wide) if wants[1] else None
        self._bias = torch.zeros_like(bias, dtype=wide) if wants[2] and bias is not None else None

    def add(self, part: slice, to_logits: Tensor, vectors: Tensor, rows: Tensor) -> None:
        """Add what a chunk's logits give.

        Args:
            part: positions of the chunk.
            to_logits: ``(chunk, W)`` gradients by its logits, in the format of the products.
            vectors: ``(chunk, D)`` its hidden states, likewise.
            rows: ``(W, D)`` the head, likewise.
        """
        if self._hidden is not None:
            self._hidden[part] = (to_logits @ rows).to(self._hidden.dtype)
        if self._weight is not None:
            self._weight += to_logits.T @ vectors
        if self._bias is not None:
            self._bias += to_logits.sum(dim=0, dtype=self._bias.dtype)

    def save(self, ctx: Any) -> None:
        """Keep the sums for :func:`scale_saved`, in the number formats of what they belong to."""
        weight_dtype, bias_dtype = self._dtypes
        ctx.save_for_backward(
            self._hidden,
            None if self._weight is None else self._weight.to(weight_dtype),
            None if self._bias is None else self._bias.to(bias_dtype),
        )


def scale_saved(ctx: Any, to_loss: Tensor, num_others: int) -> tuple[Tensor | None, ...]:
    """Turn the saved gradients into those of an autograd function's inputs.

    Args:
        ctx: as :meth:`HeadGradients.save` left it.
        to_loss: gradient by the sum.
        num_others: inputs behind the first three, which have no gradient.
    """
    scaled = [
        None if gradient is None else gradient * to_loss.to(gradient.dtype)
        for gradient in ctx.saved_tensors
    ]
    return (*scaled, *[None] * num_others)
