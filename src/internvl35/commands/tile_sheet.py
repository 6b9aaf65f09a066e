"""Draws the tiles of a conversation's pictures and which of them were compressed.

Which ones are is decided by :mod:`internvl35.generate.routing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from internvl35.data.tiles import IMAGENET_MEAN, IMAGENET_STD, Grid
from internvl35.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from internvl35.conversation import Reply

PANEL = 560
"""Longest side of a picture's tiles, pixels, unless the tiles would be too small to write on."""

SMALLEST_TILE, LARGEST_TILE = 88, 280
SHEET_WIDTH = 1600
MARGIN, FRAME, TEXT = 14, 4, 13
KEPT, COMPRESSED = (0, 140, 90), (225, 105, 0)
"""Colours of tiles with all their visual tokens and of those with a quarter."""

_TINT = 0.35


@dataclass(frozen=True)
class _Tile:
    picture: Image.Image
    is_compressed: bool
    score: float | None
    num_tokens: int


def draw_tiles(
    reply: Reply, tokens_per_tile: int, compressed_tokens: int, panel: int = PANEL
) -> Image.Image:
    """Draw every picture and frame of a conversation, tile by tile, side by side.

    Args:
        reply: the answer whose prompt held them.
        tokens_per_tile: visual tokens of a tile.
        compressed_tokens: visual tokens of a compressed one.
        panel: longest side of a picture's tiles, pixels, unless the tiles would be too small.

    Returns:
        The sheet: tiles at their places, thumbnail to the right; compressed ones tinted, each with
        its visual tokens and the router's score.
    """
    pictures, routing = reply.conversation.pictures, reply.routing
    chosen = iter(routing.is_compressed if routing else [False] * reply.num_tiles)
    scores = iter((routing and routing.scores) or [None] * reply.num_tiles)
    grids = reply.conversation.grids
    if len(grids) != len(pictures):  # a conversation of one's own making need not name them
        grids = tuple(Grid(len(tiles), 1) for tiles in pictures)
    panels = []
    for number, (pixel_values, grid) in enumerate(zip(pictures, grids, strict=True), start=1):
        tiles = []
        for values in pixel_values:
            is_compressed = next(chosen)
            num_tokens = compressed_tokens if is_compressed else tokens_per_tile
            tiles.append(_Tile(_to_image(values), is_compressed, next(scores), num_tokens))
        panels.append(_draw_panel(number, tiles, grid, panel))
    return _lay_out(panels)


def save_tiles(reply: Reply, path: str, tokens_per_tile: int, compressed_tokens: int) -> None:
    """Write what :func:`draw_tiles` draws into a file.

    Args:
        reply: as there.
        path: of the file, its ending says the format.
        tokens_per_tile: as there.
        compressed_tokens: as there.

    Raises:
        ConfigError: if the file cannot be written.
    """
    sheet = draw_tiles(reply, tokens_per_tile, compressed_tokens)
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--show-tiles {path} cannot be written: {error}") from error


def check_path(path: str) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Args:
        path: of the picture.

    Raises:
        ConfigError: if its ending is no format that can be written, or its folder is missing.
    """
    Image.init()
    known = {ending for ending, name in Image.registered_extensions().items() if name in Image.SAVE}
    if Path(path).suffix.lower() not in known:
        raise ConfigError(f"--show-tiles is {path!r}; needed: a file such as tiles.png")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"--show-tiles is {path!r}, whose folder does not exist; make it first")


def _to_image(values: Tensor) -> Image.Image:
    """Turn pixel values ``(3, tile, tile)`` back into a picture."""
    levels = values.float().cpu().numpy().transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    return Image.fromarray(np.clip(np.rint(levels * 255), 0, 255).astype(np.uint8))


def _draw_panel(number: int, tiles: Sequence[_Tile], grid: Grid, longest: int) -> Image.Image:
    side = min(LARGEST_TILE, max(SMALLEST_TILE, longest // max(grid)))
    has_thumbnail = len(tiles) > grid.columns * grid.rows
    line = TEXT + 2 * FRAME
    width = grid.columns * side + has_thumbnail * (side + MARGIN)
    caption = _caption(number, tiles)
    panel = Image.new("RGB", (width, line + grid.rows * side), "white")
    draw = ImageDraw.Draw(panel)
    size = TEXT
    while size > TEXT // 2 and draw.textlength(caption, _font(size)) > width:
        size -= 1
    draw.text((0, FRAME // 2), caption, "black", _font(size))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, grid.columns)
        is_thumbnail = place == grid.columns * grid.rows
        left = grid.columns * side + MARGIN if is_thumbnail else column * side
        panel.paste(_draw_tile(tile, side), (left, line + (0 if is_thumbnail else row * side)))
    return panel


def _caption(number: int, tiles: Sequence[_Tile]) -> str:
    num_compressed = sum(tile.is_compressed for tile in tiles)
    num_tokens = sum(tile.num_tokens for tile in tiles)
    return f"{number}: {num_compressed} of {len(tiles)} compressed, {num_tokens} tokens"


def _draw_tile(tile: _Tile, side: int) -> Image.Image:
    colour = COMPRESSED if tile.is_compressed else KEPT
    picture = tile.picture.resize((side, side), Image.Resampling.LANCZOS)
    if tile.is_compressed:
        picture = Image.blend(picture, Image.new("RGB", picture.size, colour), _TINT)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, side - 1, side - 1), outline=colour, width=FRAME)
    text = f"{tile.num_tokens}" if tile.score is None else f"{tile.score:.2f}: {tile.num_tokens}"
    left, top, right, bottom = draw.textbbox((FRAME + 3, FRAME + 2), text, _font())
    draw.rectangle((FRAME, FRAME, right + 3, bottom + 3), fill=colour)
    draw.text((left, top), text, "white", _font(), anchor="lt")
    return picture


def _font(size: int = TEXT) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _lay_out(panels: Sequence[Image.Image]) -> Image.Image:
    """Put panels side by side, in as many rows as they need."""
    rows = list(_break_rows(panels))
    width = max(sum(panel.width + MARGIN for panel in row) for row in rows) + MARGIN
    height = sum(max(panel.height for panel in row) + MARGIN for row in rows) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    top = MARGIN
    for row in rows:
        left = MARGIN
        for panel in row:
            sheet.paste(panel, (left, top))
            left += panel.width + MARGIN
        top += max(panel.height for panel in row) + MARGIN
    return sheet


def _break_rows(panels: Sequence[Image.Image]) -> Iterator[list[Image.Image]]:
    row: list[Image.Image] = []
    for panel in panels:
        if row and sum(one.width + MARGIN for one in (*row, panel)) > SHEET_WIDTH:
            yield row
            row = []
        row.append(panel)
    if row:
        yield row
