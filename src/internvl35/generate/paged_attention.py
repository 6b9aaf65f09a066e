"""Keys and values of many sequences in one store of blocks, and attention over it.

The language model stays transformers' own class: attention enters through its attention interface,
and the store travels down to it as a keyword. Sequences of one step lie behind one another in one
row, single tokens first. Which blocks are whose is left to :mod:`internvl35.generate.blocks`,
attention of single tokens to :mod:`internvl35.generate.decode_attention`. No counterpart in the
paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from internvl35.generate.decode_attention import attend_decode, store

PAGED = "internvl35_paged"
"""Name of this attention among transformers' implementations."""


class PagedCache:
    """Blocks of keys and values, layer by layer.

    Args:
        num_blocks: blocks a layer.
        block_size: tokens a block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Begin without memory; a layer takes its own, where it computes, at its first use."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, number: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer.

        Args:
            number: of the layer.
            key: ``(..., H', T, K)`` of it; the store has its heads, width, dtype and device.

        Returns:
            Keys and values, each ``(num_blocks, H', block_size, K)``.
        """
        found = self._layers.get(number)
        if found is None:
            shape = (self.num_blocks, key.shape[-3], self.block_size, key.shape[-1])
            found = (key.new_empty(shape), key.new_empty(shape))
            self._layers[number] = found
        return found


@dataclass
class Chunk:
    """Tokens of one prompt that a step computes."""

    start: int
    """Place of its first token in the row of the step."""
    count: int
    """Tokens of it."""
    num_before: int
    """Tokens of its sequence that are in the cache already."""
    blocks: Tensor
    """``(blocks,)`` int64, blocks of its sequence, as far as its tokens reach."""
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """Which tokens each of its tokens sees.

        Args:
            window: how many tokens back, itself included; ``None`` for all.

        Returns:
            ``(count, num_before + count)`` bool.
        """
        found = self._masks.get(window)
        if found is None:
            total = self.num_before + self.count
            device = self.blocks.device
            places = torch.arange(self.num_before, total, device=device)[:, None]
            others = torch.arange(total, device=device)
            found = others <= places
            if window is not None:
                found &= others > places - window
            self._masks[window] = found
        return found


@dataclass(frozen=True)
class PagedStep:
    """Where the tokens of one step belong."""

    cache: PagedCache
    """Keys and values of all sequences."""
    slots: Tensor
    """``(T,)`` int64, for each token of the row: its block times the block size, plus its place."""
    tables: Tensor
    """``(B, M)`` int32, blocks of the sequences whose answers are written, filled up with 0."""
    lengths: Tensor
    """``(B,)`` int32, tokens of these, the new one included."""
    chunks: tuple[Chunk, ...]
    """Tokens of prompts; they follow the B tokens of answers."""


def register_paged_attention() -> None:
    """Make transformers know this attention; again is harmless."""
    AttentionInterface.register(PAGED, attend_paged)
    AttentionMaskInterface.register(PAGED, sdpa_mask)


def attend_paged(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    *,
    paged: PagedStep,
    **_: Any,
) -> tuple[Tensor, None]:
    """Store new keys and values, then attend over everything that a token's sequence has.

    Args:
        module: the attention layer.
        query: ``(1, H, T, K)``, positions already turned in.
        key: ``(1, H', T, K)``, H' a divisor of H.
        value: ``(1, H', T, K)``.
        attention_mask: not looked at; the step says what is seen.
        scaling: factor of the scores, ``None`` for ``K ** -0.5``.
        sliding_window: how many tokens back, itself included, a token sees; ``None`` for all.
        s_aux: ``(H,)`` score of each head's sink; ``None`` for heads without.
        paged: where the tokens belong.

    Returns:
        ``(1, T, H, K)`` and, as of every attention without weights to show, ``None``.
    """
    number: int = module.layer_idx  # type: ignore[assignment]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    keys, values = paged.cache.layer(number, key)
    new_keys, new_values = key[0].transpose(0, 1), value[0].transpose(0, 1)  # (T, H', K)
    store(new_keys, new_values, keys, values, paged.slots)
    rows = query[0].transpose(0, 1)  # (T, H, K)
    output = torch.empty_like(rows, memory_format=torch.contiguous_format)
    num_answers = len(paged.lengths)
    if num_answers:
        output[:num_answers] = attend_decode(
            rows[:num_answers], keys, values, paged.tables, paged.lengths,
            scaling=scaling, window=sliding_window, sinks=s_aux,
        )  # fmt: skip
    for chunk in paged.chunks:
        part = slice(chunk.start, chunk.start + chunk.count)
        if chunk.num_before:
            seen = _gather(keys, chunk), _gather(values, chunk)
        else:
            seen = key[0, :, part], value[0, :, part]
        found = _attend_chunk(query[0, :, part], *seen, chunk, scaling, sliding_window, s_aux)
        output[part] = found.transpose(0, 1)
    return output[None], None


def _gather(kept: Tensor, chunk: Chunk) -> Tensor:
    """Bring the blocks of a sequence into one piece ``(H', num_before + count, K)``."""
    blocks = kept[chunk.blocks].transpose(0, 1)  # (H', blocks, block_size, K)
    return blocks.flatten(1, 2)[:, : chunk.num_before + chunk.count]


def _attend_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    chunk: Chunk,
    scaling: float,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attend from the tokens of a chunk ``(H, count, K)`` to its sequence ``(H', tokens, K)``."""
    if window is not None and window >= chunk.num_before + chunk.count:
        window = None
    if sinks is not None:
        return _attend_with_sinks(query, key, value, chunk.mask(window), scaling, sinks)
    is_plain = window is None and not chunk.num_before
    mask = None if is_plain else _choose_mask(chunk, window, query.device)
    return functional.scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask, is_causal=is_plain, scale=scaling,
        enable_gqa=query.shape[0] != key.shape[0],
    )[0]  # fmt: skip


def _choose_mask(chunk: Chunk, window: int | None, device: torch.device) -> Tensor:
    """What tokens see; on a GPU, if that is everything before, for kernels that read no mask."""
    if window is None and device.type == "cuda":
        found: Tensor = causal_lower_right(chunk.count, chunk.num_before + chunk.count)
        return found
    return chunk.mask(window)


def _attend_with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, sinks: Tensor
) -> Tensor:
    """Attend with one more score in every head that no value belongs to."""
    repeats = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(repeats, dim=0), value.repeat_interleave(repeats, dim=0)
    scores = query @ key.transpose(1, 2) * scaling  # (H, count, tokens)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    columns = sinks.to(scores.dtype).reshape(-1, 1, 1).expand(-1, scores.shape[1], 1)
    scores = torch.cat([scores, columns], dim=-1)
    weights = (scores - scores.amax(dim=-1, keepdim=True)).softmax(dim=-1)[..., :-1]
    return weights.to(value.dtype) @ value
