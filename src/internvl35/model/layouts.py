"""Field names of config.json in both released layouts, translated from and into this package's.

Dictionaries only: the configuration class is left to :mod:`internvl35.model.configuration`, tensor
names to :mod:`internvl35.model.names`. Paper section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from transformers import PreTrainedConfig

from internvl35.errors import ConfigError

if TYPE_CHECKING:
    from internvl35.model.configuration import InternVLChatConfig

Layout = Literal["hf", "remote-code"]
"""``hf``: the native ``-HF`` repositories; ``remote-code``: the repositories without suffix."""

ARCHITECTURES = {
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "GptOssForCausalLM": "gpt_oss",
}
"""Model type of a language model by the name that released files give its class."""

_FLASH_TYPE = "internvl_flash"
"""Model type of the open request that adds Flash models to transformers; it has no flash_mode.

Read, not written: transformers as released refuses it, and reads ``internvl`` as a base model."""

_FLASH_FIELDS = (
    "flash_mode", "flash_relative_threshold", "flash_absolute_threshold", "router_num_heads",
    "router_repeats_second_step",
)  # fmt: skip

_SHARED_FIELDS = (
    "downsample_ratio", "select_layer", "ps_version", "template", "force_image_size",
    "min_dynamic_patch", "max_dynamic_patch", "use_thumbnail", "dynamic_image_size",
    "tie_word_embeddings", *_FLASH_FIELDS,
)  # fmt: skip

_TOWER_FIELDS = (  # of the same name in both layouts
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "norm_type",
    "image_size", "patch_size", "num_channels", "hidden_act", "layer_norm_eps",
    "attention_dropout", "initializer_range", "dtype",
)  # fmt: skip


def layout_of(data: Mapping[str, Any]) -> Layout | None:
    """Tell by a config.json's content which layout it is in; ``None`` if in neither."""
    layouts: dict[str, Layout] = {
        "internvl_chat": "remote-code", "internvl": "hf", _FLASH_TYPE: "hf",
    }  # fmt: skip
    return layouts.get(str(data.get("model_type")))


def fields_of(data: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Translate a config.json into arguments of ``InternVLChatConfig``.

    Args:
        data: content of the file.
        layout: the layout it is in.

    Returns:
        The arguments; nothing is built or checked but the presence of the parts.

    Raises:
        ConfigError: if a part, or a size of the tower, is missing.
    """
    vision = data.get("vision_config")
    text = data.get("llm_config" if layout == "remote-code" else "text_config")
    for name, part in (("vision_config", vision), ("language model config", text)):
        if not isinstance(part, dict):
            raise ConfigError(f"{name} is {part!r}; needed: a JSON object")
    vision, text = cast(dict[str, Any], vision), cast(dict[str, Any], text)
    fields = {key: data[key] for key in _SHARED_FIELDS if data.get(key) is not None}
    if data.get("model_type") == _FLASH_TYPE:
        fields["flash_mode"] = True
    dtype = data.get("dtype") or data.get("torch_dtype")
    if layout == "remote-code":
        fields["vision_config"] = _tower_from_remote_code(vision)
    else:
        fields["vision_config"] = _tower_from_native(vision)
        fields["select_layer"] = data.get("vision_feature_layer", -1)
    fields.setdefault("template", _default_template(text))
    if "tie_word_embeddings" not in fields:
        # transformers' InternVLConfig defaults to tied; every released size is untied
        fields["tie_word_embeddings"] = bool(text.get("tie_word_embeddings", False))
    # training switches the cache off and some releases kept that; it is no property of the weights
    fields["text_config"] = {key: value for key, value in text.items() if key != "use_cache"}
    fields["image_token_id"] = data.get("image_token_id") or _default_image_token(text)
    return fields | ({"dtype": dtype} if dtype else {})


def _default_template(text: Mapping[str, Any]) -> str:
    return "internvl3_5_gpt_oss" if _is_gpt_oss(text) else "internvl2_5"


def _default_image_token(text: Mapping[str, Any]) -> int:
    # the remote-code layout leaves the id to the tokenizer; these are the released tokenizers' ids
    return 200_021 if _is_gpt_oss(text) else 151_671


def _is_gpt_oss(text: Mapping[str, Any]) -> bool:
    named = (text.get("model_type"), *(text.get("architectures") or ()))
    return any(name in ("gpt_oss", "GptOssForCausalLM") for name in named)


def _tower_from_native(vision: Mapping[str, Any]) -> dict[str, Any]:
    own = (
        "attention_bias", "use_qk_norm", "layer_scale_init_value", "hidden_dropout_prob",
        "projection_dropout", "use_mask_token", "use_absolute_position_embeddings",
        "use_mean_pooling",
    )  # fmt: skip
    fields = {key: vision[key] for key in (*_TOWER_FIELDS, *own) if key in vision}
    return fields | ({"dtype": vision["torch_dtype"]} if vision.get("torch_dtype") else {})


def _tower_from_remote_code(vision: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {
        "qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm",
        "initializer_factor": "layer_scale_init_value", "dropout": "hidden_dropout_prob",
        "torch_dtype": "dtype",
    }  # fmt: skip
    fields = {key: vision[key] for key in _TOWER_FIELDS if key in vision}
    fields |= {new: vision[old] for old, new in renamed.items() if old in vision}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        if key not in fields:  # the class defaults describe an older tower, so none is taken
            raise ConfigError(f"vision_config lacks {key!r}")
    fields.setdefault("norm_type", "rms_norm")
    fields.setdefault("attention_bias", False)
    fields.setdefault("use_qk_norm", True)
    return fields


def config_to_dict(config: InternVLChatConfig, layout: Layout) -> dict[str, Any]:
    """Spell a configuration as the config.json of a layout.

    Args:
        config: the configuration.
        layout: which released layout to write.

    Returns:
        A JSON-ready dictionary that other software of that layout reads.
    """
    text = _text_to_dict(config.text_config)
    # thresholds stay in the file of a Flash model whose flash_mode somebody switched off
    is_flash = config.flash_mode or config.flash_relative_threshold is not None
    shared = {
        key: getattr(config, key) for key in _SHARED_FIELDS if key not in _FLASH_FIELDS or is_flash
    }
    dtype = str(config.dtype).removeprefix("torch.") if config.dtype is not None else None
    common = shared | {"image_token_id": config.image_token_id}
    if dtype is not None:
        common |= {"dtype": dtype, "torch_dtype": dtype}
    if layout == "hf":
        return common | {
            "architectures": ["InternVLForConditionalGeneration"],
            "model_type": "internvl",
            "image_seq_length": config.tokens_per_tile,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": config.select_layer,
            "vision_feature_select_strategy": "default",
            "text_config": text,
            "vision_config": config.vision_config.to_dict(),
        }
    return common | {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "llm_config": text | {"architectures": [_architecture(text["model_type"])]},
        "vision_config": _tower_to_remote_code(config),
    }


def _text_to_dict(config: PreTrainedConfig) -> dict[str, Any]:
    # transformers before version 5 reads rope_theta and rope_scaling, no rope_parameters, and takes
    # a theta of 10,000 where it finds none: a wrong model without a word
    text: dict[str, Any] = config.to_dict()
    rope = dict(text["rope_parameters"])
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    if text.get("dtype") is not None:
        text["torch_dtype"] = text["dtype"]
    return text


def _architecture(family: str) -> str:
    return next(name for name, known in ARCHITECTURES.items() if known == family)


def _tower_to_remote_code(config: InternVLChatConfig) -> dict[str, Any]:
    tower = config.vision_config
    dtype = tower.to_dict().get("dtype")
    return ({} if dtype is None else {"dtype": dtype, "torch_dtype": dtype}) | {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": tower.hidden_size,
        "num_hidden_layers": tower.num_hidden_layers,
        "num_attention_heads": tower.num_attention_heads,
        "intermediate_size": tower.intermediate_size,
        "norm_type": tower.norm_type,
        "qkv_bias": tower.attention_bias,
        "qk_normalization": tower.use_qk_norm,
        "image_size": tower.image_size[0],
        "patch_size": tower.patch_size[0],
        "num_channels": tower.num_channels,
        "hidden_act": tower.hidden_act,
        "layer_norm_eps": tower.layer_norm_eps,
        "initializer_factor": tower.layer_scale_init_value,
        "initializer_range": tower.initializer_range,
        "dropout": tower.hidden_dropout_prob,
        "attention_dropout": tower.attention_dropout,
        "drop_path_rate": 0.0,
        "use_flash_attn": False,
    }
