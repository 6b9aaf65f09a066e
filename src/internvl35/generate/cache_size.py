"""How many blocks of keys and values there is memory for.

The tensors stand in :mod:`internvl35.generate.paged_attention`. No counterpart in the paper.
"""

from __future__ import annotations

import torch

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel

CPU_TOKENS = 16_384
"""Tokens that a cache in main memory holds at least; memory is taken as it is used."""

GPU_SHARE = 0.8
"""Share of a GPU's free memory that a cache takes."""


def bytes_per_token(model: VisionLanguageModel) -> int:
    """Bytes of the keys and values of one token in all layers."""
    text = model.config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    numbers = 2 * text.num_hidden_layers * text.num_key_value_heads * width
    return int(numbers) * model.input_weight.element_size()


def choose_num_blocks(
    model: VisionLanguageModel,
    block_size: int,
    cache_gib: float | None,
    max_tokens: int | None,
    max_sequences: int,
) -> int:
    """Choose the size of a cache.

    Args:
        model: whose keys and values it holds.
        block_size: tokens a block.
        cache_gib: its size; None for a default that fits the device.
        max_tokens: most tokens that it needs room for; None for no such bound.
        max_sequences: most answers written at once; a cache larger than all of them is of no use.

    Returns:
        Blocks.

    Raises:
        ConfigError: if not even one block has room.
    """
    positions = int(model.config.text_config.max_position_embeddings)
    block_bytes = bytes_per_token(model) * block_size
    if cache_gib is not None:
        wanted = int(cache_gib * 2**30) // block_bytes
    elif model.input_device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.input_device)
        wanted = int(free * GPU_SHARE) // block_bytes
    else:
        wanted = -(-max(CPU_TOKENS, positions) // block_size)
    if wanted < 1:
        raise ConfigError(
            f"a cache of {cache_gib} GiB has no room for a block of {block_size} tokens "
            f"({block_bytes:,} bytes); give it more memory"
        )
    most = positions * max_sequences if max_tokens is None else max_tokens
    return int(min(wanted, -(-most // block_size)))
