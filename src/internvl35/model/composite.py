"""The whole network: vision tower, patch merging, projector and language model as one model.

Tower and language model are transformers' own classes, taken by config. Names in memory are those
of the native checkpoints (``vision_tower``, ``multi_modal_projector``, ``language_model``). Reading
and writing weights is left to :mod:`internvl35.model.weights`, prompts to :mod:`internvl35.data`.
Paper section 2.1, Figure 2.
"""

from __future__ import annotations

from os import PathLike
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Cache,
    GenerationMixin,
    InternVLVisionModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from internvl35.errors import ConfigError
from internvl35.model.configuration import InternVLChatConfig, Layout
from internvl35.model.projector import CompressedProjector, Projector, merge_patches
from internvl35.model.router import Router


class VisionLanguageModel(PreTrainedModel, GenerationMixin):
    """InternViT, projector and a Qwen3, Qwen3-MoE or GPT-OSS decoder.

    Args:
        config: sizes of all parts.
    """

    config_class = InternVLChatConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = [
        "InternVLVisionLayer", "InternVLVisionEmbeddings", "Projector", "CompressedProjector",
        "Router", "Qwen3DecoderLayer", "Qwen3MoeDecoderLayer", "GptOssDecoderLayer",
    ]  # fmt: skip
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    def __init__(self, config: InternVLChatConfig) -> None:
        """Build all parts with fresh weights (or on the meta device, inside its context)."""
        super().__init__(config)
        self.vision_tower = InternVLVisionModel(config.vision_config)
        self.multi_modal_projector = Projector(
            config.vision_config.hidden_size * config.merge_factor**2,
            config.text_config.hidden_size,
        )
        self.compressed_projector: CompressedProjector | None = None
        self.router: Router | None = None
        if config.flash_mode:
            self.compressed_projector, self.router = make_flash_parts(config)
        self._add_language_model(config)

    def _add_language_model(self, config: InternVLChatConfig) -> None:
        self.language_model = AutoModelForCausalLM.from_config(
            config.text_config,
            dtype=torch.get_default_dtype(),  # else its own, and not that of the other parts
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of the language model."""
        return self.language_model.get_input_embeddings()

    @property
    def input_weight(self) -> Tensor:
        """Rows of the embedding ``(W, D)``."""
        weight: Tensor = self.language_model.get_input_embeddings().weight
        return weight

    @property
    def input_device(self) -> torch.device:
        """Where token ids go: to the embedding, or to where a hook brings an offloaded one."""
        hook = getattr(self.get_input_embeddings(), "_hf_hook", None)
        device = getattr(hook, "execution_device", None)
        return self.input_weight.device if device is None else torch.device(device)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the language model."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the output head of the language model."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output head of the language model."""
        self.language_model.set_output_embeddings(new_embeddings)

    def encode_patches(self, pixel_values: Tensor) -> Tensor:
        """Run the tower alone.

        Args:
            pixel_values: ``(N, 3, tile, tile)``, normalised tiles of any float dtype.

        Returns:
            ``(N, G, G, C)`` patch vectors of the last layer, class token removed.
        """
        weight = self.vision_tower.embeddings.patch_embeddings.projection.weight
        # offloaded weights are on the meta device until a hook fetches them, which moves pixels too
        device = pixel_values.device if weight.device.type == "meta" else weight.device
        pixel_values = pixel_values.to(device, weight.dtype)
        num_tiles, _, height, width = pixel_values.shape
        patch_height, patch_width = self.config.vision_config.patch_size
        rows, columns = height // patch_height, width // patch_width
        if num_tiles == 0:  # a batch of texts alone; the tower cannot reshape nothing
            return pixel_values.new_empty(0, rows, columns, weight.shape[0])
        patches = self.vision_tower(pixel_values).last_hidden_state[:, 1:]  # (N, G*G, C)
        return patches.reshape(num_tiles, rows, columns, patches.shape[-1])

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles into visual tokens.

        Args:
            pixel_values: ``(N, 3, tile, tile)``, normalised tiles of any float dtype.

        Returns:
            ``(N, V, D)`` visual tokens.
        """
        return self.project_patches(self.encode_patches(pixel_values))

    def project_patches(self, patches: Tensor) -> Tensor:
        """Merge patch vectors ``(N, G, G, C)`` and project them to visual tokens ``(N, V, D)``."""
        merged = merge_patches(patches, self.config.merge_factor)
        features: Tensor = self.multi_modal_projector(merged.flatten(1, 2))
        return features

    @property
    def _flash_parts(self) -> tuple[CompressedProjector, Router]:
        if self.compressed_projector is None or self.router is None:
            raise ConfigError(
                "tiles cannot be compressed: this checkpoint has no visual resolution router; take "
                "a Flash checkpoint, or make one of it with internvl35 vico"
            )
        return self.compressed_projector, self.router

    def score_tiles(self, patches: Tensor) -> Tensor:
        """Judge with the router which tiles may be compressed.

        Args:
            patches: ``(N, G, G, C)`` from :meth:`encode_patches`.

        Returns:
            ``(N,)`` in float32: the probability that a tile may be compressed.

        Raises:
            ConfigError: if the checkpoint has no router.
        """
        return self._flash_parts[1].scores(patches)

    def project_tiles(self, patches: Tensor, is_compressed: Tensor) -> Tensor:
        """Project each tile by the one projector that it takes.

        Args:
            patches: ``(N, G, G, C)`` from :meth:`encode_patches`.
            is_compressed: ``(N,)`` bool.

        Returns:
            ``(tokens, D)`` visual tokens, tile after tile: V of an ordinary tile, a quarter of V of
            a compressed one.

        Raises:
            ConfigError: if a tile is to be compressed and the checkpoint has no router.
        """
        is_compressed = is_compressed.to(patches.device)
        if not bool(is_compressed.any()):
            return self.project_patches(patches).flatten(0, 1)
        merged = merge_patches(patches[is_compressed], self.config.compressed_merge_factor)
        short = self._flash_parts[0](merged.flatten(1, 2)).flatten(0, 1)
        if bool(is_compressed.all()):
            return short
        full = self.project_patches(patches[~is_compressed]).flatten(0, 1)
        counts = torch.where(
            is_compressed, self.config.compressed_tokens_per_tile, self.config.tokens_per_tile
        )
        is_short = is_compressed.repeat_interleave(counts).to(full.device)  # (tokens,)
        tokens = full.new_empty(len(is_short), full.shape[-1])
        tokens[is_short] = short.to(full.device, full.dtype)
        tokens[~is_short] = full
        return tokens

    def embed_inputs(self, input_ids: Tensor, image_features: Tensor) -> Tensor:
        """Embed tokens and put the visual tokens in the places kept for them.

        Args:
            input_ids: ``(B, T)`` token ids; ``<IMG_CONTEXT>`` marks the places.
            image_features: ``(N, V, D)`` or ``(tokens, D)``, in the order of the places.

        Returns:
            ``(B, T, D)`` inputs of the language model.

        Raises:
            ValueError: if places and visual tokens differ in number.
        """
        embeds = self.get_input_embeddings()(input_ids)
        is_place = input_ids == self.config.image_token_id  # (B, T)
        flat = image_features.reshape(-1, image_features.shape[-1])
        if not torch.compiler.is_compiling():
            self._check_places(int(is_place.sum()), flat.shape[0])
        mask = is_place.unsqueeze(-1).to(embeds.device)
        return embeds.masked_scatter(mask, flat.to(embeds.device, embeds.dtype))

    @staticmethod
    def _check_places(num_places: int, num_visual_tokens: int) -> None:
        if num_places != num_visual_tokens:
            raise ValueError(
                f"{num_places} <IMG_CONTEXT> tokens but {num_visual_tokens} visual tokens; build "
                "prompt and pixel_values from the same tiles"
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token at every position.

        Args:
            input_ids: ``(B, T)`` token ids, or ``None`` with ``inputs_embeds``.
            pixel_values: ``(N, 3, tile, tile)`` tiles of all sequences in order, or ``None``.
            image_features: ``(N, V, D)`` visual tokens computed before, instead of pixel_values.
            inputs_embeds: ``(B, T, D)`` inputs with pictures already in place.
            attention_mask: ``(B, T)`` 1 for tokens and 0 for padding, or ``None`` for no padding.
            position_ids: ``(B, T)`` positions, or ``None`` to count from the mask.
            past_key_values: cache of the tokens before these.
            labels: ``(B, T)`` targets, -100 where there is none; the loss is transformers' own.
            logits_to_keep: how many of the last positions, or which ones, get logits; 0 for all.
            **kwargs: whatever else the language model takes.

        Returns:
            Logits ``(B, T, W)``, cache, and the loss if labels were given.

        Raises:
            ValueError: if not exactly one of input_ids and inputs_embeds is given, pictures come in
                two forms, or places and visual tokens differ in number.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if sum(given is not None for given in (pixel_values, image_features, inputs_embeds)) > 1:
            raise ValueError(
                "pass one of pixel_values, image_features and inputs_embeds; each holds pictures"
            )
        if inputs_embeds is None:
            assert input_ids is not None
            if image_features is None and pixel_values is not None:
                image_features = self.get_image_features(pixel_values)
            if image_features is None:
                inputs_embeds = self.get_input_embeddings()(input_ids)
            else:
                inputs_embeds = self.embed_inputs(input_ids, image_features)
        output: CausalLMOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return output

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pass pictures on in the first step only; later steps find them in the cache."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        if kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True):
            pictures = {"pixel_values": pixel_values, "image_features": image_features}
            inputs |= {key: value for key, value in pictures.items() if value is not None}
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat every sequence with all of its tiles, for beams and several answers a prompt.

        The inherited way repeats tile by tile, which mixes the tiles of a picture up. Tiles are
        encoded before they are repeated.
        """
        if pixel_values is not None and expand_size > 1:
            image_features = self.get_image_features(pixel_values)
            pixel_values = None
        if image_features is not None and expand_size > 1 and input_ids is not None:
            flat = image_features.reshape(-1, image_features.shape[-1])
            places = (input_ids == self.config.image_token_id).sum(dim=1).tolist()
            self._check_places(sum(places), flat.shape[0])
            groups = flat.split(places)
            image_features = torch.cat([group for group in groups for _ in range(expand_size)])
        repeated_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        pictures = {"pixel_values": pixel_values, "image_features": image_features}
        return repeated_ids, kwargs | {k: v for k, v in pictures.items() if v is not None}

    @classmethod
    def from_pretrained(cls, name: str | PathLike[str], *args: Any, **kwargs: Any) -> Self:
        """Load a checkpoint of either released layout (see ``weights.load_model``)."""
        from internvl35.model.weights import load_model

        return load_model(cls, name, *args, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        layout: Layout = "hf",
        max_shard_size: str = "5GB",
        **kwargs: Any,
    ) -> None:
        """Write the checkpoint in a released layout (see ``weights.save_checkpoint``)."""
        from internvl35.model.weights import save_checkpoint

        save_checkpoint(
            self, save_directory, layout=layout, max_shard_size=max_shard_size, **kwargs
        )


class LanguagePart(VisionLanguageModel):
    """What speaks, without what sees: visual tokens come from elsewhere (section 2.3).

    Args:
        config: sizes of all parts.
    """

    def __init__(self, config: InternVLChatConfig) -> None:
        """Build the language model alone, in its place in the whole."""
        super(VisionLanguageModel, self).__init__(config)
        self._add_language_model(config)


def make_flash_parts(config: InternVLChatConfig) -> tuple[CompressedProjector, Router]:
    """Build what a Flash model has on top, with fresh weights.

    Args:
        config: sizes; ``flash_mode`` itself is not looked at.

    Returns:
        The compressed projector and the router.
    """
    width = config.vision_config.hidden_size
    projector = CompressedProjector(
        width * config.compressed_merge_factor**2, config.text_config.hidden_size
    )
    router = Router(
        width,
        config.router_num_heads,
        repeats_second_step=config.router_repeats_second_step,
    )
    return projector, router


AutoConfig.register("internvl_chat", InternVLChatConfig)
AutoModel.register(InternVLChatConfig, VisionLanguageModel)
AutoModelForCausalLM.register(InternVLChatConfig, VisionLanguageModel)
AutoModelForImageTextToText.register(InternVLChatConfig, VisionLanguageModel)
