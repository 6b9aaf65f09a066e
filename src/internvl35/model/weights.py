"""From a checkpoint to a running network and back.

What a folder holds and whether it fits is left to :mod:`internvl35.model.checkpoint`, tensor names
to :mod:`internvl35.model.names`, the way from a name to a folder to :mod:`internvl35.model.hub`,
changing the layout to :mod:`internvl35.model.conversion`. Paper section 2.1.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, GenerationConfig, PreTrainedModel

from internvl35.errors import CheckpointError
from internvl35.model.checkpoint import Checkpoint, has_split_experts, parameter_shapes
from internvl35.model.composite import LanguagePart, VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig, Layout, config_to_dict
from internvl35.model.hub import resolve_checkpoint, take_hub_options
from internvl35.model.names import (
    EMBEDDING,
    HEAD,
    LANGUAGE_PREFIX,
    Shape,
    group_pieces,
    split_parameters,
    stored_shape,
)
from internvl35.model.part_files import read_whole
from internvl35.model.processor_files import processor_files
from internvl35.model.shards import write_folder

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=VisionLanguageModel)

_WITHOUT_EFFECT = (  # meant for other loaders; what they ask for always or never holds here
    "trust_remote_code", "low_cpu_mem_usage", "use_safetensors", "code_revision", "adapter_kwargs",
    "force_download", "_from_auto", "_commit_hash",
)  # fmt: skip


def load_model(
    model_class: type[ModelT],
    name: str | PathLike[str],
    *,
    config: InternVLChatConfig | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | dict[str, str] | None = None,
    use_flash_attn: bool = False,
    load_in_8bit: bool = False,
    **options: Any,
) -> ModelT:
    """Load a checkpoint of either layout into a network.

    Checks all names and shapes first, then hands memory-mapped tensors to transformers, which
    builds the network without memory, places tensor by tensor, casts, quantises, puts experts
    together a layer at a time and ties weights. No code of the checkpoint is run.

    Args:
        model_class: the class to build; of a :class:`LanguagePart` no other weight is read.
        name: what :func:`internvl35.model.hub.resolve_checkpoint` takes.
        config: taken instead of the checkpoint's config.json.
        dtype: element type of the weights, ``"auto"`` or ``None`` for the checkpoint's own;
            ``torch_dtype`` is the same.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2`` and so on, for all parts or
            as a dictionary for ``vision_config`` and ``text_config``; by default each part's best.
        use_flash_attn: take flash attention where it is installed and the part supports it.
        load_in_8bit: quantise linear layers with bitsandbytes while loading.
        **options: where to find the checkpoint (``hub``, ``revision``, ``offline``, ``cache_dir``,
            ``token``, ...); ``device_map``, ``max_memory``, ``quantization_config`` and whatever
            else transformers' ``from_pretrained`` takes. ``trust_remote_code`` and
            ``low_cpu_mem_usage`` are accepted and have no effect.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: if the checkpoint cannot be found, does not fit its config, or needs a
            package that is not installed.
    """
    for key in _WITHOUT_EFFECT:
        options.pop(key, None)
    if options.pop("local_files_only", False):
        options["offline"] = True
    where = take_hub_options(options)
    if load_in_8bit:
        options["quantization_config"] = _int8_settings()
    given_dtype = options.pop("torch_dtype", None) if dtype is None else dtype
    folder = resolve_checkpoint(name, **where)
    is_cut = issubclass(model_class, LanguagePart) and read_whole(folder) is not None
    checkpoint = Checkpoint(folder, config, part="language" if is_cut else None)
    loaded_config = copy.deepcopy(checkpoint.config)
    if checkpoint.unused_pieces:
        logger.warning(
            "%s holds a visual resolution router, but its config.json does not set flash_mode: the "
            "router is not loaded, every tile gets all of its visual tokens",
            checkpoint.folder,
        )
    if checkpoint.has_own_head():
        logger.warning(
            "%s: config.json ties the output head to the embedding, but the files hold a head that "
            "differs; it is loaded untied",
            checkpoint.folder,
        )
        loaded_config.tie_word_embeddings = loaded_config.text_config.tie_word_embeddings = False
    attention = choose_attention(loaded_config, attn_implementation, use_flash_attn=use_flash_attn)
    if attention is not None:
        options["attn_implementation"] = attention
    prefix = LANGUAGE_PREFIX if issubclass(model_class, LanguagePart) else ""
    transformers_class: Any = super(VisionLanguageModel, model_class)
    model, report = transformers_class.from_pretrained(
        None,
        config=loaded_config,
        state_dict=_tensors_for_transformers(checkpoint, loaded_config, prefix),
        dtype=checkpoint.dtype() if given_dtype in (None, "auto") else given_dtype,
        generation_config=_generation_config(checkpoint.folder),
        output_loading_info=True,
        **options,
    )
    _check_report(report, checkpoint.folder)
    model.name_or_path = model.config.name_or_path = str(name)
    return model


def _int8_settings() -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CheckpointError(
            "load_in_8bit needs the package bitsandbytes; install it with: "
            "pip install 'internvl35[int8]'"
        )
    return BitsAndBytesConfig(load_in_8bit=True)


def _tensors_for_transformers(
    checkpoint: Checkpoint, config: InternVLChatConfig, prefix: str
) -> dict[str, Tensor]:
    # one view a piece: transformers joins experts itself, a layer at a time, on the target device
    names = [piece.name for piece in checkpoint.pieces if piece.name.startswith(prefix)]
    state = {name: checkpoint.read(name) for name in names}
    if checkpoint.config.tie_word_embeddings and not config.tie_word_embeddings:
        state[HEAD] = checkpoint.read(HEAD)
    return state


def _generation_config(folder: Path) -> GenerationConfig | None:
    if not (folder / "generation_config.json").is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'generation_config.json'} cannot be read: {error}; delete or replace it"
        ) from error


def _check_report(report: Mapping[str, Any], folder: Path) -> None:
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report.get(kind, ()))):
            raise CheckpointError(
                f"{folder}: transformers reports {kind.replace('_', ' ')} although all weights "
                f"fit: {names[0]} (of {len(names)}); install a version that pyproject.toml allows"
            )


def choose_attention(
    config: InternVLChatConfig,
    requested: str | dict[str, str] | None,
    *,
    use_flash_attn: bool = False,
    has_flash_attn: bool | None = None,
) -> str | dict[str, str] | None:
    """Choose an attention implementation for each part.

    Args:
        config: the network.
        requested: what the caller asked for; it wins, except that GPT-OSS, whose attention has
            sinks, keeps ``eager`` where ``sdpa`` or ``flash_attention_2`` was asked for all parts.
        use_flash_attn: prefer flash attention where it can run.
        has_flash_attn: whether it can; found out if ``None``.

    Returns:
        What transformers' ``attn_implementation`` takes, ``None`` for each part's default.
    """
    if requested is None:
        if has_flash_attn is None:
            has_flash_attn = (
                importlib.util.find_spec("flash_attn") is not None and torch.cuda.is_available()
            )
        requested = "flash_attention_2" if use_flash_attn and has_flash_attn else None
    has_sinks = config.text_config.model_type == "gpt_oss"
    if has_sinks and requested in ("sdpa", "flash_attention_2"):
        return {"vision_config": str(requested), "text_config": "eager"}
    return requested


def save_checkpoint(
    model: PreTrainedModel | Mapping[str, Tensor],
    folder: str | PathLike[str],
    *,
    config: InternVLChatConfig | None = None,
    layout: Layout = "hf",
    max_shard_size: str | int = "5GB",
) -> None:
    """Write a network as a checkpoint of a released layout.

    Next to weights and config.json come generation_config.json and, where the folder has none, the
    files by which other software prepares pictures.

    Args:
        model: the network, or its state dict (then ``config`` is needed).
        folder: where to; other files in it, such as a tokenizer's, stay.
        config: taken instead of the model's.
        layout: the layout to write.
        max_shard_size: most bytes a shard, for example ``"5GB"``.

    Raises:
        CheckpointError: if the weights do not fit the config, are quantised or not in memory, or
            the disk does not take the files.
    """
    files: dict[str, str | Path] = {}
    if isinstance(model, Mapping):
        state = dict(model)
        if config is None:
            raise CheckpointError("a state dict alone does not say its sizes; pass config too")
    else:
        state = model.state_dict()
        config = config or model.config
        if model.generation_config is not None:
            files["generation_config.json"] = model.generation_config.to_json_string()
    pieces = split_parameters(_fitting_shapes(state, config), is_split=has_split_experts(config))
    groups = group_pieces(pieces, layout)
    for name, text in processor_files(config, layout).items():
        if not (Path(folder) / name).exists():
            files[name] = text
    files["config.json"] = config_text(config, layout, state[EMBEDDING].dtype)

    def read(name: str) -> Tensor:
        parts = [state[piece.parameter][piece.index] for piece in groups[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    specs = {
        name: torch.empty(stored_shape(group), dtype=state[group[0].parameter].dtype, device="meta")
        for name, group in groups.items()
    }
    write_folder(Path(folder), specs, read, files, max_shard_size=max_shard_size)


def _fitting_shapes(state: Mapping[str, Tensor], config: InternVLChatConfig) -> dict[str, Shape]:
    shapes = parameter_shapes(config)
    for name, shape in shapes.items():
        tensor = state.get(name)
        found = None if tensor is None else list(tensor.shape)
        if tensor is None or tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"weight {name} to be saved has shape {found}; its config asks for {list(shape)}"
            )
        if not tensor.is_floating_point() or tensor.device.type == "meta":
            state_of = "offloaded" if tensor.device.type == "meta" else f"in {tensor.dtype}"
            raise CheckpointError(
                f"weight {name} to be saved is {state_of}; needed: floating point in memory; load "
                "the checkpoint without quantisation and offloading"
            )
    tied = {HEAD} if config.tie_word_embeddings else set()
    if unexpected := sorted(state.keys() - shapes.keys() - tied):
        raise CheckpointError(
            f"weight {unexpected[0]} to be saved (one of {len(unexpected)}) is not part of the "
            "network; merge adapters first"
        )
    return shapes


def config_text(config: InternVLChatConfig, layout: Layout, dtype: torch.dtype) -> str:
    """Spell config.json of a layout for weights of a dtype."""
    config = copy.deepcopy(config)
    for part in (config, config.text_config, config.vision_config):
        part.dtype = dtype
    return json.dumps(config_to_dict(config, layout), indent=2, ensure_ascii=False) + "\n"
