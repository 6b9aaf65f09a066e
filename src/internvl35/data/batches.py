"""From examples to padded batches of tensors for training.

Building the examples (tiles, token ids, which tokens carry loss) is left to whoever knows the data.
No counterpart in the paper but padding; packing comes with fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Examples side by side, padded on the right."""

    input_ids: Tensor
    """``(B, T)`` token ids; T is 0 if no example has a conversation."""
    attention_mask: Tensor
    """``(B, T)`` 1 for tokens, 0 for padding."""
    labels: Tensor
    """``(B, T)`` token ids where loss is carried, ``IGNORED`` elsewhere."""
    pixel_values: Tensor | None
    """``(N, 3, tile, tile)`` tiles of all examples in order."""
    patch_labels: Tensor | None
    """``(N, G, G, L)`` uint8, given only if every example with tiles has them."""

    def __len__(self) -> int:
        """Count the examples."""
        return self.input_ids.shape[0]


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
        if len(example.token_ids) != len(example.loss_mask):
            raise ValueError(
                f"an example has {len(example.token_ids)} tokens but {len(example.loss_mask)} loss "
                "marks; needed: one a token"
            )
        ids = torch.tensor(example.token_ids, dtype=torch.long)
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = ids.masked_fill(~torch.tensor(example.loss_mask).bool(), IGNORED)
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
