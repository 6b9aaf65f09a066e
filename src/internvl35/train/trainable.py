"""Which weights train: frozen parts, groups of parameters with their rates, counts for the log.

Adapters are left to :mod:`internvl35.train.adapters`, optimizers to
:mod:`internvl35.train.optimizers`. Paper section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.settings import FreezeSettings, OptimizationSettings

Part = Literal[
    "vision_tower", "multi_modal_projector", "language_model", "compressed_projector", "router"
]
"""Parts of the network by their names in memory."""

PARTS: tuple[Part, ...] = ("vision_tower", "multi_modal_projector", "language_model")
"""Those that every network has, and that settings freeze."""

FLASH_PARTS: tuple[Part, ...] = ("compressed_projector", "router")
"""Those of a Flash model, which nothing but ViCO trains."""


@dataclass(frozen=True)
class PartCount:
    """Parameters of one part."""

    part: Part
    """The part."""
    num_trainable: int
    """Numbers that training changes."""
    num_parameters: int
    """Numbers in all, adapters included; quantised weights count as packed."""


def trained_parts(freeze: FreezeSettings) -> tuple[Part, ...]:
    """List the parts that are not frozen.

    Args:
        freeze: which parts keep their weights.

    Returns:
        At least one part.

    Raises:
        ConfigError: if all are frozen.
    """
    frozen = {
        "vision_tower": freeze.freeze_vit,
        "multi_modal_projector": freeze.freeze_aligner,
        "language_model": freeze.freeze_llm,
    }
    parts = tuple(part for part in PARTS if not frozen[part])
    if not parts:
        raise ConfigError(
            "freeze_vit, freeze_aligner and freeze_llm are all true, so nothing would be trained; "
            "set one of them to false"
        )
    return parts


def freeze_parts(model: VisionLanguageModel, freeze: FreezeSettings) -> None:
    """Let exactly the parts train that are not frozen; for training without adapters.

    Args:
        model: the network.
        freeze: which parts keep their weights; the output head belongs to the language model.

    Raises:
        ConfigError: if all are frozen.
    """
    trained = trained_parts(freeze)
    model.requires_grad_(False)
    for part in trained:
        model.get_submodule(part).requires_grad_(True)


def use_float32_masters(module: nn.Module) -> None:
    """Keep what trains in float32, since small updates vanish in bfloat16.

    Args:
        module: the network or a part of it; weights that do not train stay as they are.
    """
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def parameter_groups(
    module: nn.Module, settings: OptimizationSettings, learning_rate: float
) -> list[dict[str, Any]]:
    """Sort what trains into groups for an optimizer.

    Args:
        module: whatever contains the network; parameters without ``requires_grad`` are left out.
        settings: weight decay, and the rates of tower and projector if they have their own.
        learning_rate: peak rate of everything else.

    Returns:
        Groups with ``params``, ``peak_lr``, ``weight_decay`` (0 for vectors: norms,
        biases, scales) and ``is_hidden`` (matrices that neither embed tokens nor make logits).

    Raises:
        ConfigError: if nothing trains.
    """
    rates = {
        "vision_tower": settings.vit_lr or learning_rate,
        "multi_modal_projector": settings.aligner_lr or learning_rate,
        "language_model": learning_rate,
        "compressed_projector": settings.aligner_lr or learning_rate,
        "router": learning_rate,
    }
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        part, is_vector, is_hidden = _part_of(name), _is_vector(name, parameter), False
        if not is_vector:
            is_hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        group = groups.setdefault(
            (part, is_vector, is_hidden),
            {
                "params": [],
                "peak_lr": rates[part],
                "weight_decay": 0.0 if is_vector else settings.weight_decay,
                "is_hidden": is_hidden,
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("no weight is trainable; unfreeze a part or add adapters")
    return list(groups.values())


def count_parameters(module: nn.Module) -> list[PartCount]:
    """Count what trains and what there is, part by part.

    Args:
        module: whatever contains the network.

    Returns:
        One entry a part, in the order of the network; parts of Flash models only if there are any.
    """
    sums = {part: [0, 0] for part in (*PARTS, *FLASH_PARTS)}
    for name, parameter in module.named_parameters():
        numbers = sums[_part_of(name)]
        count = getattr(parameter, "ds_numel", parameter.numel())  # DeepSpeed keeps a part here
        numbers[0] += count if parameter.requires_grad else 0
        numbers[1] += count
    return [PartCount(part, *sums[part]) for part in sums if part in PARTS or sums[part][1]]


def describe_counts(counts: list[PartCount]) -> str:
    """Say in one line how much of each part trains, for example in a log."""
    num_trainable = sum(count.num_trainable for count in counts)
    num_parameters = sum(count.num_parameters for count in counts)
    parts = ", ".join(
        f"{count.part} {count.num_trainable:,} of {count.num_parameters:,}" for count in counts
    )
    share = num_trainable / max(num_parameters, 1)
    return f"{num_trainable:,} of {num_parameters:,} parameters train ({share:.2%}): {parts}"


def _part_of(name: str) -> Part:
    for part in (*PARTS, *FLASH_PARTS):
        if f".{part}." in f".{name}":
            return part
    raise AssertionError(f"{name} belongs to no part of the network")


def _is_vector(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a vector, or one for each expert, rather than a matrix or a table."""
    if parameter.ndim < 2 or name.rsplit(".", 1)[-1].endswith("bias"):
        return True
    return parameter.ndim > 2 and parameter.numel() == parameter.shape[-1]
