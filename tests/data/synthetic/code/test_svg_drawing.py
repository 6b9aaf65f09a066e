from collections import Counter
from functools import cache
from itertools import product

import numpy as np
import pytest
from PIL import Image

from internvl35.data.synthetic import FAMILIES, Drawing, Turn, draw
from internvl35.data.synthetic.code.svg_code import (
    SVG_SHAPES,
    SvgShape,
    clean_svg,
    colour_masks,
    render_svg,
    write_svg,
)

SVG = FAMILIES["svg"]


@cache
def _drawings(num: int, level: float = 1.0) -> tuple[Drawing, ...]:
    return tuple(draw("svg", "validation", index, level) for index in range(num))


def _code(drawing: Drawing) -> str:
    return next(turn.answer for turn in drawing.turns if turn.kind.startswith("draw"))


def _pair(name: str, left: int = 20, top: int = 30) -> SvgShape:
    width, height = (40, 20) if name in ("rectangle", "ellipse") else (40, 40)
    return SvgShape(name, "red", left, top, width, height)


def test_the_code_renders_to_the_picture() -> None:
    for drawing in _drawings(40):
        small = drawing.images[0].resize((200, 200), Image.Resampling.BOX)
        shown = colour_masks(small)
        for colour, mask in colour_masks(render_svg(clean_svg(_code(drawing)), 200)).items():
            seen = shown.get(colour, np.zeros_like(mask))
            assert (mask & seen).sum() > 0.9 * mask.sum(), (colour, _code(drawing))


def test_a_mark_holds_the_colour_it_names() -> None:
    for drawing in _drawings(40):
        masks = colour_masks(drawing.images[0])
        for mark in drawing.marks[0]:
            group, _, name = mark.label.partition(":")
            left, top, right, bottom = (round(edge) for edge in mark.box)
            if group == "colour":
                assert masks[name][top:bottom, left:right].mean() > 0.4
                around = masks[name].copy()
                around[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
                assert around.mean() < 0.01


def test_elements_are_parts_of_the_whole_code() -> None:
    for drawing in _drawings(40):
        elements = [turn.answer for turn in drawing.turns if turn.kind == "element"]
        assert elements
        assert all(element in _code(drawing) for element in elements)


@pytest.mark.parametrize(("wanted", "given"), list(product(SVG_SHAPES, SVG_SHAPES)))
def test_no_shape_passes_for_another(wanted: str, given: str) -> None:
    turn = Turn("Draw.", write_svg([_pair(wanted)]), "draw 1")
    score = SVG.score(turn, write_svg([_pair(given)]))
    assert score["right"] == (wanted == given)
    assert score["valid"] == 1
    assert score["iou"] == 1 if wanted == given else score["iou"] < 0.95


@pytest.mark.parametrize("name", SVG_SHAPES)
def test_a_shape_may_be_off_by_one_step_but_not_by_its_own_width(name: str) -> None:
    turn = Turn("Draw.", write_svg([_pair(name)]), "draw 1")
    near, far = write_svg([_pair(name, left=25)]), write_svg([_pair(name, left=60)])
    assert SVG.score(turn, near)["right"] == 1
    assert SVG.score(turn, far) == {"right": 0, "valid": 1, "iou": 0}


def test_every_colour_must_be_there_and_no_other() -> None:
    red, blue = _pair("square"), SvgShape("circle", "blue", 65, 60, 30, 30)
    turn = Turn("Draw.", write_svg([red, blue]), "draw 2")
    assert SVG.score(turn, write_svg([blue, red]))["right"] == 1
    assert SVG.score(turn, write_svg([red]))["right"] == 0
    third = SvgShape("circle", "green", 65, 10, 20, 20)
    assert SVG.score(turn, write_svg([red, blue, third]))["right"] == 0
    assert SVG.score(turn, write_svg([red, blue], "yellow"))["right"] == 0


def test_a_ground_must_fill_the_picture() -> None:
    turn = Turn("Draw.", write_svg([_pair("square")], "blue"), "draw 1")
    part = SvgShape("square", "blue", 0, 0, 90, 90)
    assert SVG.score(turn, write_svg([_pair("square")], "blue"))["right"] == 1
    assert SVG.score(turn, write_svg([part, _pair("square")]))["right"] == 0


def test_an_answer_may_be_written_in_another_way() -> None:
    turn = Turn("Draw.", '<rect x="20" y="30" width="40" height="40" fill="red"/>', "element")
    fenced = (
        'The code is:\n```svg\n<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200">'
        '\n  <path d="M40 60h80v80h-80z" style="fill:#d62626"/>\n</svg>\n```'
    )
    assert SVG.score(turn, fenced) == {"right": 1, "valid": 1, "iou": 1}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "a red square",
        "<svg",
        '<svg viewBox="0 0 100 100"><rect',
        "<image href='/etc/hostname'/>",
    ],
)
def test_what_is_not_svg_is_not_valid(answer: str) -> None:
    turn = Turn("Draw.", write_svg([_pair("square")]), "draw 1")
    assert SVG.score(turn, answer) == {"right": 0, "valid": 0, "iou": 0}


def test_the_same_numbers_of_shapes_are_drawn_as_are_named() -> None:
    kinds: Counter[str] = Counter()
    for drawing in _drawings(250):
        kind = next(turn.kind for turn in drawing.turns if turn.kind.startswith("draw"))
        ground = 'width="100" height="100"' in _code(drawing)
        assert _code(drawing).count("fill=") - ground == int(kind[-1])
        kinds[kind] += 1
    assert min(kinds.values()) > 35


def test_every_shape_is_large_enough_and_alone() -> None:
    for drawing in _drawings(100):
        boxes = {mark.box for mark in drawing.marks[0]}
        side = drawing.images[0].width
        assert all(min(b[2] - b[0], b[3] - b[1]) >= 0.19 * side for b in boxes)
        for one, other in product(boxes, boxes):
            if one != other:
                assert (
                    one[2] <= other[0]
                    or other[2] <= one[0]
                    or one[3] <= other[1]
                    or other[3] <= one[1]
                )


def test_easy_pictures_have_one_shape_on_white() -> None:
    for drawing in _drawings(30, level=0.0):
        assert _code(drawing).count("fill=") == 1
        assert drawing.images[0].getpixel((0, 0)) == (255, 255, 255)
