import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from internvl35.data.synthetic import Drawing, draw_page, start_chance
from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.labels import GLYPHS
from internvl35.data.synthetic.printed.pages import MAX_TURNS


@cache
def _pages(level: float) -> tuple[Drawing, ...]:
    return tuple(draw_page(start_chance("page", "train", index, level)) for index in range(150))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_page_is_one_tile_of_print_with_a_mark_for_every_character(level: float) -> None:
    for page in _pages(level):
        assert page.family == "page"
        assert page.images[0].size == (TILE_SIZE, TILE_SIZE)
        assert len(page.marks[0]) >= 3
        pixels = np.asarray(page.images[0]).astype(int)
        ink = np.abs(pixels - pixels[-1, -1]).max(axis=2) > 40
        for mark in page.marks[0]:
            left, top, right, bottom = (int(edge) for edge in mark.box)
            assert 0 <= left < right <= TILE_SIZE
            assert 0 <= top < bottom <= TILE_SIZE
            ink[top:bottom, left:right] = False
        assert not ink.any()


def test_pages_hold_every_character_often_and_some_are_sparse() -> None:
    seen: Counter[str] = Counter()
    nums = []
    for page in _pages(1.0):
        seen.update(mark.label.removeprefix("glyph:") for mark in page.marks[0])
        nums.append(len(page.marks[0]))
    letters = [glyph for glyph in GLYPHS if glyph.isalnum()]
    assert set(seen) <= set(GLYPHS)
    assert min(seen[glyph] for glyph in letters) > 0.1 * max(seen[glyph] for glyph in letters)
    assert sum(num < 40 for num in nums) > 20
    assert sum(num > 100 for num in nums) > 10


def test_the_same_place_gives_the_same_page() -> None:
    one, two = (draw_page(start_chance("page", "train", 5)) for _ in range(2))
    assert one.marks == two.marks
    assert one.images[0].tobytes() == two.images[0].tobytes()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_lines_of_a_page_are_asked_for_by_their_numbers(level: float) -> None:
    for page in _pages(level):
        assert 1 <= len(page.turns) <= MAX_TURNS
        printed = "".join(mark.label[-1] for mark in page.marks[0])
        by_number = {int(re.findall(r"\d+", turn.question)[0]): turn for turn in page.turns}
        assert len(by_number) == len(page.turns)
        end = 0
        for number in sorted(by_number):
            letters = by_number[number].answer.replace(" ", "")
            start = printed.index(letters, end)
            assert start > 0 or number == 1
            end = start + len(letters)
