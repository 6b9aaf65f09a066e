"""From examples to batches of tensors for training: padded rows, or one row of packed samples.

Building the examples (tiles, token ids, which tokens carry loss) is left to
:mod:`internvl35.data.encoding`, which of them share a pack to :mod:`internvl35.data.packing`.
Packing: paper section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that carries no loss."""


@dataclass(frozen=True)
class Example:
    """One conversation, or one picture without any, ready for the network."""

    token_ids: Sequence[int]
    """The whole conversation; empty for a picture that only the tower sees."""
    loss_mask: Sequence[bool]
    """Which tokens carry loss, one for each token."""
    pixel_values: Tensor | None = None
    """``(N, 3, tile, tile)`` normalised tiles of all its pictures."""
    patch_labels: Tensor | None = None
    """``(N, G, G, L)`` uint8, what stands in which patch, for dense auxiliary losses."""

    @property
    def num_tiles(self) -> int:
        """Tiles of all its pictures."""
        return 0 if self.pixel_values is None else self.pixel_values.shape[0]


@dataclass(frozen=True)
class TrainingBatch:
    """Examples side by side, padded on the right, or one behind the other in a single row."""

    input_ids: Tensor
    """``(B, T)`` token ids; T is 0 if no example has a conversation."""
    attention_mask: Tensor
    """``(B, T)`` 1 for tokens, 0 for padding."""
    labels: Tensor
    """``(B, T)`` token ids where loss is carried, ``IGNORED`` elsewhere."""
    pixel_values: Tensor | None
    """``(N, 3, tile, tile)`` tiles of all examples in order."""
    patch_labels: Tensor | None = None
    """``(N, G, G, L)`` uint8, given only if every example with tiles has them."""
    position_ids: Tensor | None = None
    """``(1, T)`` positions that begin again with every sample of a pack; None for padded rows."""
    segments: Tensor | None = None
    """``(S + 1,)`` int32, where the samples of a pack begin and end: 0 ... T; None for padded rows.
    """

    def __len__(self) -> int:
        """Count the examples."""
        return self.input_ids.shape[0] if self.segments is None else len(self.segments) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens, padding not counted."""
        return int(self.attention_mask.sum())

    @property
    def num_tiles(self) -> int:
        """Tiles of all examples."""
        return 0 if self.pixel_values is None else self.pixel_values.shape[0]

    def to(self, device: torch.device) -> TrainingBatch:
        """Copy every tensor to a device."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


def collate(examples: Sequence[Example], pad_token_id: int) -> TrainingBatch:
    """Pad examples to one length and join their tiles.

    Args:
        examples: at least one.
        pad_token_id: fills ``input_ids`` behind the end of a conversation.

    Returns:
        The batch.

    Raises:
        ValueError: if an example does not have one loss mark a token.
    """
    longest = max(len(example.token_ids) for example in examples)
    input_ids = torch.full((len(examples), longest), pad_token_id, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        ids, targets = _ids_and_labels(example)
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = targets
    lengths = torch.tensor([len(example.token_ids) for example in examples])
    with_tiles = [example for example in examples if example.pixel_values is not None]
    tiles = [e.pixel_values for e in with_tiles if e.pixel_values is not None]
    patch_labels = [e.patch_labels for e in with_tiles if e.patch_labels is not None]
    has_labels = bool(patch_labels) and len(patch_labels) == len(with_tiles)
    return TrainingBatch(
        input_ids=input_ids,
        attention_mask=(torch.arange(longest)[None, :] < lengths[:, None]).long(),
        labels=labels,
        pixel_values=torch.cat(tiles) if tiles else None,
        patch_labels=torch.cat(patch_labels) if has_labels else None,
    )


def collate_packed(examples: Sequence[Example]) -> TrainingBatch:
    """Put examples one behind the other into a single row.

    Args:
        examples: at least one, each with at least one token; not padded.

    Returns:
        The batch. The first token of a sample carries no loss: in a row of its own nothing would
        predict it either.

    Raises:
        ValueError: if an example has no tokens or does not have one loss mark a token.
    """
    if not examples or not all(example.token_ids for example in examples):
        raise ValueError("a pack needs at least one example, and every example needs tokens")
    parts = [_ids_and_labels(example) for example in examples]
    ends = list(accumulate((len(ids) for ids, _ in parts), initial=0))
    labels = torch.cat([targets for _, targets in parts])[None]
    labels[:, ends[:-1]] = IGNORED
    tiles = [e.pixel_values for e in examples if e.pixel_values is not None]
    return TrainingBatch(
        input_ids=torch.cat([ids for ids, _ in parts])[None],
        attention_mask=torch.ones((1, ends[-1]), dtype=torch.long),
        labels=labels,
        pixel_values=torch.cat(tiles) if tiles else None,
        position_ids=torch.cat([torch.arange(end - start) for start, end in pairwise(ends)])[None],
        segments=torch.tensor(ends, dtype=torch.int32),
    )


def _ids_and_labels(example: Example) -> tuple[Tensor, Tensor]:
    if len(example.token_ids) != len(example.loss_mask):
        raise ValueError(
            f"an example has {len(example.token_ids)} tokens but {len(example.loss_mask)} loss "
            "marks; needed: one a token"
        )
    ids = torch.tensor(example.token_ids, dtype=torch.long)
    return ids, ids.masked_fill(~torch.tensor(example.loss_mask).bool(), IGNORED)


def group_by_tiles(
    examples: Sequence[Example], *, max_tiles: int, max_examples: int
) -> list[list[Example]]:
    """Put examples of like size side by side, so that little is padded.

    Args:
        examples: any number.
        max_tiles: most tiles a group holds, unless a single example has more.
        max_examples: most examples a group holds.

    Returns:
        Groups in rising order of tiles; every example is in exactly one.
    """
    groups: list[list[Example]] = []
    tiles = 0
    for example in sorted(examples, key=lambda e: (e.num_tiles, len(e.token_ids))):
        is_full = bool(groups) and (
            len(groups[-1]) == max_examples or tiles + example.num_tiles > max_tiles
        )
        if not groups or is_full:
            groups.append([])
            tiles = 0
        groups[-1].append(example)
        tiles += example.num_tiles
    return groups
