"""Dense labels for a vision tower: which glyph, colour or shape stands in which patch.

Drawing the pictures and marking what they hold is left to the families. No counterpart in the
paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from internvl35.config import TileSettings
from internvl35.data.synthetic.labels import MARK_LABELS, Mark
from internvl35.data.tiles import choose_grid

MIN_SHARE = 0.25
"""A patch carries a label if this share of the patch, or of the mark, lies in the overlap."""

_INDEX = {label: index for index, label in enumerate(MARK_LABELS)}


def label_patches(
    marks: Sequence[Mark], width: int, height: int, settings: TileSettings, patch_size: int
) -> Tensor:
    """Say for each patch of each tile of a picture what stands in it.

    Args:
        marks: what the picture holds, boxes in its own pixels.
        width: of the picture, pixels.
        height: of the picture, pixels.
        settings: how the picture is cut.
        patch_size: side of a patch, pixels.

    Returns:
        ``(N, G, G, len(MARK_LABELS))`` uint8, in the order of the tiles.
    """
    columns, rows = choose_grid(width, height, settings)
    side = settings.tile_size // patch_size
    parts = [_label_grid(marks, width, height, columns * side, rows * side)]
    tiles = parts[0].reshape(rows, side, columns, side, -1).swapaxes(1, 2)
    labels = tiles.reshape(rows * columns, side, side, -1)
    if settings.use_thumbnail and columns * rows > 1:
        thumbnail = _label_grid(marks, width, height, side, side)
        labels = np.concatenate([labels, thumbnail[None]])
    return torch.from_numpy(labels)


def _label_grid(
    marks: Sequence[Mark], width: int, height: int, columns: int, rows: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    labels = np.zeros((rows, columns, len(MARK_LABELS)), dtype=np.uint8)
    for mark in marks:
        left, right = mark.box[0] * columns / width, mark.box[2] * columns / width
        top, bottom = mark.box[1] * rows / height, mark.box[3] * rows / height
        across = _overlap(left, right, columns)  # (columns,)
        down = _overlap(top, bottom, rows)  # (rows,)
        area = min(1.0, (right - left) * (bottom - top))
        labels[:, :, _INDEX[mark.label]] |= np.outer(down, across) >= MIN_SHARE * area
    return labels


def _overlap(low: float, high: float, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    starts = np.arange(count, dtype=np.float64)
    covered: np.ndarray[tuple[int], np.dtype[np.float64]] = np.clip(
        np.minimum(high, starts + 1) - np.maximum(low, starts), 0.0, None
    )
    return covered
