"""Supervised loss: cross-entropy on answers, averaged per sample the way the paper does.

Which tokens are answers is decided by :mod:`internvl35.data.prompt`. Paper section 2.2.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from internvl35.data.batches import IGNORED

Averaging = Literal["token", "sample", "square"]
"""Weight of a token of a sample with n supervised tokens: 1, 1/n or 1/sqrt(n)."""


def token_weights(labels: Tensor, averaging: Averaging) -> Tensor:
    """Weight of every position under an averaging rule (section 2.2).

    Args:
        labels: ``(B, T)`` targets of one sample a row, ``IGNORED`` where there is none.
        averaging: the rule; ``square`` is InternVL's 1/sqrt(n).

    Returns:
        ``(B, T)`` float32 weights, zero at ignored positions.
    """
    is_target = labels != IGNORED
    counts = is_target.sum(dim=1, keepdim=True).clamp(min=1).float()
    power = {"token": 0.0, "sample": -1.0, "square": -0.5}[averaging]
    return is_target.float() * counts.pow(power)


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
