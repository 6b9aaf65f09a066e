"""A small dialect of SVG: writing it, and reading and rendering whatever a model writes, safely.

Pictures, questions and what counts as right are left to the families. An answer is hostile text:
it is cut to what draws plain shapes and written anew before any renderer sees it. No counterpart
in the paper, which only says that SVG is among the skills.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from internvl35.data.synthetic.colours import COLOURS
from internvl35.errors import DataError

SVG_SIDE = 100
"""Width and height of the canvas in its own units."""

SVG_COLOURS = tuple(colour for colour in COLOURS if colour != "white")
"""Colours that the dialect can write; white is the paper. Each is a colour name of SVG too."""

SVG_SHAPES = ("circle", "square", "triangle", "rectangle", "ellipse", "diamond")
"""Shapes that the dialect can write."""

MAX_CHARACTERS = 8000
"""Longer code is refused; code of a drawn picture has about 250 characters."""
MAX_ELEMENTS = 64
"""More elements are refused."""
MAX_NUMBER = 4096.0
"""Larger numbers are refused: renderers may take minutes over curves far beyond the canvas."""
MIN_SIDE = 8.0
"""Smaller canvases are refused, as they magnify without end."""

_SHAPE_TAGS = frozenset({"circle", "ellipse", "rect", "polygon", "polyline", "line", "path"})
_GROUP_TAGS = frozenset({"svg", "g"})
_SILENT_TAGS = frozenset({"title", "desc"})
_PAINT = frozenset({"fill", "stroke", "stroke-width", "opacity", "fill-opacity", "fill-rule"})
_GEOMETRY = frozenset(
    {"cx", "cy", "r", "rx", "ry", "x", "y", "width", "height", "x1", "y1", "x2", "y2", "points"}
    | {"d", "transform"}
)
_ADDRESSES = ("href", "src")
_PLAIN_VALUE = re.compile(r"[\w\s.,#%()+-]*", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_TURN = re.compile(r"(?:\s*(?:rotate|translate)\([\d\s,.+-]*\))*\s*", re.ASCII)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"```(?:svg|xml|html)[^\S\n]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class SvgShape:
    """A filled shape on the canvas."""

    shape: str
    """One of ``SVG_SHAPES``."""
    colour: str
    """One of ``SVG_COLOURS``."""
    left: int
    """Units of the canvas."""
    top: int
    """Units of the canvas."""
    width: int
    """Units; even, unless the shape is a square or a rectangle."""
    height: int
    """Units; likewise."""

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box around the shape."""
        return self.left + self.width / 2, self.top + self.height / 2

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """Corners in the order they are written; none for round shapes."""
        right, bottom = self.left + self.width, self.top + self.height
        x, y = self.centre
        if self.shape == "triangle":
            return (x, self.top), (right, bottom), (self.left, bottom)
        if self.shape == "diamond":
            return (x, self.top), (right, y), (x, bottom), (self.left, y)
        if self.shape in ("square", "rectangle"):
            return (self.left, self.top), (right, self.top), (right, bottom), (self.left, bottom)
        return ()


@dataclass(frozen=True)
class CleanSvg:
    """Code that is safe to render; only :func:`clean_svg` makes it."""

    code: str
    """SVG of plain shapes."""


def write_shape(shape: SvgShape) -> str:
    """Write one element; every shape has one spelling."""
    x, y = (round(part) for part in shape.centre)
    paint = f'fill="{shape.colour}"/>'
    if shape.shape == "circle":
        return f'<circle cx="{x}" cy="{y}" r="{shape.width // 2}" {paint}'
    if shape.shape == "ellipse":
        radii = f'rx="{shape.width // 2}" ry="{shape.height // 2}"'
        return f'<ellipse cx="{x}" cy="{y}" {radii} {paint}'
    if shape.shape in ("square", "rectangle"):
        sides = f'width="{shape.width}" height="{shape.height}"'
        return f'<rect x="{shape.left}" y="{shape.top}" {sides} {paint}'
    points = " ".join(f"{round(across)},{round(down)}" for across, down in shape.corners)
    return f'<polygon points="{points}" {paint}'


def write_svg(shapes: Sequence[SvgShape], background: str | None = None) -> str:
    """Write a picture.

    Args:
        shapes: in the order they are written.
        background: colour that fills the canvas first; None leaves it white.

    Returns:
        One line of code.
    """
    parts = [write_shape(shape) for shape in shapes]
    if background is not None:
        parts.insert(0, f'<rect width="{SVG_SIDE}" height="{SVG_SIDE}" fill="{background}"/>')
    return f'<svg viewBox="0 0 {SVG_SIDE} {SVG_SIDE}">{"".join(parts)}</svg>'


def extract_svg(answer: str) -> str:
    """Find the code in an answer, as benchmarks of SVG do.

    Args:
        answer: any text.

    Returns:
        What stands in the last fence, else everything from the first ``<svg`` to the last
        ``</svg>``; of a fence, too, only that. The text itself where there is no such part.
    """
    answer = answer[: 4 * MAX_CHARACTERS]
    fences = [str(code) for code in _FENCE.findall(answer) if "<svg" in code]
    text = fences[-1] if fences else answer
    start, end = text.find("<svg"), text.rfind("</svg>")
    return text[start : end + len("</svg>")] if 0 <= start < end else text.strip()


def clean_svg(code: str) -> CleanSvg:
    """Write a picture anew with nothing in it but plain shapes.

    Args:
        code: what a model wrote, from ``<svg`` on.

    Returns:
        Code of the same picture: known shapes, groups, geometry and paint; other attributes are
        left out.

    Raises:
        DataError: if it is no XML, is too long, or holds anything that is not a shape: scripts,
            style sheets, text, images, addresses, entities, numbers beyond all measure.
    """
    if len(code) > MAX_CHARACTERS:
        raise DataError(f"{len(code)} characters of SVG; at most {MAX_CHARACTERS} are read")
    code = _COMMENT.sub("", code)
    # Entities and their declarations have no place in a picture; this also refuses CDATA.
    if "<!" in code or "<?" in code or "\0" in code:
        raise DataError("the SVG holds a declaration; only elements are read")
    try:
        root = ElementTree.fromstring(code)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"the SVG is not well-formed: {error}") from error
    if _local(root.tag) != "svg":
        raise DataError(f"the SVG begins with <{_local(root.tag)[:20]}>; needed: <svg>")
    if sum(1 for _ in root.iter()) > MAX_ELEMENTS:
        raise DataError(f"the SVG has more than {MAX_ELEMENTS} elements")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{_view_box(root)}"'
    return CleanSvg(f"{head}{_attributes(root)}>{''.join(_children(root))}</svg>")


def _local(name: object) -> str:
    return str(name).rpartition("}")[2]


def _children(parent: ElementTree.Element) -> Iterator[str]:
    for child in parent:
        tag = _local(child.tag)
        if tag in _SILENT_TAGS and len(child) == 0:
            continue
        if tag in _SHAPE_TAGS:
            yield f"<{tag}{_attributes(child)}/>"
        elif tag == "g":
            if "transform" in child.attrib:
                raise DataError("a group of the SVG has a transform; only shapes may")
            yield f"<g{_attributes(child)}>{''.join(_children(child))}</g>"
        else:
            raise DataError(f"the SVG has an element <{tag[:20]}>; only plain shapes are read")


def _attributes(element: ElementTree.Element) -> str:
    values = dict(element.attrib)
    for declaration in values.pop("style", "").split(";"):
        name, _, value = declaration.partition(":")
        if name.strip() in _PAINT:
            values[name.strip()] = value
    tag = _local(element.tag)
    known = _PAINT if tag in _GROUP_TAGS else _PAINT | _GEOMETRY
    written = []
    for key, value in values.items():
        name = _local(key)
        if name.lower() in _ADDRESSES or "url" in value.lower():
            raise DataError(f"the SVG refers to something else by {name[:20]}")
        if key in known:
            _check_value(key, value)
            written.append(f" {key}={quoteattr(value.strip())}")
    return "".join(written)


def _check_value(name: str, value: str) -> None:
    if not _PLAIN_VALUE.fullmatch(value):
        raise DataError(f"the SVG has a strange value of {name}")
    if name == "transform" and not _TURN.fullmatch(value):  # scales could multiply up
        raise DataError("the SVG has a transform other than a rotation or a shift")
    if name in _GEOMETRY or name == "stroke-width":
        _check_numbers(_NUMBER.findall(value))


def _check_numbers(numbers: Sequence[str]) -> list[float]:
    values = [float(number) for number in numbers]
    if not all(math.isfinite(value) and abs(value) <= MAX_NUMBER for value in values):
        raise DataError(f"the SVG has a number beyond {MAX_NUMBER:.0f}")
    return values


def _view_box(root: ElementTree.Element) -> str:
    text = root.get("viewBox")
    if text is None:
        width, height = (root.get(side, str(SVG_SIDE)) for side in ("width", "height"))
        text = f"0 0 {width.removesuffix('px')} {height.removesuffix('px')}"
    parts = text.replace(",", " ").split()
    if len(parts) != 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        raise DataError("the SVG has no viewBox of four numbers")
    values = _check_numbers(parts)
    if min(values[2:]) < MIN_SIDE:
        raise DataError(f"the viewBox of the SVG is smaller than {MIN_SIDE:.0f} units")
    return " ".join(f"{value:g}" for value in values)


def render_svg(clean: CleanSvg, side: int) -> Image.Image:
    """Render code without smoothed edges on white.

    Args:
        clean: never what a model wrote: the renderer reads the files that an image refers to.
        side: width and height of the picture in pixels.

    Returns:
        RGB picture.

    Raises:
        DataError: if no renderer is installed.
        ValueError: if the renderer refuses the code.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise DataError(
            "SVG is rendered with the package resvg-py, which is not installed; "
            "pip install 'internvl35[tiny]'"
        ) from error
    png = svg_to_bytes(
        svg_string=clean.code,
        width=side,
        height=side,
        background="white",
        skip_system_fonts=True,
        shape_rendering="crisp_edges",
    )
    # A canvas that is not square comes back smaller on one side.
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.size == (side, side):
        return image
    full = Image.new("RGB", (side, side), (255, 255, 255))
    full.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return full


_SHADES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("red", (255, 0, 0)),
    ("orange", (255, 165, 0)),
    ("yellow", (255, 255, 0)),
    ("green", (0, 128, 0)),
    ("green", (0, 255, 0)),
    ("blue", (0, 0, 255)),
    ("purple", (128, 0, 128)),
    ("pink", (255, 192, 203)),
    ("brown", (165, 42, 42)),
    ("black", (0, 0, 0)),
    ("white", (255, 255, 255)),
    ("grey", (128, 128, 128)),
    *COLOURS.items(),
)
_ANCHORS = np.array([shade for _, shade in _SHADES], dtype=np.int32)


def colour_masks(image: Image.Image) -> dict[str, NDArray[np.bool_]]:
    """Say where a picture has which colour.

    Args:
        image: RGB.

    Returns:
        Name of a colour to the pixels that are nearest to it; only colours that occur.
    """
    pixels = np.asarray(image).astype(np.int32)
    packed = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    masks: dict[str, NDArray[np.bool_]] = {}
    for shade in _shades(packed):
        parts = np.array((shade >> 16, shade >> 8 & 255, shade & 255))
        name, _ = _SHADES[int(((_ANCHORS - parts) ** 2).sum(axis=1).argmin())]
        mask = packed == shade
        masks[name] = masks[name] | mask if name in masks else mask
    return masks


def _shades(packed: NDArray[np.int32]) -> list[int]:
    """The most frequent shades; half-transparent paint over many shapes makes no end of others."""
    values, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_ELEMENTS]
    return [int(value) for value in values[order]]
