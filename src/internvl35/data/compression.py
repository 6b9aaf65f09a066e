"""Takes places of visual tokens out of prompts and batches whose tiles are compressed.

Which tiles are compressed is decided by :mod:`internvl35.generate.routing`, or in training by its
loss; what fills the places that are left is computed in :mod:`internvl35.model`. Paper section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from internvl35.data.batches import IGNORED, TrainingBatch
from internvl35.data.token_writer import ImageSpan, Prompt


@dataclass(frozen=True)
class TileRouting:
    """What became of the tiles of one request."""

    is_compressed: tuple[bool, ...]
    """Which tiles, in the order of their places, take fewer visual tokens."""
    scores: tuple[float, ...] | None
    """The router's probability for each tile that it may be compressed; None if it was not asked.
    """

    @property
    def num_compressed(self) -> int:
        """Tiles that take fewer visual tokens."""
        return sum(self.is_compressed)


def compress_prompt(
    prompt: Prompt,
    is_compressed: Sequence[bool],
    *,
    tokens_per_tile: int,
    compressed_tokens: int,
) -> Prompt:
    """Keep the first places of every compressed tile and drop the rest (section 2.1).

    Args:
        prompt: with ``tokens_per_tile`` places for every tile.
        is_compressed: one for each tile, in the order of the places.
        tokens_per_tile: visual tokens of a tile.
        compressed_tokens: visual tokens of a compressed one.

    Returns:
        The shorter prompt; positions close up, since they are counted from its tokens.

    Raises:
        ValueError: if tiles and choices differ in number, or a picture has not the places of its
            tiles.
    """
    if len(is_compressed) != prompt.num_tiles:
        raise ValueError(
            f"{len(is_compressed)} choices for a prompt of {prompt.num_tiles} tiles; needed: one a "
            "tile"
        )
    dropped: list[tuple[int, int]] = []
    spans: list[ImageSpan] = []
    choices, saving, num_saved = iter(is_compressed), tokens_per_tile - compressed_tokens, 0
    for span in prompt.image_spans:
        _check_places(span.num_tokens, span.num_tiles, tokens_per_tile)
        tiles = [tile for tile in range(span.num_tiles) if next(choices)]
        starts = [span.start + tile * tokens_per_tile for tile in tiles]
        dropped += [(start + compressed_tokens, start + tokens_per_tile) for start in starts]
        num_tokens = span.num_tokens - saving * len(tiles)
        spans.append(replace(span, start=span.start - num_saved, num_tokens=num_tokens))
        num_saved += saving * len(tiles)
    kept = list(_between(dropped, len(prompt)))
    return Prompt(
        tuple(token_id for start, end in kept for token_id in prompt.token_ids[start:end]),
        tuple(spans),
        tuple(has_loss for start, end in kept for has_loss in prompt.loss_mask[start:end]),
    )


def _between(dropped: Sequence[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    """List the stretches that are left when others are taken out."""
    start = 0
    for first, last in dropped:
        yield start, first
        start = last
    yield start, length


def _check_places(num_places: int, num_tiles: int, tokens_per_tile: int) -> None:
    if num_places != num_tiles * tokens_per_tile:
        raise ValueError(
            f"{num_places} places for {num_tiles} tiles; needed: {tokens_per_tile} a tile, so that "
            "each tile's places are known"
        )


def compress_batch(
    batch: TrainingBatch,
    is_compressed: Tensor,
    image_token_id: int,
    tokens_per_tile: int,
    compressed_tokens: int,
    pad_token_id: int,
) -> TrainingBatch:
    """Do to every conversation of a batch what :func:`compress_prompt` does to a prompt.

    Args:
        batch: padded rows, or one packed row, with ``tokens_per_tile`` places for every tile.
        is_compressed: ``(N,)`` bool, one for each tile of the batch, in the order of the places.
        image_token_id: id that marks the places.
        tokens_per_tile: visual tokens of a tile.
        compressed_tokens: visual tokens of a compressed one.
        pad_token_id: fills ``input_ids`` behind the end of a conversation.

    Returns:
        The batch with shorter rows, padded to the longest of them; positions and segments of a pack
        close up. Tiles stay as they are.

    Raises:
        ValueError: if tiles and choices differ in number, or the places are not those of the tiles.
    """
    is_place = batch.input_ids == image_token_id  # (B, T)
    num_places = int(is_place.sum())
    if len(is_compressed) != batch.num_tiles:
        raise ValueError(
            f"{len(is_compressed)} choices for a batch of {batch.num_tiles} tiles; needed: one a "
            "tile"
        )
    _check_places(num_places, batch.num_tiles, tokens_per_tile)
    number = torch.arange(num_places, device=is_place.device)
    is_beyond = number % tokens_per_tile >= compressed_tokens
    choices = is_compressed.to(is_place.device)[number // tokens_per_tile]  # (places,)
    is_kept = batch.attention_mask != 0
    is_kept[is_place] &= ~(choices & is_beyond)
    width = int(is_kept.sum(dim=1).max()) if is_kept.numel() else 0
    order = torch.argsort((~is_kept).byte(), dim=1, stable=True)[:, :width]  # kept ones first
    is_token = is_kept.gather(1, order)

    def shorten(values: Tensor, filler: int) -> Tensor:
        return values.gather(1, order).masked_fill(~is_token, filler)

    shorter = replace(
        batch,
        input_ids=shorten(batch.input_ids, pad_token_id),
        attention_mask=is_token.long(),
        labels=shorten(batch.labels, IGNORED),
    )
    if batch.segments is None:
        return shorter
    return replace(shorter, **_close_up(batch.segments, is_kept[0]))


def _close_up(segments: Tensor, is_kept: Tensor) -> dict[str, Tensor]:
    """Count segments and positions of a packed row anew."""
    kept_before = torch.cat([is_kept.new_zeros(1).long(), is_kept.long().cumsum(0)])  # (T + 1,)
    ends = kept_before[segments.long()]
    lengths = ends.diff()
    starts = torch.repeat_interleave(ends[:-1], lengths)
    positions = torch.arange(int(ends[-1]), device=ends.device) - starts
    return {"segments": ends.to(segments.dtype), "position_ids": positions[None]}
