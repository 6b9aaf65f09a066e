"""From settings to what is trained: network, tokenizer, adapters, loss module, optimizers.

Each part has a file of its own; here they are put together in the one order that works: load,
adapt, freeze, cast, spread over processes, and only then make optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from internvl35.data.hub_tables import choose_hub
from internvl35.data.tokenizer import load_tokenizer
from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import Layout, read_config
from internvl35.model.hub import resolve_checkpoint
from internvl35.train.adapters import add_adapters, load_base
from internvl35.train.attention import use_packed_attention
from internvl35.train.deepspeed import start_deepspeed
from internvl35.train.distributed import Workers, spread_module
from internvl35.train.drop_path import add_drop_path
from internvl35.train.optimizers import build_optimizers
from internvl35.train.resolution import resolve_accumulation, resolve_learning_rate
from internvl35.train.settings import FinetuneSettings
from internvl35.train.sft import Trainee, recompute_activations
from internvl35.train.stepping import Stepper
from internvl35.train.trainable import freeze_parts, parameter_groups

UNIT_CLASSES = (
    "InternVLVisionLayer", "Qwen3DecoderLayer", "Qwen3MoeDecoderLayer", "GptOssDecoderLayer",
)  # fmt: skip
"""Submodules whose weights are gathered together when weights are sharded."""


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run begins from."""

    folder: Path
    """Where it lies."""
    layout: Layout
    """Layout it is written in."""
    tokenizer: Any
    """Its tokenizer."""
    model: VisionLanguageModel
    """The network, without adapters."""


@dataclass(frozen=True)
class Assembly:
    """What is trained."""

    model: VisionLanguageModel
    """The network with its adapters; what checkpoints are written from."""
    stepper: Stepper
    """Calls the loss, which is spread over the processes, and changes the weights that train."""
    compute_dtype: torch.dtype
    """Dtype of matrix products."""


def load_start(settings: FinetuneSettings, workers: Workers) -> Start:
    """Load the checkpoint that a run begins from.

    Args:
        settings: of the run.
        workers: the main process downloads before the others look.

    Returns:
        The checkpoint, its network in the settings' number format and on this process's device.

    Raises:
        CheckpointError: if it cannot be found or does not fit its config.
        ConfigError: if the number format cannot be trained in.
    """
    chosen = settings.model
    if chosen.torch_dtype == "float16":
        raise ConfigError(
            "torch_dtype is float16, in which gradients vanish without loss scaling; use bfloat16, "
            "which every InternVL3.5 was trained in, or float32"
        )
    where: dict[str, Any] = {
        "hub": "hf" if choose_hub(settings.dataset.use_hf) == "hf" else "modelscope",
        "revision": chosen.model_revision,
        "token": chosen.hub_token,
        "show_progress": workers.is_main,
    }
    if not workers.is_main:
        workers.wait()
    folder = resolve_checkpoint(chosen.model, **where)
    if workers.is_main:
        workers.wait()
    _, layout = read_config(folder)
    return Start(
        folder, layout, load_tokenizer(folder), load_base(folder, settings, workers.device)
    )


def assemble(start: Start, settings: FinetuneSettings, workers: Workers) -> Assembly:
    """Make everything that trains.

    Args:
        start: the checkpoint begun from; its network is changed.
        settings: of the run.
        workers: the processes of the run.

    Returns:
        Network, loss module and optimizers.

    Raises:
        ConfigError: if nothing would be trained, or the settings do not go together.
    """
    model = start.model
    chosen = settings.optimization
    compute_dtype = next(
        p.dtype for p in model.multi_modal_projector.parameters() if p.is_floating_point()
    )
    torch.manual_seed(chosen.seed)  # adapters are alike on all processes
    if settings.adapter.tuner_type == "lora":
        add_adapters(model, settings.adapter, settings.freeze)
    else:
        freeze_parts(model, settings.freeze)
    is_sharded = settings.distributed.fsdp == "full_shard" and workers.world_size > 1
    if is_sharded and settings.adapter.quant_bits is not None:
        raise ConfigError(
            "quant_bits and fsdp full_shard are both given, but quantised weights cannot be "
            "sharded; drop one of them"
        )
    _cast_weights(model, is_sharded=is_sharded)
    if settings.packing.packing:
        use_packed_attention(model, is_half=compute_dtype != torch.float32)
    if chosen.gradient_checkpointing:
        recompute_activations(model)
    if chosen.drop_path_rate:
        add_drop_path(model, chosen.drop_path_rate)
    trainee = Trainee(
        model,
        averaging=chosen.loss_reduction,
        ce_chunk_size=chosen.ce_chunk_size,
        keep_dummy_tile=workers.world_size > 1,
    )
    rate = resolve_learning_rate(settings)
    if settings.distributed.deepspeed is not None:
        accumulation = resolve_accumulation(chosen, workers.world_size)
        stepper: Stepper = start_deepspeed(
            trainee, settings, workers, accumulation, rate, compute_dtype
        )
    else:
        module = spread_module(
            trainee, workers, is_sharded=is_sharded, compute_dtype=compute_dtype,
            unit_classes=UNIT_CLASSES,
        )  # fmt: skip
        optimizers = build_optimizers(parameter_groups(trainee, chosen, rate), chosen)
        stepper = Stepper(module, optimizers, chosen.max_grad_norm)
    torch.manual_seed(chosen.seed + workers.rank)  # dropout is not
    return Assembly(model, stepper, compute_dtype)


def _cast_weights(model: nn.Module, *, is_sharded: bool) -> None:
    """Keep what trains in float32, since small updates vanish in bfloat16.

    Sharded units need one dtype; they are gathered in the dtype that is computed in.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point() and (parameter.requires_grad or is_sharded):
            parameter.data = parameter.data.float()
