"""Print in many fonts: where the files come from, which are kept for the test, where ink falls.

Pictures and questions are left to the families. The fonts come inside Python packages, so that
every machine draws the same: those of matplotlib, and those of the extra ``tiny``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from internvl35.data.synthetic.colours import Colour
from internvl35.data.synthetic.drawing import Chance, Pool
from internvl35.data.synthetic.labels import GLYPHS, Mark
from internvl35.errors import DataError

_MATPLOTLIB = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic", "STIXGeneral",
    "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10",
    "cmtt10", "cmti10",
)  # fmt: skip
_SOURCE_SANS = ("Regular", "Bold", "It", "Semibold", "Light", "BoldIt")
_SOURCE_SERIF = ("Regular", "Bold", "It", "Semibold", "Light", "BoldIt")
_CALADEA = ("Regular", "Bold", "Italic", "BoldItalic")
_HANKEN = ("Regular", "Bold", "Medium", "Italic")
_MANROPE = ("Regular", "Bold", "Light", "SemiBold")

FONTS: Pool[str] = Pool(
    "font",
    (
        *_MATPLOTLIB,
        *(f"font_source_sans_pro/SourceSansPro-{style}" for style in _SOURCE_SANS),
        *(f"font_source_serif_pro/SourceSerifPro-{style}" for style in _SOURCE_SERIF),
        *(f"font_manrope/Manrope-{style}" for style in _MANROPE),
    ),
    (
        *(f"font_caladea/Caladea-{s}" for s in ("Regular", "Bold", "Italic", "BoldItalic")),
        *(
            f"font_hanken_grotesk/HankenGrotesk-{s}"
            for s in ("Regular", "Bold", "Medium", "Italic")
        ),
    ),
)
"""Font files; whole typefaces are kept for the test, not styles of those that are seen."""

PLAIN_FONT = "DejaVuSans"
"""What the easiest pictures print with."""


@dataclass(frozen=True)
class Glyph:
    """One printed character."""

    mask: Image.Image
    """Its ink, 0 to 255, without a margin."""
    left: int
    """Pixels from the pen to the ink."""
    top: int
    """Pixels from the base line to the ink, negative above it."""
    advance: int
    """Pixels that the pen moves on."""


def font_file(name: str) -> Path:
    """Find a font.

    Args:
        name: one of ``FONTS``.

    Returns:
        Path of a TrueType or OpenType file.

    Raises:
        DataError: if the package that brings it is not installed.
    """
    package, _, style = name.rpartition("/")
    if not package:
        return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{style}.ttf"
    found = find_spec(package)  # not imported: such packages look themselves up in old ways
    if found is None or not found.submodule_search_locations:
        raise DataError(
            f"the font {style} comes with the package {package.replace('_', '-')}, which is not "
            "installed; pip install 'internvl35[tiny]'"
        )
    folder = Path(found.submodule_search_locations[0]) / "files"
    return next(
        path for path in (folder / f"{style}.ttf", folder / f"{style}.otf") if path.exists()
    )


@lru_cache(maxsize=4096)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font.

    Args:
        name: one of ``FONTS``.
        size: pixels of its em.
    """
    return ImageFont.truetype(str(font_file(name)), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=65536)
def load_glyph(name: str, size: int, glyph: str) -> Glyph:
    """Render a character once.

    Args:
        name: font.
        size: pixels of its em.
        glyph: a single character; a blank has no ink.
    """
    font = load_font(name, size)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(glyph, anchor="ls"))
    # Pillow counts the advance into the box and may leave ink out of it, so draw with room to spare
    # and keep what has ink.
    left, top = left - size, top - size
    mask = Image.new("L", (right + size - left, bottom + size - top))
    ImageDraw.Draw(mask).text((-left, -top), glyph, fill=255, font=font, anchor="ls")
    inked = mask.getbbox()
    advance = round(font.getlength(glyph))
    if inked is None:
        return Glyph(Image.new("L", (0, 0)), 0, 0, advance)
    return Glyph(mask.crop(inked), left + inked[0], top + inked[1], advance)


@lru_cache(maxsize=64)
def cap_share(name: str) -> float:
    """Height of a capital as a share of the font size."""
    return -load_font(name, 200).getbbox("H", anchor="ls")[1] / 200


def size_for_caps(name: str, height: float) -> int:
    """Font size whose capitals are about so many pixels high."""
    return max(4, round(height / cap_share(name)))


def text_width(text: str, name: str, size: int) -> int:
    """Pixels that the pen moves over a line."""
    return sum(load_glyph(name, size, glyph).advance for glyph in text)


def print_line(
    image: Image.Image, text: str, name: str, size: int, start: tuple[int, int], ink: Colour
) -> list[Mark]:
    """Print a line of text.

    Args:
        image: RGB picture that is drawn into.
        text: one line.
        name: font.
        size: pixels of its em.
        start: left end of the base line, pixels.
        ink: colour.

    Returns:
        One ``glyph:`` mark a character that has ink and a label.
    """
    left, base = start
    marks: list[Mark] = []
    for letter in text:
        glyph = load_glyph(name, size, letter)
        if glyph.mask.width:
            x, y = left + glyph.left, base + glyph.top
            image.paste(ink, (x, y), glyph.mask)
            if letter in GLYPHS:
                box = (x, y, x + glyph.mask.width, y + glyph.mask.height)
                marks.append(Mark(f"glyph:{letter}", box))
        left += glyph.advance
    return marks


def print_block(
    image: Image.Image,
    lines: Sequence[str],
    name: str,
    size: int,
    start: tuple[int, int],
    ink: Colour,
    *,
    leading: float = 1.3,
) -> list[Mark]:
    """Print lines below each other, all from the same left edge.

    Args:
        image: RGB picture that is drawn into.
        lines: from top to bottom.
        name: font.
        size: pixels of its em.
        start: left and top of the block, pixels.
        ink: colour.
        leading: from line to line, as a multiple of ``size``.

    Returns:
        Marks of all lines.
    """
    left, top = start
    marks: list[Mark] = []
    for number, line in enumerate(lines):
        base = top + round(size * (cap_share(name) + leading * number))
        marks += print_line(image, line, name, size, (left, base), ink)
    return marks


def choose_font(chance: Chance, text: str) -> str:
    """Choose a font that has every character of a text.

    Args:
        chance: an easy drawing prints in one plain font.
        text: what is to be printed.

    Returns:
        Name of a font.
    """
    if not chance.is_hard():
        return PLAIN_FONT
    while True:
        name = chance.pick(FONTS)
        if can_print(name, text):
            return name


def can_print(name: str, text: str) -> bool:
    """Whether a font has every character of a text, each where it is looked for."""
    return not name.startswith("cm") or _OLD_SAFE.issuperset(text)


_OLD_SAFE = frozenset(
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz .,:;!?'()[]+-*/=%&#@"
)
"""Characters that the old encoding of Computer Modern has where others have them."""
