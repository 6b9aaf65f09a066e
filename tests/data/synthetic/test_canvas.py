"""Sizes of drawn pictures, places in them, and shades that stand out from the ground."""

from __future__ import annotations

from random import Random

import pytest

from internvl35.data.synthetic.canvas import (
    Canvas,
    choose_canvas,
    choose_single_canvas,
    place_boxes,
    place_sizes,
)
from internvl35.data.synthetic.colours import COLOURS, choose_background, colours_on, vary_colour
from internvl35.data.synthetic.drawing import Chance


def test_most_pictures_fill_one_tile_and_the_easiest_exactly():
    rng = Random(0)
    canvases = [choose_canvas(Chance(rng)) for _ in range(1000)]
    singles = [canvas for canvas in canvases if (canvas.columns, canvas.rows) == (1, 1)]
    assert 0.8 < len(singles) / 1000 < 0.9
    assert {(canvas.columns, canvas.rows) for canvas in canvases} == {
        (1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2)
    }  # fmt: skip
    for canvas in singles:
        assert 150 <= canvas.width <= 260
        assert 0.8 < canvas.height / canvas.width < 1.25
    assert choose_canvas(Chance(rng, 0.0)) == choose_single_canvas(Chance(rng, 0.0))
    assert choose_single_canvas(Chance(rng, 0.0)) == Canvas(192, 192)


def test_boxes_keep_their_size_and_neither_touch_nor_leave_the_picture():
    rng = Random(1)
    num_placed = 0
    for _ in range(200):
        canvas = Canvas(rng.randint(100, 260), rng.randint(100, 260))
        sizes = [(rng.randint(12, 60), rng.randint(12, 60)) for _ in range(rng.randint(1, 7))]
        boxes = place_sizes(rng, canvas, sizes)
        if boxes is None:
            continue
        num_placed += 1
        assert [(box[2] - box[0], box[3] - box[1]) for box in boxes] == sizes
        for place, (left, top, right, bottom) in enumerate(boxes):
            assert min(left, top, canvas.width - right, canvas.height - bottom) >= 2
            for other in boxes[:place]:
                gap_x = max(left - other[2], other[0] - right)
                gap_y = max(top - other[3], other[1] - bottom)
                assert max(gap_x, gap_y) >= 3
    assert num_placed > 100


def test_too_many_boxes_find_no_place():
    assert place_boxes(Random(0), Canvas(100, 100), 9, (40, 40)) is None
    assert place_boxes(Random(0), Canvas(100, 100), 1, (99, 99)) is None


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_no_shade_of_a_colour_comes_near_the_background(level):
    rng = Random(2)
    for _ in range(300):
        chance = Chance(rng, level)
        background = choose_background(chance)
        names = colours_on(background)
        assert len(names) == 10
        for name in names:
            shade = vary_colour(chance, name)
            distance = max(abs(one - two) for one, two in zip(shade, background, strict=True))
            assert distance > 50


def test_shades_of_two_colours_never_meet():
    rng = Random(3)
    chance = Chance(rng)
    for _ in range(200):
        for name in COLOURS:
            shade = vary_colour(chance, name)
            nearest = min(
                COLOURS,
                key=lambda other: sum(
                    abs(one - two) for one, two in zip(shade, COLOURS[other], strict=True)
                ),
            )
            assert nearest == name
