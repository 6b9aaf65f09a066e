"""Copies of networks that share their weights with the original.

No counterpart in the paper.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def copy_modules(network: M) -> M:
    """Copy a network's modules and configuration; weights and buffers stay the same objects.

    Args:
        network: to copy. A layer that is put into the copy changes the copy alone; a weight that
            changes in place changes in both.

    Returns:
        The copy.
    """
    shared: dict[int, Any] = {}
    for module in network.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            shared[id(tensor)] = tensor
        hook = getattr(module, "_hf_hook", None)  # fetches offloaded weights; may hold all of them
        if hook is not None:
            shared[id(hook)] = hook
    return copy.deepcopy(network, shared)
