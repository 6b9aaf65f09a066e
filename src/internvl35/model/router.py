"""The visual resolution router: says of each tile whether a sixteenth of its patches is enough.

Two parts, with the sizes of the released Flash checkpoints: one learnt query reads all patches of a
tile in four attention steps, then four residual blocks and a gate turn what it found into two
logits. Which tiles of a request are compressed with such scores is left to
:mod:`internvl35.generate`, training to :mod:`internvl35.train`. Paper section 2.1, "InternVL3.5-
Flash", and Figure 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_STEPS = 4
"""Attention steps of the pooling, and residual blocks of the gating."""

_DROPOUT = 0.1
_EXPANSION = 4


class QueryAttention(nn.Module):
    """Multi-head attention of a single query over the patches of a tile.

    Args:
        width: width C of query and patches.
        num_heads: heads that share it.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        """Lay out the four weights."""
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, patches: Tensor) -> Tensor:
        """Read patches ``(N, P, C)`` with one query a tile ``(N, C)``; returns ``(N, C)``."""
        head_width = query.shape[-1] // self.num_heads
        heads = (self.num_heads, head_width)
        asked = self.query(query).unflatten(-1, heads).unsqueeze(2) * head_width**-0.5
        keys = self.key(patches).unflatten(-1, heads).transpose(1, 2)  # (N, H, P, K)
        values = self.value(patches).unflatten(-1, heads).transpose(1, 2)
        found = (asked @ keys.transpose(2, 3)).softmax(dim=-1) @ values  # (N, H, 1, K)
        read: Tensor = self.out_proj(found.flatten(1))
        return read


class CrossAttentionPooling(nn.Module):
    """One vector a tile: a learnt query reads the patches four times, each time with the last find.

    Args:
        width: width C of a patch vector.
        num_heads: heads of each attention.
        repeats_second_step: take the second attention and norm for steps two, three and four and
            leave the third and fourth pair unused, as the released code does and so the released
            weights require.
    """

    def __init__(self, width: int, num_heads: int, *, repeats_second_step: bool) -> None:
        """Lay out query, attentions and norms."""
        super().__init__()
        self.repeats_second_step = repeats_second_step
        self.query_token = nn.Parameter(torch.randn(1, width))
        self.attentions = nn.ModuleList(QueryAttention(width, num_heads) for _ in range(NUM_STEPS))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(NUM_STEPS))

    def forward(self, patches: Tensor) -> Tensor:
        """Pool the patches ``(N, P, C)`` of each tile to ``(N, C)``."""
        query = self.query_token.expand(patches.shape[0], -1)
        for step in range(NUM_STEPS):
            weights = min(step, 1) if self.repeats_second_step else step
            query = self.norms[weights](self.attentions[weights](query, patches))
        return query


class GatingBlock(nn.Module):
    """A two-layer MLP whose output is normalised.

    Args:
        width: width of input and output; the hidden layer is four times as wide.
    """

    def __init__(self, width: int) -> None:
        """Lay out both layers and the norm."""
        super().__init__()
        self.dense_in = nn.Linear(width, _EXPANSION * width)
        self.dense_out = nn.Linear(_EXPANSION * width, width)
        self.norm = nn.LayerNorm(width)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, pooled: Tensor) -> Tensor:
        """Transform ``(N, C)`` to ``(N, C)``; the caller adds its input."""
        hidden = self.dropout(self.act(self.dense_in(pooled)))
        changed: Tensor = self.norm(self.dropout(self.dense_out(hidden)))
        return changed


class Gating(nn.Module):
    """Four residual blocks and a linear gate of two outputs.

    Args:
        width: width C of a pooled tile.
    """

    def __init__(self, width: int) -> None:
        """Lay out blocks and gate."""
        super().__init__()
        self.blocks = nn.ModuleList(GatingBlock(width) for _ in range(NUM_STEPS))
        self.gate_norm = nn.LayerNorm(width)
        self.gate_proj = nn.Linear(width, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Turn pooled tiles ``(N, C)`` into logits ``(N, 2)``; the first is for compressing."""
        for block in self.blocks:
            pooled = pooled + block(pooled)
        logits: Tensor = self.gate_proj(self.gate_norm(pooled))
        return logits


class Router(nn.Module):
    """Pooling and gating: from the patches of tiles to what may be compressed.

    Every tile is judged by its own patches alone.

    Args:
        width: width C of a patch vector.
        num_heads: heads of the pooling; 16 in every released model.
        repeats_second_step: see :class:`CrossAttentionPooling`.
    """

    def __init__(self, width: int, num_heads: int = 16, *, repeats_second_step: bool) -> None:
        """Build both parts with fresh weights."""
        super().__init__()
        self.pooling = CrossAttentionPooling(
            width, num_heads, repeats_second_step=repeats_second_step
        )
        self.gating = Gating(width)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits of tiles as :meth:`logits`, in the dtype of the weights."""
        flat = patches.flatten(1, 2).to(self.pooling.query_token.dtype)  # (N, P, C)
        logits: Tensor = self.gating(self.pooling(flat))
        return logits

    def logits(self, patches: Tensor) -> Tensor:
        """Judge tiles, for training.

        Args:
            patches: ``(N, G, G, C)`` patch vectors of the tower.

        Returns:
            ``(N, 2)`` in float32: compress, and keep.
        """
        judged: Tensor = self(patches)
        return judged.float()

    def scores(self, patches: Tensor) -> Tensor:
        """Judge tiles, for routing.

        The softmax is taken in the dtype of the weights, as the released code takes it, so that two
        tiles may tie; ``to`` that dtype gives the very numbers that it compares with thresholds.

        Args:
            patches: ``(N, G, G, C)`` patch vectors of the tower.

        Returns:
            ``(N,)`` in float32: the probability that a tile may be compressed.
        """
        judged: Tensor = self(patches)
        return judged.softmax(dim=-1)[:, 0].float()
