import random
import re
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from internvl35.data.synthetic.code.svg_code import (
    MAX_CHARACTERS,
    MAX_ELEMENTS,
    SVG_COLOURS,
    SVG_SHAPES,
    CleanSvg,
    SvgShape,
    clean_svg,
    colour_masks,
    extract_svg,
    render_svg,
    write_svg,
)
from internvl35.errors import DataError

HEAD = '<svg viewBox="0 0 100 100">'
CIRCLE = '<circle cx="50" cy="50" r="20" fill="red"/>'


def _shape(name: str, colour: str = "red") -> SvgShape:
    width = 60 if name in ("rectangle", "ellipse") else 40
    return SvgShape(name, colour, 10, 30, width, 40)


def _is_inside(name: str, x: float, y: float, width: float, height: float) -> bool:
    """Whether a point of a box, from its left upper corner, is in a shape that fills the box."""
    across, down = abs(2 * x / width - 1), abs(2 * y / height - 1)
    if name in ("circle", "ellipse"):
        return across**2 + down**2 <= 1
    if name == "diamond":
        return across + down <= 1
    if name == "triangle":
        return across <= y / height
    return True


@pytest.mark.parametrize("name", SVG_SHAPES)
def test_a_shape_renders_where_and_as_what_it_is_written(name: str) -> None:
    shape = _shape(name)
    red = colour_masks(render_svg(clean_svg(write_svg([shape])), 100))["red"]
    expected = np.zeros((100, 100), dtype=bool)
    for row in range(shape.height):
        for column in range(shape.width):
            expected[shape.top + row, shape.left + column] = _is_inside(
                name, column + 0.5, row + 0.5, shape.width, shape.height
            )
    assert (red != expected).sum() <= 0.05 * expected.sum()  # edges through the middle of pixels


@pytest.mark.parametrize("colour", SVG_COLOURS)
def test_a_colour_that_is_written_is_recognised_when_rendered(colour: str) -> None:
    masks = colour_masks(render_svg(clean_svg(write_svg([_shape("square", colour)])), 100))
    assert set(masks) == {colour, "white"}
    assert masks[colour].sum() == 1600


def test_a_background_fills_the_whole_canvas() -> None:
    masks = colour_masks(render_svg(clean_svg(write_svg([_shape("square")], "blue")), 100))
    assert masks["blue"].sum() == 10_000 - 1600


@pytest.mark.parametrize(
    "answer",
    [
        f"{HEAD}{CIRCLE}</svg>",
        f"Here it is:\n```svg\n{HEAD}{CIRCLE}</svg>\n```\nDone.",
        f"```svg\n<svg></svg>\n```\nor better\n```svg\n{HEAD}{CIRCLE}</svg>\n```",
        f"```xml\n<?xml version='1.0'?>\n{HEAD}{CIRCLE}</svg>\n```",
        f"Sure: {HEAD}{CIRCLE}</svg> is the code.",
        f"```svg\n{HEAD}{CIRCLE}</svg>",
    ],
)
def test_code_is_found_in_an_answer(answer: str) -> None:
    assert extract_svg(answer) == f"{HEAD}{CIRCLE}</svg>"


def _full(body: str, attributes: str = "") -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"{attributes}>{body}</svg>'


HOSTILE = {
    "entity": '<!DOCTYPE svg [<!ENTITY a "aaaa">]>' + _full("<title>&a;</title>"),
    "laughs": '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + _full("<desc>&b;</desc>"),
    "file entity": '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + _full("&a;"),
    "instruction": _full("<?xml-stylesheet href='http://localhost/a.css'?>"),
    "character data": _full("<![CDATA[x]]>"),
    "unknown entity": _full("<title>&nbsp;</title>"),
    "image": _full('<image href="/etc/hostname" width="9" height="9"/>'),
    "use": _full('<use href="#a"/>'),
    "link": _full(f'<a href="http://localhost/">{CIRCLE}</a>'),
    "script": _full("<script>alert(1)</script>"),
    "foreign object": _full("<foreignObject/>"),
    "style sheet": _full("<style>@import url(http://localhost/a.css);</style>"),
    "text": _full("<text>hello</text>"),
    "nested canvas": _full(_full(CIRCLE)),
    "paint from elsewhere": _full('<circle r="9" fill="url(http://localhost/a.svg#b)"/>'),
    "style from elsewhere": _full('<circle r="9" style="fill:URL(#b)"/>'),
    "address": _full('<circle r="9" href="#b"/>'),
    "old address": _full('<circle xmlns:x="http://www.w3.org/1999/xlink" r="9" x:href="a"/>'),
    "filter": _full('<filter id="a"><feTile/></filter>'),
    "too many elements": _full("<g/>" * MAX_ELEMENTS),
    "too long": _full(f'<path d="M0 0{"L1 1" * MAX_CHARACTERS}"/>'),
    "too large": _full('<circle r="1e9"/>'),
    "infinite": _full('<circle r="1e999"/>'),
    "canvas without end": '<svg viewBox="0 0 1e9 1e9"></svg>',
    "canvas of nothing": '<svg viewBox="0 0 0 100"></svg>',
    "canvas magnified": '<svg viewBox="0 0 0.001 0.001"></svg>',
    "canvas of words": '<svg viewBox="a b c d"></svg>',
    "scaled": _full('<circle r="9" transform="scale(4000) scale(4000)"/>'),
    "moved group": _full(f'<g transform="rotate(9)">{CIRCLE}</g>'),
    "quoted": _full('<circle r="9" fill="&quot;&gt;&lt;image/&gt;"/>'),
    "not closed": f"{HEAD}{CIRCLE}",
    "not XML": f"{HEAD}<circle r=5></svg>",
    "something else": '<html xmlns="http://www.w3.org/1999/xhtml"/>',
    "nothing": "",
    "zero byte": _full("\0"),
    "half a character": _full("<title>\ud83d</title>"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_code_is_refused(case: str) -> None:
    with pytest.raises(DataError):
        clean_svg(HOSTILE[case])


def test_no_file_reaches_the_picture_although_the_renderer_would_read_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (10, 10), (255, 0, 0)).save(secret)
    code = _full(f'<image href="{secret}" width="100" height="100"/>')
    # The danger is real: the same code, not cleaned, shows the file.
    assert colour_masks(render_svg(CleanSvg(code), 20))["red"].all()
    with pytest.raises(DataError, match="<image>"):
        clean_svg(code)


def test_only_known_attributes_are_kept() -> None:
    code = _full(
        '<!-- a note --><g onclick="x()" fill="blue"><title>dot</title>'
        '<circle id="a" class="b" cx="5" cy="6" r="7" onload="y()" stroke-dasharray="0.001"'
        ' shape-rendering="auto" style="fill: red; font-family: x"/></g>',
        ' width="1e8" height="1e8" onload="z()"',
    )
    clean = clean_svg(code).code
    assert clean == _full('<g fill="blue"><circle cx="5" cy="6" r="7" fill="red"/></g>')


@pytest.mark.parametrize(
    ("code", "num_pixels"),
    [
        ('<svg width="50" height="50"><rect width="25" height="50" fill="red"/></svg>', 5000),
        ('<svg width="50px" height="50px"><path d="M0 0H50V25H0z" fill="#f00"/></svg>', 5000),
        ('<svg viewBox="0 0 200 100"><rect width="200" height="100" fill="red"/></svg>', 5000),
        (_full('<rect width="50%" height="100%" fill="rgb(255, 0, 0)"/>'), 5000),
        (_full('<rect width="40" height="40" fill="red" transform="rotate(90 20 20)"/>'), 1600),
    ],
)
def test_other_ways_to_write_svg_render_too(code: str, num_pixels: int) -> None:
    assert colour_masks(render_svg(clean_svg(code), 100))["red"].sum() == num_pixels


@pytest.mark.parametrize(
    "body",
    [
        f'<path d="M0 0{"C4e3 0 0 4e3-4e3-4e3" * 300}" stroke="red" stroke-width="0.01"/>',
        f'<path d="M0 0{"a4e3 1 0 1 1 4e3 50" * 300}" stroke="red" stroke-width="4e3"/>',
        '<circle cx="50" cy="50" r="4e3" stroke="blue" opacity="0.5"/>' * (MAX_ELEMENTS - 1),
        '<g opacity="0.5">' * 60 + CIRCLE + "</g>" * 60,
    ],
)
def test_the_worst_that_is_let_through_renders_within_seconds(body: str) -> None:
    began = time.process_time()
    render_svg(clean_svg(f'<svg viewBox="0 0 8 8">{body}</svg>'), 200)
    assert time.process_time() - began < 20


def test_no_garbled_code_is_let_through_with_more_than_shapes() -> None:
    rng = random.Random(0)
    code = _full(f'<g fill="red">{CIRCLE}<image href="a"/></g>')
    num_clean = 0
    for _ in range(2000):
        letters = list(code)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(letters))
            letters[place] = rng.choice(["", '"', "<", ">", "/", " ", "9", "e", "-", "svg", "&"])
        try:
            clean = clean_svg("".join(letters)).code
        except DataError:
            continue
        num_clean += 1
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(clean).iter()}
        assert tags <= {"svg", "g", "circle"}
        assert not re.search("href|image", clean)
    assert num_clean < 2000


def test_a_missing_renderer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(DataError, match=r"resvg-py.*internvl35\[tiny\]"):
        render_svg(clean_svg(f"{HEAD}</svg>"), 10)
