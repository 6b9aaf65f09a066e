"""From settings to what is trained: network, tokenizer, adapters, loss module, optimizers.

Each part has a file of its own; here they are put together in the one order that works: load,
adapt or freeze, cast and spread over processes, and only then make optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from internvl35.data.tokenizer import load_tokenizer
from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig, Layout, read_config
from internvl35.model.hub import resolve_checkpoint
from internvl35.model.publish import choose_hub
from internvl35.train.adapters import load_base
from internvl35.train.attention import use_packed_attention
from internvl35.train.deepspeed import start_deepspeed
from internvl35.train.distributed import Workers, spread_module
from internvl35.train.drop_path import add_drop_path
from internvl35.train.objective import Objective, SupervisedObjective, Surroundings
from internvl35.train.optimizers import build_optimizers
from internvl35.train.resolution import resolve_accumulation, resolve_learning_rate
from internvl35.train.settings import FinetuneSettings
from internvl35.train.sft import recompute_activations
from internvl35.train.stepping import Stepper
from internvl35.train.trainable import FLASH_PARTS, parameter_groups, use_float32_masters

UNIT_CLASSES = (
    "InternVLVisionLayer", "Qwen3DecoderLayer", "Qwen3MoeDecoderLayer", "GptOssDecoderLayer",
)  # fmt: skip
"""Submodules whose weights are gathered together when weights are sharded."""


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run begins from; its weights are not loaded yet."""

    folder: Path
    """Where it lies."""
    layout: Layout
    """Layout it is written in."""
    config: InternVLChatConfig
    """Sizes of its network."""
    tokenizer: Any
    """Its tokenizer."""


@dataclass(frozen=True)
class Assembly:
    """What is trained."""

    model: VisionLanguageModel
    """The network with its adapters; what checkpoints are written from."""
    stepper: Stepper
    """Calls the loss, which is spread over the processes, and changes the weights that train."""
    compute_dtype: torch.dtype
    """Dtype of matrix products."""


def find_start(settings: FinetuneSettings, workers: Workers) -> Start:
    """Find the checkpoint that a run begins from, downloading it if need be.

    Args:
        settings: of the run.
        workers: the main process downloads before the others look.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: if it cannot be found.
        ConfigError: if its config cannot be read, or the number format cannot be trained in.
    """
    chosen = settings.model
    _check_dtype(chosen.torch_dtype)
    where: dict[str, Any] = {
        "hub": choose_hub(settings.dataset.use_hf, chosen.hub_token)[0],
        "revision": chosen.model_revision,
        "token": chosen.hub_token,
        "show_progress": workers.is_main,
    }
    if not workers.is_main:
        workers.wait()
    folder = resolve_checkpoint(chosen.model, **where)
    if workers.is_main:
        workers.wait()
    config, layout = read_config(folder)
    return Start(folder, layout, config, load_tokenizer(folder))


def _check_dtype(name: str | None) -> None:
    if name == "float16":
        raise ConfigError(
            "torch_dtype is float16, in which gradients vanish without loss scaling; use bfloat16, "
            "which every InternVL3.5 was trained in, or float32"
        )


def assemble(
    start: Start,
    settings: FinetuneSettings,
    workers: Workers,
    objective: Objective | None = None,
) -> Assembly:
    """Load the weights and make everything that trains.

    Args:
        start: the checkpoint begun from.
        settings: of the run.
        workers: the processes of the run.
        objective: what is learnt; the answers of the rows where None.

    Returns:
        Network, loss module and optimizers, on this process's device.

    Raises:
        CheckpointError: if the checkpoint does not fit its config.
        ConfigError: if nothing would be trained, or the settings do not go together.
    """
    chosen, objective = settings.optimization, objective or SupervisedObjective(settings)
    is_sharded = settings.distributed.fsdp == "full_shard" and workers.world_size > 1
    if is_sharded and settings.adapter.quant_bits is not None:
        raise ConfigError(
            "quant_bits and fsdp full_shard are both given, but quantised weights cannot be "
            "sharded; drop one of them"
        )
    # what is to be sharded may be too large for one GPU, so it goes there unit by unit
    device = torch.device("cpu") if is_sharded else workers.device
    model = load_base(start.folder, settings, device)
    compute_dtype = next(
        p.dtype for p in model.multi_modal_projector.parameters() if p.is_floating_point()
    )
    _check_dtype(str(compute_dtype).removeprefix("torch."))
    torch.manual_seed(chosen.seed)  # adapters are alike on all processes
    objective.prepare(model)
    if chosen.gradient_checkpointing:
        recompute_activations(model)
    if chosen.drop_path_rate:
        add_drop_path(model, chosen.drop_path_rate)
    keep_dummy_tile = _needs_dummy_tile(model, settings, workers)
    pad_token_id = int(start.tokenizer.pad_token_id)
    trainee = objective.make_module(model, Surroundings(pad_token_id, keep_dummy_tile, device))
    stepper = _spread(trainee, settings, workers, compute_dtype, is_sharded=is_sharded)
    if settings.packing.packing:
        given = settings.model.attn_impl
        for network in objective.networks(model):
            use_packed_attention(
                network,
                is_half=compute_dtype != torch.float32,
                has_flash=None if given is None else given == "flash_attn",
            )
    torch.manual_seed(chosen.seed + workers.rank)  # dropout is not
    return Assembly(model, stepper, compute_dtype)


def _spread(
    trainee: nn.Module,
    settings: FinetuneSettings,
    workers: Workers,
    compute_dtype: torch.dtype,
    *,
    is_sharded: bool,
) -> Stepper:
    """Spread what trains over the processes, and only then make its optimizers."""
    chosen, rate = settings.optimization, resolve_learning_rate(settings)
    if settings.distributed.deepspeed is not None:
        use_float32_masters(trainee)
        accumulation = resolve_accumulation(chosen, workers.world_size)
        return start_deepspeed(trainee, settings, workers, accumulation, rate, compute_dtype)
    module = spread_module(
        trainee, workers, is_sharded=is_sharded, compute_dtype=compute_dtype,
        unit_classes=UNIT_CLASSES,
    )  # fmt: skip
    optimizers = build_optimizers(parameter_groups(trainee, chosen, rate), chosen)
    return Stepper(module, optimizers, chosen.max_grad_norm)


def _needs_dummy_tile(
    model: VisionLanguageModel, settings: FinetuneSettings, workers: Workers
) -> bool:
    """Whether tower and projector have to run in batches without pictures too.

    Replicas need a gradient of every weight that trains, and any loss needs one at all; sharded
    parts have to run in all processes or in none.
    """
    has_shards = bool(settings.distributed.fsdp or settings.distributed.deepspeed)
    if workers.world_size > 1 and has_shards:
        return True
    is_vision_trained = any(
        parameter.requires_grad
        for name in ("vision_tower", "multi_modal_projector", *FLASH_PARTS)
        if (part := getattr(model, name, None)) is not None
        for parameter in part.parameters()
    )
    is_language_trained = any(p.requires_grad for p in model.language_model.parameters())
    return is_vision_trained and (workers.world_size > 1 or not is_language_trained)
