"""A network with adapters as if it had none: adapters switched off for a while, or merged weights.

The network itself keeps its adapters. Putting them in and taking them out for good is left to
:mod:`internvl35.train.adapters`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from internvl35.train.adapters import adapted_layers, merge_layer


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Let a network compute what it computed before it had adapters.

    Args:
        model: with adapters that train, or without any; as before at the end.
    """
    inner = [part for layer in adapted_layers(model).values() for part in _with_inner(layer)]
    for layer in inner:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in inner:
            layer.enable_adapters(True)


def _with_inner(layer: nn.Module) -> list[Any]:
    return [part for part in layer.modules() if hasattr(part, "enable_adapters")]


def merged_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights with adapters added to them, under the names of a network without any.

    Adapters are merged in a copy of one layer at a time, so that little memory is taken.

    Args:
        model: with or without adapters; unchanged.

    Yields:
        Name and weight.
    """
    layers = adapted_layers(model)
    done: set[str] = set()
    for name, parameter in model.named_parameters():
        path = next((path for path in layers if name.startswith(f"{path}.")), None)
        if path is None:
            yield name, parameter
        elif path not in done:
            done.add(path)
            for inner, value in merge_layer(copy.deepcopy(layers[path])).named_parameters():
                yield f"{path}.{inner}", value
