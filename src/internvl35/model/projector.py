"""From patch vectors to vectors the language model takes: patch merging and the projector.

The tower in front and the language model behind are transformers' own classes, put together in
:mod:`internvl35.model.composite`. Paper section 2.1.
"""

from __future__ import annotations

from torch import Tensor, nn


def merge_patches(features: Tensor, factor: int) -> Tensor:
    """Fold every ``factor x factor`` block of patches into one, wider vector (section 2.1).

    Args:
        features: ``(N, G, G, C)``, any float dtype, row-major, class token already removed.
        factor: patches per block side; 2 keeps a quarter of the tokens, 4 a sixteenth.

    Returns:
        ``(N, G // factor, G // factor, C * factor**2)``; channels ordered (row, column, C), as the
        released weights expect.

    Raises:
        ValueError: if ``G`` is not a multiple of ``factor``.
    """
    num_tiles, rows, columns, width = features.shape
    if rows % factor or columns % factor:
        raise ValueError(f"a grid of {rows}x{columns} patches cannot be folded {factor}x{factor}")
    blocks = features.reshape(
        num_tiles, rows // factor, factor, columns // factor, factor, width
    ).transpose(2, 3)  # (N, G/f, G/f, f, f, C)
    return blocks.reshape(num_tiles, rows // factor, columns // factor, factor * factor * width)


class Projector(nn.Module):
    """LayerNorm and two linear layers from merged patches to the language width (section 2.1).

    Args:
        merged_width: width of a merged patch vector.
        language_width: width D of the language model.
    """

    def __init__(self, merged_width: int, language_width: int) -> None:
        """Lay out the three weights under the names of the native layout."""
        super().__init__()
        self.layer_norm = nn.LayerNorm(merged_width)
        self.linear_1 = nn.Linear(merged_width, language_width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(language_width, language_width)

    def forward(self, merged: Tensor) -> Tensor:
        """Project merged patches ``(N, V, merged_width)`` to visual tokens ``(N, V, D)``."""
        projected: Tensor = self.linear_2(self.act(self.linear_1(self.layer_norm(merged))))
        return projected


class CompressedProjector(nn.Module):
    """From blocks of 4x4 patches to the language width, for tiles that the router compresses.

    LayerNorm and three linear layers; the released code calls it ``mlp2``.

    Args:
        merged_width: width of a merged patch vector, 16 times the tower's.
        language_width: width D of the language model; the hidden layers are twice as wide.
    """

    def __init__(self, merged_width: int, language_width: int) -> None:
        """Lay out the four weights."""
        super().__init__()
        hidden = 2 * language_width
        self.layer_norm = nn.LayerNorm(merged_width)
        self.linear_1 = nn.Linear(merged_width, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, language_width)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(0.1)

    def forward(self, merged: Tensor) -> Tensor:
        """Project merged patches ``(N, V, merged_width)`` to visual tokens ``(N, V, D)``."""
        hidden = self.dropout(self.act(self.linear_1(self.layer_norm(merged))))
        hidden = self.dropout(self.act(self.linear_2(hidden)))
        projected: Tensor = self.linear_3(hidden)
        return projected
