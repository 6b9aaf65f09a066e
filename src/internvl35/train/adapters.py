"""Adapters (LoRA, DoRA, QLoRA) inside the layers of a network: put in, save, load, merge.

The network stays the class it was, with PEFT's layers in place of the adapted ones, so that
training, generation and chat take it as any other. Files are those of PEFT. Which layers get
adapters is decided by :mod:`internvl35.train.targets`. Paper section 2.2; arXiv 2106.09685,
2402.09353, 2305.14314.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from internvl35.errors import CheckpointError, ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.adapter_files import (
    PREFIX,
    WEIGHTS_FILE,
    read_config,
    read_weights,
)
from internvl35.train.packages import need_package
from internvl35.train.run_folder import ADAPTER_FILE
from internvl35.train.settings import AdapterSettings, FinetuneSettings, FreezeSettings
from internvl35.train.targets import is_end_of, pattern_of, target_experts, target_pattern

_ADAPTER = "default"


def load_base(
    folder: Path, settings: FinetuneSettings, device: torch.device
) -> VisionLanguageModel:
    """Load the network that adapters are put into, or that trains as a whole.

    Args:
        folder: checkpoint of either layout.
        settings: number format, attention and quantisation.
        device: where it goes.

    Returns:
        The network. With ``quant_bits`` the linear layers of the language model are quantised;
        head, tower and projector keep the number format, and so do fused experts.

    Raises:
        CheckpointError: if the checkpoint does not fit its config.
        ConfigError: if a package that the settings need is not installed.
    """
    chosen, quant_bits = settings.model, settings.adapter.quant_bits
    options: dict[str, Any] = {}
    if chosen.attn_impl == "flash_attn":
        _check_flash()
    if chosen.attn_impl is not None:
        names = {"flash_attn": "flash_attention_2"}
        options["attn_implementation"] = names.get(chosen.attn_impl, chosen.attn_impl)
    if quant_bits is not None:
        dtype = getattr(torch, chosen.torch_dtype or "bfloat16")
        options["quantization_config"] = _quantization(quant_bits, dtype)
        options["device_map"] = {"": device}
    model = VisionLanguageModel.from_pretrained(folder, dtype=chosen.torch_dtype, **options)
    if quant_bits is None:
        model = model.to(device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # on such a CPU bitsandbytes repacks 4-bit weights at the first evaluation, after which
            # no gradient passes through them any more
            module.support_avx512bf16_for_cpu = False
    given = Path(chosen.model)
    model.name_or_path = str(given.resolve()) if given.is_dir() else chosen.model
    return model


def _check_flash() -> None:
    has_package = importlib.util.find_spec("flash_attn") is not None
    if not (has_package and torch.cuda.is_available()):
        missing = "a GPU" if has_package else "the package flash_attn"
        raise ConfigError(
            f"attn_impl is flash_attn, for which {missing} is missing; leave it out, or pass sdpa"
        )


def _quantization(bits: int, dtype: torch.dtype) -> Any:
    need_package("bitsandbytes", f"quant_bits {bits}")
    from transformers import BitsAndBytesConfig

    kept = ["lm_head", "vision_tower", "multi_modal_projector"]
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def add_adapters(
    model: VisionLanguageModel,
    settings: AdapterSettings,
    freeze: FreezeSettings,
    *,
    in_float32: bool = True,
) -> VisionLanguageModel:
    """Put adapters into the layers of a network; only they and ``modules_to_save`` train from then.

    Args:
        model: the network, changed in place.
        settings: rank, scale, layers and kind; with ``adapters`` the first folder is trained on and
            brings its own rank and layers, all others are merged before it.
        freeze: parts that get none.
        in_float32: keep what trains in float32, whatever the rest is in; else it takes the dtype of
            the layers around it, as units of sharded weights need.

    Returns:
        The same object.

    Raises:
        ConfigError: if no layer would be adapted, or peft is not installed.
        CheckpointError: if a folder in ``adapters`` does not fit.
    """
    if settings.adapters:
        first, *others = settings.adapters
        for folder in others:
            merge_adapters(load_adapters(model, Path(folder), trainable=False))
        return load_adapters(model, Path(first), trainable=True, in_float32=in_float32)
    peft = _peft()
    experts = target_experts(model, freeze, settings.target_modules)
    if experts and settings.lora_dropout:
        raise ConfigError(
            f"lora_dropout is {settings.lora_dropout}, but adapters of {experts[0]} drop nothing; "
            "set lora_dropout to 0 or name linear layers only"
        )
    initial: bool | str = {"true": True, "false": False}.get(
        settings.init_weights, settings.init_weights
    )
    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=target_pattern(model, freeze, settings.target_modules) or None,
        target_parameters=experts or None,
        modules_to_save=_whole_modules(model, settings.modules_to_save),
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        init_lora_weights=initial,
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path or None,
    )
    return _inject(model, config, trainable=True, in_float32=in_float32)


def _peft() -> Any:
    need_package("peft", "an adapter")
    import peft

    return peft


def _whole_modules(model: VisionLanguageModel, names: Sequence[str]) -> list[str] | None:
    """Check that modules to be trained as a whole exist and can be saved apart."""
    tied = set()
    if model.config.tie_word_embeddings:
        tied = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    for name in names:
        fitting = [module for path, module in model.named_modules() if is_end_of(name, path)]
        if not fitting:
            raise ConfigError(
                f"modules_to_save names {name}, which the network does not have; give the last "
                "parts of a module's path, for example multi_modal_projector or lm_head"
            )
        if any(id(module) in tied for module in fitting):
            raise ConfigError(
                f"modules_to_save names {name}, but this checkpoint's output head is its "
                "embedding, so neither can be saved without the other; use tuner_type full"
            )
    return list(names) or None


def _inject(
    model: VisionLanguageModel, config: Any, *, trainable: bool, in_float32: bool
) -> VisionLanguageModel:
    peft = _peft()
    if getattr(model, "peft_config", None):
        raise ConfigError("the network has adapters already; merge them first")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        peft.inject_adapter_in_model(config, model, _ADAPTER)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"adapters cannot be put into this network: {error}") from error
    for name, parameter in model.named_parameters():
        is_adapter = "lora_" in name or f"modules_to_save.{_ADAPTER}." in name
        parameter.requires_grad_(trainable and is_adapter)
        if is_adapter and in_float32 and trainable:
            parameter.data = parameter.data.float()
    return model


def save_adapters(
    model: VisionLanguageModel,
    folder: Path,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a folder that PEFT and everything built on it can load.

    Args:
        model: a network with adapters.
        folder: where to; made if missing.
        state: weights by their names in memory, taken instead of the network's own, for example
            gathered from several processes; at least those of the adapters.

    Raises:
        CheckpointError: if the disk does not take the files.
    """
    peft = _peft()
    own = peft.get_peft_model_state_dict(
        model, state_dict=dict(state or model.state_dict()), save_embedding_layers=False
    )
    tensors = {
        name if name.startswith(PREFIX) else PREFIX + name: value.detach().cpu().contiguous()
        for name, value in own.items()
    }
    config = model.peft_config[_ADAPTER].to_dict() | {"inference_mode": True}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS_FILE, {"format": "pt"})
        (folder / ADAPTER_FILE).write_text(
            json.dumps(config, indent=2, sort_keys=True, default=_as_json) + "\n", encoding="utf-8"
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error}; free disk space or choose another folder"
        ) from error


def _as_json(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def load_adapters(
    model: VisionLanguageModel,
    folder: Path,
    *,
    trainable: bool = False,
    in_float32: bool = True,
) -> VisionLanguageModel:
    """Put saved adapters into a network.

    Folders written for transformers' own InternVL class fit too.

    Args:
        model: the network they were trained on, changed in place.
        folder: holds adapter_config.json and adapter_model.safetensors.
        trainable: whether they go on learning.
        in_float32: keep what trains in float32, whatever the rest is in.

    Returns:
        The same object.

    Raises:
        CheckpointError: if the folder holds no adapters of this kind, or they do not fit.
        ConfigError: if peft is not installed.
    """
    peft = _peft()
    config = read_config(peft, folder)
    tensors = read_weights(folder)
    names = {_module_of(name) for name in tensors if "lora_" in name}
    modules = dict(model.named_modules())
    if unknown := sorted(names - modules.keys()):
        raise CheckpointError(
            f"{folder}: adapters for {unknown[0]} (one of {len(unknown)}), which the network does "
            f"not have; they were trained on {config.base_model_name_or_path or 'another network'}"
        )
    if not config.target_parameters:
        config.target_modules = pattern_of((name for name in modules if name in names), modules)
    config.inference_mode = not trainable
    _inject(model, config, trainable=trainable, in_float32=in_float32)
    try:
        report = peft.set_peft_model_state_dict(model, tensors, _ADAPTER)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder}: adapters do not fit the network: {error}") from error
    missing = [name for name in report.missing_keys if f".{_ADAPTER}." in name]
    if missing or report.unexpected_keys:
        name = (missing or report.unexpected_keys)[0]
        raise CheckpointError(
            f"{folder}: {'no weight for' if missing else 'no place for'} {name}; the folder does "
            "not fit its own adapter_config.json"
        )
    if not trainable:
        model.eval()  # fresh layers come in training mode, in which they drop inputs
    return model


def _module_of(name: str) -> str:
    """Path of the layer that an adapter's weight belongs to."""
    return re.split(r"\.lora_", name, maxsplit=1)[0].removesuffix(".base_layer")


def merge_adapters(model: VisionLanguageModel) -> VisionLanguageModel:
    """Add adapters to the weights they belong to and take them out of the network.

    Args:
        model: a network with adapters, changed in place.

    Returns:
        The same object, with names of weights as before there were adapters.

    Raises:
        CheckpointError: if the network is quantised.
    """
    if getattr(model, "is_quantized", False):
        raise CheckpointError(
            "adapters cannot be merged into quantised weights without loss; load the checkpoint "
            "without quantisation, then the adapters, then merge"
        )
    for name, layer in adapted_layers(model).items():
        model.set_submodule(name, merge_layer(layer))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Find the layers that adapters were put into.

    Args:
        model: a network with or without adapters.

    Returns:
        Path to PEFT's layer; where they are nested, the outermost ones.
    """
    if not getattr(model, "peft_config", None):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: dict[str, Any] = {}
    for name, module in model.named_modules():  # outer ones come first
        is_adapted = isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        if is_adapted and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def merge_layer(layer: Any) -> nn.Module:
    """Add a layer's adapters to its weights.

    Args:
        layer: PEFT's layer; it is of no use afterwards.

    Returns:
        The layer without adapters.
    """
    plain: nn.Module
    if hasattr(layer, "unload_and_optionally_merge_module"):
        plain = layer.unload_and_optionally_merge_module(
            merge=True, safe_merge=True, adapter_names=None
        )
    else:
        layer.merge(safe_merge=True)
        plain = layer.get_base_layer()
    return plain
