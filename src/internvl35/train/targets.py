"""Which layers get adapters: names and ``all-linear`` spelt out as patterns of full names.

What is done with the layers is left to :mod:`internvl35.train.adapters`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from torch import nn

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.settings import FreezeSettings
from internvl35.train.trainable import trained_parts

ALL_LINEAR = "all-linear"
"""Stands for every linear layer of the parts that are not frozen, except the output head."""


def target_pattern(
    model: VisionLanguageModel, freeze: FreezeSettings, targets: Sequence[str] = (ALL_LINEAR,)
) -> str:
    """Say which layers get adapters, as a pattern that fits their full names and no other.

    Args:
        model: the network, without adapters.
        freeze: parts that get none.
        targets: names of linear layers, the last parts of the path being enough, or
            ``all-linear``.

    Returns:
        A regular expression, empty if only fused experts are named. Never in it: the output head,
        embeddings, the routers and fused experts of mixture models, which are no linear layers.

    Raises:
        ConfigError: if all parts are frozen, or a name fits nothing in the others.
    """
    linear = _linear_layers(model, freeze)
    experts = _fused_experts(model, freeze)
    chosen: set[str] = set()
    for target in targets:
        fitting = linear if target == ALL_LINEAR else [n for n in linear if is_end_of(target, n)]
        if not fitting and not any(is_end_of(target, name) for name in experts):
            raise ConfigError(_no_such_target(target, linear, trained_parts(freeze)))
        chosen.update(fitting)
    return pattern_of((name for name in linear if name in chosen), linear)


def target_experts(
    model: VisionLanguageModel, freeze: FreezeSettings, targets: Sequence[str]
) -> list[str]:
    """Say which fused experts get adapters: those that are named and are no linear layers.

    Adapters there cost much, since all experts of a layer are computed anew in every pass; hence
    ``all-linear`` leaves them out.

    Args:
        model: the network, without adapters.
        freeze: parts that get none.
        targets: as for :func:`target_pattern`, for example ``experts.down_proj``.

    Returns:
        Ends of the parameters' names, in PEFT's words ``target_parameters``.
    """
    linear = _linear_layers(model, freeze)
    chosen = [
        name
        for target in targets
        if not any(is_end_of(target, layer) for layer in linear)
        for name in _fused_experts(model, freeze)
        if is_end_of(target, name)
    ]
    return sorted({".".join(name.rsplit(".", 3)[-3:]) for name in chosen})


def _linear_layers(model: VisionLanguageModel, freeze: FreezeSettings) -> list[str]:
    head, parts = model.get_output_embeddings(), trained_parts(freeze)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and name.split(".")[0] in parts
    ]


def _fused_experts(model: VisionLanguageModel, freeze: FreezeSettings) -> list[str]:
    if "language_model" not in trained_parts(freeze):
        return []
    return [
        f"language_model.{name}"
        for name, parameter in model.language_model.named_parameters()
        if ".experts." in name and parameter.ndim == 3
    ]


def is_end_of(target: str, name: str) -> bool:
    """Whether the last parts of a path, cut at dots, are those of a target."""
    return f".{name}".endswith(f".{target}")


def _no_such_target(target: str, linear: Iterable[str], parts: Sequence[str]) -> str:
    if target == "lm_head" or target.endswith(".lm_head"):
        return (
            "target_modules names lm_head, the output head, which gets no adapter; name it in "
            "modules_to_save to train it as a whole"
        )
    known = sorted({name.rsplit(".", 1)[-1] for name in linear})
    nearest = difflib.get_close_matches(target.rsplit(".", 1)[-1], known, n=1)
    hint = f", perhaps {nearest[0]}" if nearest else ""
    return (
        f"target_modules names {target}, but no linear layer of {', '.join(parts)} is called so; "
        f"use {ALL_LINEAR} or one of: {', '.join(known)}{hint}"
    )


def pattern_of(chosen: Iterable[str], known: Iterable[str]) -> str:
    """Write names as a regular expression.

    Args:
        chosen: paths in the network.
        known: all paths that could be taken for one of them.

    Returns:
        What fits the full paths that were chosen and no other known one; numbers of layers are left
        open where all layers are chosen alike.
    """
    names = list(chosen)
    groups: dict[str, list[str]] = {}
    for name in names:
        parent, _, leaf = name.rpartition(".")
        parent = re.sub(r"(?<=\.)\d+(?=\.)", "#", f"{parent}.")  # all layers alike
        leaves = groups.setdefault(re.escape(parent).replace(r"\#", r"\d+"), [])
        if leaf not in leaves:
            leaves.append(leaf)
    pattern = "|".join(f"{parent}({'|'.join(leaves)})" for parent, leaves in groups.items())
    if {name for name in known if re.fullmatch(pattern, name)} == set(names):
        return pattern
    return "|".join(re.escape(name) for name in names)  # some layers only
