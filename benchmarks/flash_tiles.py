"""Draws which tiles of full and of empty pictures a Flash checkpoint compresses, for the docs.

Writes ``docs/howto/flash_tiles.png``: tiles of printed pages and receipts above, pictures with
little on them below; compressed tiles are orange, with the router's score and their visual tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console

from internvl35.chat import Chat, load
from internvl35.commands.terminal import silence_libraries
from internvl35.commands.tile_sheet import draw_tiles
from internvl35.conversation import Reply
from internvl35.data.images import ImageSource
from internvl35.data.synthetic import draw
from internvl35.data.synthetic.enlarging import enlarge
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings

OUTPUT = Path(__file__).parents[1] / "docs" / "howto" / "flash_tiles.png"

FULL = ("lines", "receipts", "screens")
"""Families whose pictures are full of print."""

SPARSE = ("counting", "reading", "shapes")
"""Families whose drawings stand in a corner of an empty ground here."""

FACTOR = 2.0
"""Times that full pictures are enlarged."""

EMPTY = 3.0
"""Sides of an empty ground, as a multiple of those of the drawing in its corner."""

PANEL = 260
"""Longest side of a picture's tiles, pixels."""


def main(argv: Sequence[str] | None = None) -> None:
    """Ask about the pictures and draw their tiles.

    Args:
        argv: arguments of the command line; those of this process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Flash checkpoint")
    parser.add_argument("--threshold", type=float, help="by default the checkpoint's")
    parser.add_argument("--first", type=int, default=0, help="first drawing of each family")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="PNG file")
    given = parser.parse_args(argv)
    silence_libraries()
    chat = load(given.model)
    flash = FlashSettings("absolute", absolute_threshold=given.threshold)
    rows = [full_pictures(given.first), sparse_pictures(given.first)]
    sheet = draw_sheet(chat, rows, flash)
    sheet.quantize(192).save(given.output, optimize=True)
    Console().print(given.output)


def full_pictures(first: int) -> list[Image.Image]:
    """Draw pictures that are full of print.

    Args:
        first: place in the stream of each family.
    """
    return [enlarge(draw(family, "test", first), FACTOR).images[0] for family in FULL]


def sparse_pictures(first: int) -> list[Image.Image]:
    """Draw small pictures in the corner of an empty ground.

    Args:
        first: place in the stream of each family.
    """
    return [put_in_corner(draw(family, "test", first).images[0]) for family in SPARSE]


def put_in_corner(image: Image.Image, factor: float = EMPTY) -> Image.Image:
    """Lay a picture into the upper left corner of a ground of its own colour.

    Args:
        image: the picture; its first pixel says the colour.
        factor: sides of the ground, as a multiple of the picture's.
    """
    rgb = image.convert("RGB")
    ground = rgb.getpixel((0, 0))
    assert isinstance(ground, tuple)
    size = (round(image.width * factor), round(image.height * factor))
    whole = Image.new("RGB", size, ground)
    whole.paste(rgb, (0, 0))
    return whole


def draw_sheet(
    chat: Chat, rows: Sequence[Sequence[ImageSource]], flash: FlashSettings
) -> Image.Image:
    """Draw the tiles of several rows of pictures.

    Args:
        chat: the Flash checkpoint.
        rows: pictures of each row.
        flash: which tiles are compressed; pictures are routed one by one.

    Returns:
        RGB picture.
    """
    config = chat.model.config
    sheets = [
        draw_tiles(
            join_replies([look(chat, image, flash) for image in row]),
            config.tokens_per_tile,
            config.compressed_tokens_per_tile,
            PANEL,
        )
        for row in rows
    ]
    size = (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets))
    whole = Image.new("RGB", size, "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def look(chat: Chat, image: ImageSource, flash: FlashSettings) -> Reply:
    """Let a model look at a picture and say one word."""
    sampling = SamplingSettings(max_tokens=1)
    return chat.ask("What is this?", images=[image], sampling=sampling, flash=flash)


def join_replies(replies: Sequence[Reply]) -> Reply:
    """Make one reply of several, as far as their pictures go.

    Args:
        replies: at least one, each with its routing.

    Returns:
        A reply with the pictures, choices and scores of all.
    """
    first = replies[0]
    routings = [reply.routing for reply in replies if reply.routing is not None]
    assert len(routings) == len(replies)
    scores = [score for routing in routings for score in routing.scores or ()]
    choices = tuple(choice for routing in routings for choice in routing.is_compressed)
    return replace(
        first,
        num_tiles=sum(reply.num_tiles for reply in replies),
        conversation=replace(
            first.conversation,
            pictures=tuple(one for reply in replies for one in reply.conversation.pictures),
            grids=tuple(one for reply in replies for one in reply.conversation.grids),
        ),
        routing=replace(routings[0], is_compressed=choices, scores=tuple(scores) or None),
    )


if __name__ == "__main__":
    main()
