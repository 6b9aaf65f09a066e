"""Cut a picture into tiles and turn tiles into pixel values (section 2.1, dynamic resolution).

Opening pictures and videos is left to :mod:`internvl35.data.images` and
:mod:`internvl35.data.video`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from internvl35.config import TileSettings
from internvl35.errors import MediaError

if TYPE_CHECKING:  # grids and counts are needed where torch is not: gateways, data tools, --help
    from torch import Tensor

Resizer: TypeAlias = Literal["pillow", "torch"]
"""Which library resizes pictures."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue that the tower was trained with, in units of full scale."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue, in units of full scale."""


class Grid(NamedTuple):
    """How many tiles a picture is cut into along each side."""

    columns: int
    """Tiles side by side."""
    rows: int
    """Tiles on top of each other."""


@lru_cache(maxsize=128)
def list_grids(min_tiles: int, max_tiles: int) -> tuple[Grid, ...]:
    """List every grid of ``min_tiles`` to ``max_tiles`` tiles in the order of the search.

    Args:
        min_tiles: fewest tiles, at least 1.
        max_tiles: most tiles.

    Returns:
        Grids by rising number of tiles and, where that is equal, by rising number of columns.
        The second key decides only for ``min_tiles > 1``: of two grids of equal area at equal
        distance from a picture, one with a single tile less lies between them and is nearer.
    """
    return tuple(
        Grid(columns, area // columns)
        for area in range(min_tiles, max_tiles + 1)
        for columns in range(1, area + 1)
        if area % columns == 0
    )


def choose_grid(width: int, height: int, settings: TileSettings) -> Grid:
    """Choose the grid whose aspect ratio is nearest to the picture's.

    A later grid at exactly the same distance replaces an earlier one if the picture has more than
    half of the later grid's pixels. Distances are compared as 64-bit floats, as the released models
    were trained: where two distances are equal on paper, rounding may break the tie.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        settings: tile size and the fewest and most tiles.

    Returns:
        Columns and rows.

    Raises:
        MediaError: if the picture has no pixels.
    """
    if width < 1 or height < 1:
        raise MediaError(f"the picture is {width}x{height} pixels; needed: at least 1x1")
    aspect = width / height
    best, best_distance = Grid(1, 1), float("inf")
    for grid in list_grids(settings.min_tiles, settings.max_tiles):
        distance = abs(aspect - grid.columns / grid.rows)
        if distance > best_distance:
            continue
        is_tie = distance == best_distance
        grid_pixels = settings.tile_size**2 * grid.columns * grid.rows
        if not is_tie or 2 * width * height > grid_pixels:
            best, best_distance = grid, distance
    return best


def count_tiles(width: int, height: int, settings: TileSettings) -> int:
    """Count the tiles that :func:`cut_tiles` makes, thumbnail included, from a size alone.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        settings: how pictures are cut.

    Returns:
        Number of tiles N.

    Raises:
        MediaError: if the picture has no pixels.
    """
    columns, rows = choose_grid(width, height, settings)
    num_tiles = columns * rows
    return num_tiles + (1 if settings.use_thumbnail and num_tiles > 1 else 0)


def cut_tiles(image: Image.Image, settings: TileSettings) -> list[Image.Image]:
    """Resize a picture to its grid and cut it into square tiles.

    Args:
        image: in mode RGB. Other modes are refused, not converted: Pillow resizes some of them
            without a filter, and what happens to alpha is for the caller to decide.
        settings: how pictures are cut.

    Returns:
        Tiles row by row, each ``tile_size`` pixels square. If there are several and
        ``use_thumbnail`` is set, the whole picture as one more tile comes last, made from the
        original and not from the resized picture.

    Raises:
        MediaError: if the picture has no pixels.
        ValueError: if the picture is not in mode RGB.
    """
    if image.mode != "RGB":
        raise ValueError(f"the picture is in mode {image.mode}; needed: RGB")
    side = settings.tile_size
    columns, rows = choose_grid(*image.size, settings)
    canvas = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    tiles = [
        canvas.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]
    if settings.use_thumbnail and len(tiles) > 1:
        tiles.append(image.resize((side, side), Image.Resampling.BICUBIC))
    return tiles


@lru_cache(maxsize=1)
def _pixel_table() -> NDArray[np.float32]:
    """Tabulate the pixel value of each of 256 levels in each channel.

    Three roundings to float32, in the order of torchvision's ToTensor and Normalize, so that
    results are equal to the last bit.
    """
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    mean = np.array(IMAGENET_MEAN, dtype=np.float32)[:, None]
    std = np.array(IMAGENET_STD, dtype=np.float32)[:, None]
    table: NDArray[np.float32] = (levels[None, :] - mean) / std
    table.flags.writeable = False
    return table  # (3, 256)


def normalize_tiles(tiles: list[Image.Image]) -> Tensor:
    """Turn tiles into the tower's input.

    Args:
        tiles: N pictures of one size in mode RGB, at least one.

    Returns:
        Pixel values ``(N, 3, tile, tile)``, float32, ImageNet mean and standard deviation; equal to
        the last bit to torchvision's ToTensor and Normalize.

    Raises:
        ValueError: if there are no tiles, or they differ in size, or one is not in mode RGB.
    """
    return normalize_levels(stack_tiles(tiles))


def stack_tiles(tiles: list[Image.Image]) -> NDArray[np.uint8]:
    """Put tiles into one array, not normalised yet.

    Args:
        tiles: N pictures of one size in mode RGB, at least one.

    Returns:
        Levels ``(N, 3, tile, tile)``, a view of an array whose channels come last.

    Raises:
        ValueError: if there are no tiles, or they differ in size, or one is not in mode RGB.
    """
    if not tiles:
        raise ValueError("no tiles to stack; needed: at least one")
    kinds = {(tile.mode, tile.size) for tile in tiles}
    if len(kinds) > 1 or tiles[0].mode != "RGB":
        raise ValueError(f"tiles have modes and sizes {sorted(kinds)}; needed: RGB and one size")
    return np.stack([np.asarray(tile) for tile in tiles]).transpose(0, 3, 1, 2)


def make_pixel_values(
    image: Image.Image, settings: TileSettings, resizer: Resizer = "pillow"
) -> Tensor:
    """Cut a picture into tiles and normalize them.

    Args:
        image: in mode RGB.
        settings: how pictures are cut.
        resizer: ``pillow`` gives the results of :func:`cut_tiles` and :func:`normalize_tiles`.
            ``torch`` resizes by torch's bicubic filter on uint8: two to four times faster, and off
            by at most 2 of 255 levels in under 1 % of the values.

    Returns:
        Pixel values ``(N, 3, tile, tile)``, float32, thumbnail last.

    Raises:
        MediaError: if the picture has no pixels.
        ValueError: if the picture is not in mode RGB.
    """
    if resizer == "pillow":
        return normalize_tiles(cut_tiles(image, settings))
    import torch
    from torch.nn.functional import interpolate

    if image.mode != "RGB":
        raise ValueError(f"the picture is in mode {image.mode}; needed: RGB")
    side = settings.tile_size
    columns, rows = choose_grid(*image.size, settings)
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, height, width)
    canvas = interpolate(picture, (rows * side, columns * side), mode="bicubic", antialias=True)
    blocks = canvas.reshape(3, rows, side, columns, side).permute(1, 3, 0, 2, 4)
    tiles = blocks.reshape(rows * columns, 3, side, side)
    if settings.use_thumbnail and rows * columns > 1:
        thumbnail = interpolate(picture, (side, side), mode="bicubic", antialias=True)
        tiles = torch.cat([tiles, thumbnail])
    return normalize_levels(tiles.numpy())


def normalize_levels(levels: NDArray[np.uint8]) -> Tensor:
    """Look up the pixel values of levels.

    Args:
        levels: ``(N, 3, tile, tile)``, 0 to 255.

    Returns:
        Pixel values of the same shape, float32; see :func:`normalize_tiles`.
    """
    import torch

    table = _pixel_table()
    values = np.empty(levels.shape, dtype=np.float32)
    for index in range(len(levels)):
        for channel in range(3):
            row, out = table[channel], values[index, channel]
            np.take(row, levels[index, channel], out=out, mode="clip")  # others than clip buffer
    return torch.from_numpy(values)
