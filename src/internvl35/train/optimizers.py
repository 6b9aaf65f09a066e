"""Optimizers of a run, from groups of parameters that carry their peak rates.

Which parameter belongs to which group is decided by :mod:`internvl35.train.trainable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from internvl35.train.settings import OptimizationSettings


def build_optimizers(
    groups: Sequence[dict[str, Any]], settings: OptimizationSettings
) -> list[torch.optim.Optimizer]:
    """Build AdamW, or Muon for hidden matrices and AdamW for the rest.

    Args:
        groups: each with ``params``, ``weight_decay`` and ``peak_lr``; a group that bears
            ``is_hidden`` holds hidden matrices alone.
        settings: name of the optimizer, betas and epsilon.

    Returns:
        At least one optimizer; every group keeps its ``peak_lr``, which the schedule scales.
    """
    is_muon = settings.optim == "muon"
    hidden = [group for group in groups if is_muon and group.get("is_hidden")]
    rest = [group for group in groups if not (is_muon and group.get("is_hidden"))]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        is_on_gpu = all(p.device.type == "cuda" for group in rest for p in group["params"])
        optimizers.append(
            torch.optim.AdamW(
                rest,
                lr=0.0,
                betas=(settings.adam_beta1, settings.adam_beta2),
                eps=settings.adam_epsilon,
                fused=is_on_gpu or None,  # one kernel, and no copies of all weights in between
            )
        )
    if hidden:
        optimizers.append(torch.optim.Muon(hidden, lr=0.0, adjust_lr_fn="match_rms_adamw"))
    return optimizers
