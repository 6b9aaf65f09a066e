"""The one configuration class that the network is built from, and how a checkpoint's is read.

What the two released layouts call its fields is left to :mod:`internvl35.model.layouts`, tensor
names to :mod:`internvl35.model.names`. Paper section 2.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from transformers import (
    GptOssConfig,
    InternVLVisionConfig,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from internvl35.config import LanguageShape, ModelPreset, TileSettings, VisionShape
from internvl35.errors import ConfigError
from internvl35.model.layouts import ARCHITECTURES, Layout, config_to_dict, fields_of, layout_of

__all__ = [
    "InternVLChatConfig", "Layout", "config_to_dict", "language_shape_to_dict", "preset_config",
    "read_config", "vision_shape_to_dict",
]  # fmt: skip

_TEXT_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "qwen3": Qwen3Config,
    "qwen3_moe": Qwen3MoeConfig,
    "gpt_oss": GptOssConfig,
}


class InternVLChatConfig(PreTrainedConfig):
    """Everything the network and its prompts need to know about a checkpoint.

    Args:
        vision_config: the tower, as ``InternVLVisionConfig`` or its dictionary.
        text_config: the language model, as a transformers config or its dictionary with
            ``model_type`` ``qwen3``, ``qwen3_moe`` or ``gpt_oss``.
        image_token_id: id of ``<IMG_CONTEXT>``.
        downsample_ratio: share of patches a side keeps when patches are merged; 0.5 folds 2x2.
        select_layer: tower layer whose output is used; only -1, the last, is released and known.
        ps_version: ``v2``; ``v1`` (transposed merging of older models) is refused.
        template: conversation template name.
        force_image_size: side of a tile in pixels.
        min_dynamic_patch: fewest tiles a picture is cut into.
        max_dynamic_patch: most tiles a picture is cut into, thumbnail not counted.
        use_thumbnail: whether several tiles are followed by one of the whole picture.
        dynamic_image_size: ``False`` forces one tile a picture.
        tie_word_embeddings: whether the output head is the embedding.
        flash_mode: whether the checkpoint carries a visual resolution router.
        flash_relative_threshold: quantile of router scores above which a tile may be compressed.
        flash_absolute_threshold: router score from which on a tile may be compressed.
        router_num_heads: attention heads of the router; 16 in every released model.
        router_repeats_second_step: whether the router's pooling takes its second step three times,
            as the released weights require; see :mod:`internvl35.model.router`.
        **kwargs: passed on to ``PreTrainedConfig``.

    Raises:
        ConfigError: for a language model family, merging version or layer choice that is not one of
            InternVL3.5's, for sizes that do not fit each other, and for thresholds outside 0 to 1.
    """

    model_type = "internvl_chat"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "vision_config": InternVLVisionConfig,
        "text_config": PreTrainedConfig,
    }

    def __init__(
        self,
        vision_config: InternVLVisionConfig | Mapping[str, Any] | None = None,
        text_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        *,
        image_token_id: int = 151_671,
        downsample_ratio: float = 0.5,
        select_layer: int = -1,
        ps_version: str = "v2",
        template: str = "internvl2_5",
        force_image_size: int | None = None,
        min_dynamic_patch: int = 1,
        max_dynamic_patch: int = 12,
        use_thumbnail: bool = True,
        dynamic_image_size: bool = True,
        tie_word_embeddings: bool | None = None,
        flash_mode: bool = False,
        flash_relative_threshold: float | None = None,
        flash_absolute_threshold: float | None = None,
        router_num_heads: int = 16,
        router_repeats_second_step: bool = True,
        **kwargs: Any,
    ) -> None:
        """Build the nested configs and check what this package cannot run."""
        self.vision_config = _vision_config(vision_config)
        self.text_config = _text_config(text_config)
        if tie_word_embeddings is None:
            tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self.text_config.tie_word_embeddings = tie_word_embeddings
        self.image_token_id = image_token_id
        self.downsample_ratio = downsample_ratio
        self.select_layer = select_layer
        self.ps_version = ps_version
        self.template = template
        self.force_image_size = force_image_size or self.vision_config.image_size[0]
        self.min_dynamic_patch = min_dynamic_patch
        self.max_dynamic_patch = max_dynamic_patch
        self.use_thumbnail = use_thumbnail
        self.dynamic_image_size = dynamic_image_size
        self.flash_mode = flash_mode
        self.flash_relative_threshold = flash_relative_threshold
        self.flash_absolute_threshold = flash_absolute_threshold
        self.router_num_heads = router_num_heads
        self.router_repeats_second_step = router_repeats_second_step
        if ps_version != "v2":
            raise ConfigError(
                f"ps_version is {ps_version!r}; only 'v2' is known (every InternVL3.5 checkpoint "
                "has it); convert older checkpoints with the tools of their own release"
            )
        if select_layer != -1:
            raise ConfigError(f"select_layer is {select_layer}; only -1, the last layer, is known")
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
        _check_tower(self.vision_config)
        _ = self.merge_factor, self.tile_settings  # these check what they are made from
        self.check_flash()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a dictionary of this class's fields or from config.json of either layout.

        Args:
            config_dict: what ``to_dict`` gives, or the content of a config.json.
            **kwargs: passed on to ``PreTrainedConfig.from_dict``.

        Returns:
            The configuration, with ``return_unused_kwargs`` also what was left of ``kwargs``.

        Raises:
            ConfigError: as the class.
        """
        layout = layout_of(config_dict)
        if layout == "hf" or "llm_config" in config_dict:
            config_dict = cls(**fields_of(config_dict, layout or "remote-code")).to_dict()
        return super().from_dict(config_dict, **kwargs)

    @property
    def merge_factor(self) -> int:
        """Patches per side that are folded into one visual token (2 in every released model)."""
        factor = round(1 / self.downsample_ratio) if self.downsample_ratio > 0 else 0
        if factor < 1 or abs(factor * self.downsample_ratio - 1) > 1e-6 or self.grid % factor:
            raise ConfigError(
                f"downsample_ratio is {self.downsample_ratio} for a grid of {self.grid} patches; "
                "needed: one over a whole number that divides the grid"
            )
        return factor

    @property
    def grid(self) -> int:
        """Patches along one side of a tile (G)."""
        return int(self.force_image_size // self.vision_config.patch_size[0])

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens a tile (V): 256 in every released model."""
        return (self.grid // self.merge_factor) ** 2

    @property
    def compressed_merge_factor(self) -> int:
        """Patches per side that are folded into one visual token of a compressed tile."""
        return 2 * self.merge_factor

    @property
    def compressed_tokens_per_tile(self) -> int:
        """Visual tokens of a compressed tile: 64 in every released Flash model."""
        return self.tokens_per_tile // 4

    def check_flash(self) -> None:
        """Refuse thresholds that are no probabilities, and a router that does not fit the tower.

        Raises:
            ConfigError: with what was found and what is needed.
        """
        for name in ("flash_relative_threshold", "flash_absolute_threshold"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value!r}; needed: a number from 0 to 1")
        if not self.flash_mode:
            return
        width, heads = self.vision_config.hidden_size, self.router_num_heads
        if heads < 1 or width % heads:
            raise ConfigError(
                f"router_num_heads is {heads}, which cannot share a tower of width {width}; "
                "needed: a divisor of it"
            )
        if self.grid % self.compressed_merge_factor:
            raise ConfigError(
                f"a grid of {self.grid} patches cannot be folded {self.compressed_merge_factor}x"
                f"{self.compressed_merge_factor}, as compressed tiles are; needed: a multiple"
            )

    @property
    def tile_settings(self) -> TileSettings:
        """How pictures are cut for this checkpoint."""
        return TileSettings(
            tile_size=self.force_image_size,
            min_tiles=self.min_dynamic_patch if self.dynamic_image_size else 1,
            max_tiles=self.max_dynamic_patch if self.dynamic_image_size else 1,
            use_thumbnail=self.use_thumbnail,
        )


def _vision_config(given: InternVLVisionConfig | Mapping[str, Any] | None) -> InternVLVisionConfig:
    if isinstance(given, InternVLVisionConfig):
        return given
    fields = {key: value for key, value in (given or {}).items() if key != "model_type"}
    return InternVLVisionConfig(**fields)


def _check_tower(tower: InternVLVisionConfig) -> None:
    for name in ("image_size", "patch_size"):
        if len(set(getattr(tower, name))) != 1:
            raise ConfigError(f"{name} of the tower is {getattr(tower, name)}; needed: a square")
    if tower.norm_type not in ("layer_norm", "rms_norm"):
        raise ConfigError(
            f"norm_type of the tower is {tower.norm_type!r}; needed: 'layer_norm' or 'rms_norm'"
        )
    if tower.hidden_size % tower.num_attention_heads:
        raise ConfigError(
            f"hidden_size of the tower is {tower.hidden_size}, which {tower.num_attention_heads} "
            "heads cannot share; needed: a multiple of num_attention_heads"
        )


def _text_config(given: PreTrainedConfig | Mapping[str, Any] | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        if given.model_type not in _TEXT_CONFIGS:
            raise ConfigError(_unknown_family(given.model_type))
        return given
    fields = dict(given or {"model_type": "qwen3"})
    family = fields.pop("model_type", None)
    if not family:
        architecture = (fields.get("architectures") or [None])[0]
        family = ARCHITECTURES.get(str(architecture), family)
    if family not in _TEXT_CONFIGS:
        raise ConfigError(_unknown_family(family))
    return _TEXT_CONFIGS[family](**fields)


def _unknown_family(found: object) -> str:
    return (
        f"the language model is of type {found!r}; InternVL3.5 models use one of "
        f"{', '.join(sorted(_TEXT_CONFIGS))}"
    )


def preset_config(preset: ModelPreset) -> InternVLChatConfig:
    """Full configuration of a released size.

    Args:
        preset: one of :data:`internvl35.config.PRESETS`.

    Returns:
        A config from which the network of that size can be built; a checkpoint's own config.json
        goes before it.
    """
    return InternVLChatConfig(
        vision_config=vision_shape_to_dict(preset.vision),
        text_config=language_shape_to_dict(preset.language),
        image_token_id=preset.image_token_id,
        template=preset.template,
        flash_mode=preset.is_flash,
    )


def vision_shape_to_dict(shape: VisionShape) -> dict[str, Any]:
    """Spell a tower's sizes with the field names of transformers' ``InternVLVisionConfig``."""
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.mlp_width,
        "norm_type": shape.norm,
        "attention_bias": shape.has_qkv_bias,
        "use_qk_norm": shape.has_qk_norm,
        "image_size": [shape.tile_size, shape.tile_size],
        "patch_size": [shape.patch_size, shape.patch_size],
    }


def language_shape_to_dict(shape: LanguageShape) -> dict[str, Any]:
    """Spell a language model's sizes with the field names of its transformers config."""
    fields: dict[str, Any] = {
        "model_type": shape.family,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_width,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.is_tied,
    }
    if shape.family == "gpt_oss":
        return fields | {
            "intermediate_size": shape.mlp_width,
            "num_local_experts": shape.num_experts,
            "num_experts_per_tok": shape.num_active_experts,
        }
    fields |= {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40_960,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    }
    if shape.family == "qwen3_moe":
        return fields | {
            "intermediate_size": 3 * shape.width,
            "moe_intermediate_size": shape.mlp_width,
            "num_experts": shape.num_experts,
            "num_experts_per_tok": shape.num_active_experts,
            "norm_topk_prob": True,
        }
    return fields | {"intermediate_size": shape.mlp_width}


def read_config(folder: Path) -> tuple[InternVLChatConfig, Layout]:
    """Read a checkpoint's config.json, whichever of the two layouts it is in.

    Args:
        folder: the checkpoint.

    Returns:
        The configuration and the layout it was written in.

    Raises:
        ConfigError: if the file is missing, is not JSON, or describes another kind of model.
    """
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no config.json; pass a checkpoint folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds a {type(data).__name__}; needed: a JSON object")
    layout = layout_of(data)
    if layout is None:
        raise ConfigError(
            f"{path} has model_type {data.get('model_type')!r}; needed: 'internvl_chat' "
            "(remote-code layout) or 'internvl' (the -HF layout)"
        )
    try:
        return InternVLChatConfig(**fields_of(data, layout)), layout
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} does not describe an InternVL3.5 model: {error}") from error
    except Exception as error:  # huggingface_hub's strict dataclasses raise types of their own
        if "Validation" not in type(error).__name__:
            raise
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
