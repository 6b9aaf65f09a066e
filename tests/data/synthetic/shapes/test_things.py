"""Coloured shapes look like what they are called."""

from __future__ import annotations

from itertools import combinations
from random import Random

import numpy as np
import pytest
from PIL import Image
from seen_shapes import find_ink, see

from internvl35.data.synthetic.canvas import Canvas
from internvl35.data.synthetic.colours import COLOURS, colours_on, vary_colour
from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.labels import COLOUR_NAMES, SHAPES
from internvl35.data.synthetic.shapes.things import (
    LEAST_OUTLINE,
    Thing,
    choose_pairs,
    draw_scenes,
    draw_things,
    is_larger,
    mark_things,
    refer,
)

CANVAS = Canvas(180, 180)
SMALL = Canvas(60, 60)


def draw_one(
    thing: Thing, background: tuple[int, int, int], seed: int, canvas: Canvas = CANVAS
) -> Image.Image:
    return draw_things(Chance(Random(seed)), canvas, [thing], background)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_filled", [True, False])
def test_a_shape_is_told_from_all_others_at_any_size(shape, is_filled):
    for side in (20 if is_filled else LEAST_OUTLINE, 41, 62, 90, 150):
        thing = Thing("blue", shape, (20, 13, 20 + side, 13 + side), is_filled)
        (seen,) = see(draw_one(thing, (255, 255, 255), side))
        assert seen.name == f"blue {shape}"


@pytest.mark.parametrize("background", [(255, 255, 255), (226, 230, 234), (0, 0, 0), (40, 44, 38)])
def test_a_colour_keeps_its_name_in_all_shades_on_all_backgrounds(background):
    names = colours_on(background)
    assert len(names) == len(COLOUR_NAMES) - 1
    assert ("white" in names) == (background[0] < 100)
    for colour in names:
        for seed in range(12):
            thing = Thing(colour, "circle", (10, 10, 50, 50))
            (seen,) = see(draw_one(thing, background, seed, SMALL))
            assert seen.colour == colour


def test_the_named_colours_are_those_of_the_labels():
    assert tuple(COLOURS) == COLOUR_NAMES


def test_an_easy_drawing_has_the_plain_colour():
    assert vary_colour(Chance(Random(0), 0.0), "brown") == COLOURS["brown"]


@pytest.mark.parametrize("is_filled", [True, False])
def test_marks_enclose_the_ink_tightly(is_filled):
    for shape in SHAPES:
        for side in (24, 37, 80):
            thing = Thing("black", shape, (30, 41, 30 + side, 41 + side), is_filled)
            colour, form = mark_things([thing])
            assert (colour.label, form.label) == ("colour:black", f"shape:{shape}")
            assert colour.box == form.box
            ink = find_ink(draw_one(thing, (255, 255, 255), 0))
            rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
            inked = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert np.abs(np.subtract(inked, form.box)).max() <= 2


def test_scenes_of_one_drawing_agree_in_every_pixel():
    things = [Thing("red", "star", (10, 10, 50, 50)), Thing("blue", "heart", (80, 90, 120, 130))]
    scenes = [things, things[::-1], things[:1]]
    images, marks = draw_scenes(Chance(Random(3)), CANVAS, scenes, (255, 255, 255))
    assert images[0].tobytes() == images[1].tobytes()
    assert images[0].crop((0, 0, 60, 60)).tobytes() == images[2].crop((0, 0, 60, 60)).tobytes()
    assert marks == tuple(mark_things(scene) for scene in scenes)


def test_the_larger_of_two_has_more_pixels_and_a_wider_box():
    rng = Random(5)
    num_larger = 0
    for _ in range(80):
        things, seen = [], []
        for shape in rng.choices(SHAPES, k=2):
            side = rng.randint(24, 110)
            things.append(Thing("green", shape, (10, 10, 10 + side, 10 + side)))
            seen += see(draw_one(things[-1], (255, 255, 255), side))
        if is_larger(*things, 1.4):
            num_larger += 1
            assert seen[0].num_pixels > 1.2 * seen[1].num_pixels
            widths = [max(one.box[2] - one.box[0], one.box[3] - one.box[1]) for one in seen]
            assert widths[0] > 1.1 * widths[1]
    assert 10 < num_larger < 40


def test_pairs_differ_and_at_times_share_a_colour_or_a_shape():
    rng = Random(1)
    num_shared = 0
    for _ in range(300):
        pairs = choose_pairs(rng, list(COLOURS), 4)
        assert all(one != two for one, two in combinations(pairs, 2))
        num_shared += len({shape for _, shape in pairs} | {c for c, _ in pairs}) < 8
    assert 60 < num_shared < 140


def test_a_reference_fits_one_thing_only():
    rng = Random(2)
    box = (0, 0, 20, 20)
    things = [Thing(*pair, box) for pair in (("red", "star"), ("red", "heart"), ("blue", "heart"))]
    names = {thing.name: {refer(rng, thing, things) for _ in range(60)} for thing in things}
    assert names["red heart"] == {"red heart"}
    assert names["red star"] == {"red star", "star"}
    assert names["blue heart"] == {"blue heart", "blue object", "blue thing", "blue shape"}
