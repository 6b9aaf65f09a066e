"""Every drawing comes to an end, and the end changes none that comes to one by itself."""

import ast
from pathlib import Path
from random import Random

import pytest

import internvl35.data.synthetic
from internvl35.data.synthetic import FAMILIES, draw, drawing
from internvl35.data.synthetic.drawing import Chance, Drawing
from internvl35.data.synthetic.shapes import several

SOURCE = Path(internvl35.data.synthetic.__file__).parent


def _look(found: Drawing) -> tuple[object, ...]:
    return found.turns, found.marks, [image.tobytes() for image in found.images]


def _endless_loops() -> list[tuple[str, ast.While]]:
    return [
        (f"{path.name}:{loop.lineno}", loop)
        for path in sorted(SOURCE.rglob("*.py"))
        for loop in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(loop, ast.While) and isinstance(loop.test, ast.Constant)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_bounded_numbers_draw_what_plain_ones_draw(family):
    for index in range(3):
        plain = Chance(Random(f"train/{family}/{index}"))
        assert _look(draw(family, "train", index)) == _look(FAMILIES[family].draw(plain))


def test_a_family_for_which_nothing_fits_ends_with_an_error_that_names_the_drawing(monkeypatch):
    monkeypatch.setattr(several, "place_sizes", lambda *_: None)
    monkeypatch.setattr(drawing, "MOST_NUMBERS", 5000)
    with pytest.raises(RuntimeError, match=r"'train/several/7' is not done after 5,000 numbers"):
        draw("several", "train", 7)


def test_every_loop_that_names_no_end_takes_numbers_of_its_drawing():
    loops = _endless_loops()
    assert len(loops) > 30
    for place, loop in loops:
        taken = {
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(loop)
            if isinstance(node, ast.Name | ast.Attribute)
        }
        assert taken & {"rng", "chance"}, place
