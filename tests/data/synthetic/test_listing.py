"""Everything in a picture as one answer."""

from __future__ import annotations

import random

import pytest
from PIL import Image

from internvl35.data.synthetic import FAMILIES, start_chance
from internvl35.data.synthetic.drawing import Chance, Drawing
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.listing import MAX_THINGS, list_things


def _drawing(*marks: Mark, num_images: int = 1) -> Drawing:
    images = (Image.new("RGB", (200, 100)),) * num_images
    return Drawing("any", images, (), (marks,) * num_images)


def _list(drawing: Drawing) -> str | None:
    turn = list_things(drawing, Chance(random.Random(0)))
    return None if turn is None else turn.answer


def test_things_are_named_from_top_to_bottom_with_tenths_of_the_picture() -> None:
    low, high = (160.0, 80.0, 180.0, 100.0), (0.0, 0.0, 20.0, 10.0)
    drawing = _drawing(
        Mark("shape:star", low),
        Mark("colour:blue", low),
        Mark("part:icon", high),
        Mark("icon:gear", high),
        Mark("furniture:bed", (90.0, 40.0, 110.0, 60.0)),
        Mark("part:wall", (0.0, 0.0, 200.0, 4.0)),
        Mark("glyph:A", (50.0, 50.0, 60.0, 60.0)),
    )
    assert _list(drawing) == "gear icon 0 0, bed 5 5, blue star 8 9"


@pytest.mark.parametrize("num", [0, MAX_THINGS + 1])
def test_nothing_and_too_much_are_not_asked_about(num: int) -> None:
    marks = [Mark("shape:star", (float(i), 0.0, float(i + 1), 1.0)) for i in range(num)]
    assert _list(_drawing(*marks)) is None


def test_several_pictures_and_texts_are_not_asked_about() -> None:
    star = Mark("shape:star", (0.0, 0.0, 9.0, 9.0))
    assert _list(_drawing(star, num_images=2)) is None
    assert _list(Drawing("any", (), ())) is None


def test_every_counted_shape_is_in_the_list() -> None:
    for index in range(60):
        chance = start_chance("counting", "train", index)
        drawing = FAMILIES["counting"].draw(chance)
        listing = list_things(drawing, chance)
        assert listing is not None
        names = [entry.rsplit(" ", 2)[0] for entry in listing.answer.split(", ")]
        marks = [mark.label for mark in drawing.marks[0]]
        for name in set(names):
            colour, shape = name.split(" ")
            assert f"colour:{colour}" in marks
            assert f"shape:{shape}" in marks
        assert len(names) == sum(label.startswith("shape:") for label in marks)
