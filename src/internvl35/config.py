"""What a checkpoint is, in frozen dataclasses that need neither torch nor transformers.

Holds the shapes of the nine released sizes and the arithmetic on them (parameters, memory).
Reading and writing ``config.json`` is left to :mod:`internvl35.model.configuration`. Paper section
2.1, Table 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from internvl35.errors import ConfigError

LanguageFamily = Literal["qwen3", "qwen3_moe", "gpt_oss"]

TINY = "tiny"
"""Name of the checkpoint that is embedded in the package."""

TINY_FLASH = "tiny-flash"
"""Name of the embedded Flash checkpoint, which was made from it."""

EMBEDDED = {name: Path(__file__).parent / "checkpoints" / name for name in (TINY, TINY_FLASH)}
"""Where embedded checkpoints lie, by name."""

TINY_FOLDER = EMBEDDED[TINY]
"""Where the first of them lies."""


@dataclass(frozen=True)
class TileSettings:
    """How a picture becomes tiles (section 2.1, "dynamic high resolution")."""

    tile_size: int = 448
    """Side of a square tile in pixels."""
    min_tiles: int = 1
    """Fewest tiles a picture is cut into, thumbnail not counted."""
    max_tiles: int = 12
    """Most tiles a picture is cut into, thumbnail not counted."""
    use_thumbnail: bool = True
    """Whether a picture of several tiles is followed by one tile that shows all of it."""

    def __post_init__(self) -> None:
        """Refuse settings under which no tiling exists."""
        if self.tile_size < 1:
            raise ConfigError(f"tile_size is {self.tile_size}; it must be at least 1 pixel")
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise ConfigError(
                f"min_tiles is {self.min_tiles} and max_tiles is {self.max_tiles}; "
                "needed: 1 <= min_tiles <= max_tiles"
            )


@dataclass(frozen=True)
class VisionShape:
    """Sizes of an InternViT tower."""

    width: int
    """Width C of a patch vector."""
    num_layers: int
    """Transformer blocks."""
    num_heads: int
    """Attention heads; the head width is ``width / num_heads``."""
    mlp_width: int
    """Width of the hidden layer of a block's MLP."""
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    """Normalisation in front of attention and MLP."""
    has_qkv_bias: bool = True
    """Whether the query, key and value projections carry biases."""
    has_qk_norm: bool = False
    """Whether queries and keys pass an RMSNorm over the full width before the head split."""
    tile_size: int = 448
    """Side of a tile in pixels."""
    patch_size: int = 14
    """Side of a patch in pixels."""

    @property
    def grid(self) -> int:
        """Patches along one side of a tile (G)."""
        return self.tile_size // self.patch_size

    @property
    def num_parameters(self) -> int:
        """Exact number of weights of the tower."""
        width, mlp = self.width, self.mlp_width
        norm = 2 * width if self.norm == "layer_norm" else width
        attention = 4 * width * width + width + (3 * width if self.has_qkv_bias else 0)
        attention += 2 * width if self.has_qk_norm else 0
        block = attention + 2 * width * mlp + mlp + width + 2 * norm + 2 * width
        embeddings = width + (self.grid**2 + 1) * width + 3 * self.patch_size**2 * width + width
        return embeddings + self.num_layers * block


@dataclass(frozen=True)
class LanguageShape:
    """Sizes of a language model of one of the three families."""

    family: LanguageFamily
    """Which transformers class it is."""
    width: int
    """Width D of a token vector."""
    num_layers: int
    """Decoder blocks."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_width: int
    """Width K of one head."""
    mlp_width: int
    """Hidden width of the MLP, or of one expert."""
    num_experts: int = 0
    """Experts a block; 0 for a dense model."""
    num_active_experts: int = 0
    """Experts one token passes through; 0 for a dense model."""
    vocab_size: int = 151_936
    """Rows W of the embedding and of the output head."""
    is_tied: bool = False
    """Whether the output head is the embedding."""

    @property
    def _attention_parameters(self) -> int:
        query, key = self.num_heads * self.head_width, self.num_kv_heads * self.head_width
        weights = 2 * self.width * query + 2 * self.width * key
        if self.family == "gpt_oss":  # biases on all four projections and a sink a head
            return weights + query + 2 * key + self.width + self.num_heads
        return weights + 2 * self.head_width  # q_norm and k_norm

    def _mlp_parameters(self, num_experts: int) -> int:
        expert = 3 * self.width * self.mlp_width
        if self.num_experts == 0:
            return expert
        router = self.num_experts * self.width
        if self.family == "gpt_oss":
            expert += 2 * self.mlp_width + self.width
            router += self.num_experts
        return num_experts * expert + router

    def _count(self, num_experts: int) -> int:
        block = self._attention_parameters + self._mlp_parameters(num_experts) + 2 * self.width
        embeddings = self.vocab_size * self.width * (1 if self.is_tied else 2)
        return embeddings + self.num_layers * block + self.width

    @property
    def num_parameters(self) -> int:
        """Exact number of weights, embedding and output head included."""
        return self._count(self.num_experts)

    @property
    def num_active_parameters(self) -> int:
        """Weights one token passes through, embedding and output head included."""
        return self._count(self.num_active_experts)


@dataclass(frozen=True)
class ModelPreset:
    """One released size: its parts and what it takes to run it."""

    name: str
    """Size as users write it, for example ``8B``."""
    vision: VisionShape
    """The vision tower."""
    language: LanguageShape
    """The language model."""
    template: str = "internvl2_5"
    """Conversation template."""
    image_token_id: int = 151_671
    """Id of ``<IMG_CONTEXT>`` in the tokenizer of this size."""
    drop_path: float = 0.0
    """Drop-path rate of the tower in the released training scripts."""
    is_flash: bool = False
    """Whether it has a router and a compressed projector."""

    @property
    def hub_id(self) -> str:
        """Repository of the released weights in the remote-code layout."""
        return f"OpenGVLab/InternVL3_5-{self.name}"

    @property
    def num_projector_parameters(self) -> int:
        """Exact number of weights of the projector (LayerNorm and two linear layers)."""
        merged, width = 4 * self.vision.width, self.language.width
        return 2 * merged + merged * width + width + width * width + width

    @property
    def num_compressed_projector_parameters(self) -> int:
        """Exact number of weights of the compressed projector, 0 without one."""
        if not self.is_flash:
            return 0
        merged, width = 16 * self.vision.width, self.language.width
        hidden = 2 * width
        layers = merged * hidden + hidden + hidden * hidden + hidden + hidden * width + width
        return 2 * merged + layers

    @property
    def num_router_parameters(self) -> int:
        """Exact number of weights of the router, 0 without one."""
        if not self.is_flash:
            return 0
        width = self.vision.width
        pooling_step = 4 * width * width + 6 * width  # an attention with biases, and a norm
        gating_block = 8 * width * width + 7 * width  # an MLP four times as wide, and a norm
        query, gate = width, 4 * width + 2
        return query + 4 * (pooling_step + gating_block) + gate

    @property
    def flash(self) -> ModelPreset:
        """The Flash version of this size, whether it was released or not."""
        return replace(self, name=f"{self.name}-Flash", is_flash=True)

    @property
    def _num_seeing_parameters(self) -> int:
        return (
            self.vision.num_parameters
            + self.num_projector_parameters
            + self.num_compressed_projector_parameters
            + self.num_router_parameters
        )

    @property
    def num_parameters(self) -> int:
        """Exact number of weights of the whole model."""
        return self._num_seeing_parameters + self.language.num_parameters

    @property
    def num_active_parameters(self) -> int:
        """Weights one token passes through, and all that sees: tower, projectors, router."""
        return self._num_seeing_parameters + self.language.num_active_parameters

    def memory_bytes(self, bits: Literal[8, 16]) -> int:
        """Bytes the weights take.

        Args:
            bits: 16 for bfloat16; 8 for weight-only int8, which keeps embedding and head in 16 bits
                (norms and routers too, but those are less than a thousandth and counted as 8).

        Returns:
            Bytes of weights alone; cache and activations come on top.
        """
        if bits == 16:
            return 2 * self.num_parameters
        kept = self.language.vocab_size * self.language.width * (1 if self.language.is_tied else 2)
        return (self.num_parameters - kept) + 2 * kept

    def num_gpus(self, gpu_memory_gib: float = 80.0, usable_share: float = 0.8) -> int:
        """GPUs that hold the weights in bfloat16 and leave room for cache and activations.

        Args:
            gpu_memory_gib: memory of one GPU in GiB.
            usable_share: part of it that weights may fill.

        Returns:
            The smallest sufficient power of two (tensor parallelism splits heads evenly).
        """
        count = 1
        while count * gpu_memory_gib * usable_share * 2**30 < self.memory_bytes(16):
            count *= 2
        return count


INTERNVIT_300M = VisionShape(width=1024, num_layers=24, num_heads=16, mlp_width=4096)
"""InternViT-300M-448px-V2_5."""

INTERNVIT_6B = VisionShape(
    width=3200, num_layers=45, num_heads=25, mlp_width=12_800,
    norm="rms_norm", has_qkv_bias=False, has_qk_norm=True,
)  # fmt: skip
"""InternViT-6B-448px-V2_5."""


def _dense(width: int, num_layers: int, num_heads: int, mlp_width: int) -> LanguageShape:
    return LanguageShape("qwen3", width, num_layers, num_heads, 8, 128, mlp_width)


def _moe(width: int, num_layers: int, num_heads: int, mlp_width: int) -> LanguageShape:
    return LanguageShape("qwen3_moe", width, num_layers, num_heads, 4, 128, mlp_width, 128, 8)


GPT_OSS_20B = LanguageShape("gpt_oss", 2880, 24, 64, 8, 64, 2880, 32, 4, vocab_size=200_028)
"""gpt-oss-20b with its vocabulary cut to the tokenizer's length, as the training code does.

That the released file is cut this way is derived from code, not read from a config: a checkpoint's
own config.json always wins over this value."""

PRESETS: dict[str, ModelPreset] = {
    preset.name: preset
    for preset in (
        ModelPreset("1B", INTERNVIT_300M, _dense(1024, 28, 16, 3072)),
        ModelPreset("2B", INTERNVIT_300M, _dense(2048, 28, 16, 6144)),
        ModelPreset("4B", INTERNVIT_300M, _dense(2560, 36, 32, 9728)),
        ModelPreset("8B", INTERNVIT_300M, _dense(4096, 36, 32, 12_288), drop_path=0.1),
        ModelPreset("14B", INTERNVIT_300M, _dense(5120, 40, 40, 17_408), drop_path=0.1),
        ModelPreset("38B", INTERNVIT_6B, _dense(5120, 64, 64, 25_600), drop_path=0.4),
        ModelPreset(
            "GPT-OSS-20B-A4B-Preview",
            INTERNVIT_300M,
            GPT_OSS_20B,
            template="internvl3_5_gpt_oss",
            image_token_id=200_021,
        ),
        ModelPreset("30B-A3B", INTERNVIT_300M, _moe(2048, 48, 32, 768), drop_path=0.1),
        ModelPreset("241B-A28B", INTERNVIT_6B, _moe(4096, 94, 64, 1536), drop_path=0.4),
    )
}
"""The nine released sizes by name."""

FLASH_SIZES = ("1B", "2B", "4B", "8B", "14B", "38B", "30B-A3B")
"""Sizes of which a Flash version was released."""
