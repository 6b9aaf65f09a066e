"""Stochastic depth of the vision tower: in training, tiles skip branches of its layers at random.

The released scripts train with a rate of 0 to 0.4, which rises from 0 at the first layer to the
rate at the last. Paper section 2.2; arXiv 1603.09382.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel


def drop_branch(branch: Tensor, rate: float) -> Tensor:
    """Leave a branch out for some of the tiles and scale it up for the others.

    Args:
        branch: ``(N, ...)`` what a residual branch adds for each tile.
        rate: chance of a tile to lose it, 0 to below 1.

    Returns:
        The same shape, 0 or ``1 / (1 - rate)`` times the branch, so that its mean stays.
    """
    shape = (branch.shape[0], *[1] * (branch.ndim - 1))
    is_kept = torch.rand(shape, device=branch.device) >= rate
    return branch * (is_kept / (1 - rate)).to(branch.dtype)


def add_drop_path(model: VisionLanguageModel, rate: float) -> Callable[[], None]:
    """Let tiles skip attention and MLP of tower layers while the tower is in training mode.

    Args:
        model: the network; its weights and their names stay as they are.
        rate: chance at the last layer; the first layer has none, those between lie on a line.

    Returns:
        A function that takes the stochastic depth away again.

    Raises:
        ConfigError: if the rate is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"drop_path_rate is {rate}; needed: 0 to below 1")
    layers = model.vision_tower.encoder.layer
    handles: list[RemovableHandle] = []
    for index, layer in enumerate(layers):
        chance = rate * index / max(len(layers) - 1, 1)
        if chance > 0:
            for branch in (layer.attention, layer.mlp):
                handles.append(branch.register_forward_hook(partial(_drop_output, chance)))

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove


def _drop_output(rate: float, module: nn.Module, _: Any, output: Any) -> Any:
    """Forward hook; attention returns its weights beside what it adds."""
    if not module.training:
        return output
    if isinstance(output, tuple):
        return (drop_branch(output[0], rate), *output[1:])
    return drop_branch(output, rate)
