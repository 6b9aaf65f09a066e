import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.labels import GLYPHS
from internvl35.data.synthetic.printed import fonts
from internvl35.data.synthetic.printed.fonts import (
    FONTS,
    PLAIN_FONT,
    can_print,
    cap_share,
    choose_font,
    font_file,
    load_glyph,
    print_block,
    print_line,
    size_for_caps,
    text_width,
)
from internvl35.errors import DataError

ALL = (*FONTS.seen, *FONTS.kept)
PLAIN_GLYPHS = "ABDEFGHIJKLMNPQRTYabdefghijkmnpqrty23456789"


def _typeface(name: str) -> str:
    return Path(name).name.partition("-")[0]


def test_whole_typefaces_are_kept_for_the_test() -> None:
    assert len(set(ALL)) == len(ALL) >= 40
    assert not {_typeface(name) for name in FONTS.seen} & {_typeface(name) for name in FONTS.kept}
    assert len({_typeface(name) for name in FONTS.kept}) >= 2
    assert PLAIN_FONT in FONTS.seen


@pytest.mark.parametrize("name", ALL)
def test_a_font_has_ink_for_every_character_and_tells_them_apart(name: str) -> None:
    assert font_file(name).exists()
    masks: dict[bytes, str] = {}
    for glyph in GLYPHS:
        if can_print(name, glyph):
            found = load_glyph(name, 24, glyph)
            assert found.mask.width > 0
            assert found.advance > 0
            shape = found.mask.tobytes() + repr((found.mask.size, found.top)).encode()
            assert masks.setdefault(shape, glyph) == glyph or {masks[shape], glyph} <= set(
                "Il|1O0o"
            )
    # A character that is missing would be drawn as the same box as another.
    assert len(masks) >= len(GLYPHS) - 30


@pytest.mark.parametrize("name", ALL)
def test_no_two_fonts_of_different_typefaces_draw_alike(name: str) -> None:
    mine = load_glyph(name, 40, "R").mask
    for other in ALL:
        if _typeface(other) != _typeface(name):
            theirs = load_glyph(other, 40, "R").mask
            assert (mine.size, mine.tobytes()) != (theirs.size, theirs.tobytes())


@pytest.mark.parametrize("name", ALL)
def test_capitals_are_as_high_as_asked_for(name: str) -> None:
    for height in (9, 14, 30):
        found = load_glyph(name, size_for_caps(name, height), "H").mask.height
        assert abs(found - height) <= 1 + 0.05 * height
    assert 0.5 < cap_share(name) < 0.85


def test_marks_are_tight_around_the_ink_of_each_character() -> None:
    for name in (PLAIN_FONT, "STIXGeneralItalic", FONTS.kept[0]):
        image = Image.new("RGB", (400, 60), (255, 255, 255))
        marks = print_line(image, "A quick Fox: 3.50!", name, 24, (10, 40), (0, 0, 0))
        assert [mark.label.removeprefix("glyph:") for mark in marks] == list("AquickFox:3.50!")
        ink = np.asarray(image.convert("L")) < 255
        for mark in marks:
            left, top, right, bottom = (int(edge) for edge in mark.box)
            part = ink[top:bottom, left:right]
            assert part[0].any()
            assert part[-1].any()
            assert part[:, 0].any()
            assert part[:, -1].any()
        for mark in marks:
            left, top, right, bottom = (int(edge) for edge in mark.box)
            ink[top:bottom, left:right] = False
        assert not ink.any()
        width = text_width("A quick Fox: 3.50!", name, 24)
        assert abs(marks[-1].box[2] - 10 - width) < 8


def test_a_block_is_lines_one_leading_apart() -> None:
    image = Image.new("RGB", (100, 120), (255, 255, 255))
    marks = print_block(image, ["HE", "HE", "HE"], PLAIN_FONT, 20, (5, 5), (0, 0, 0), leading=1.5)
    tops = [mark.box[1] for mark in marks]
    assert tops == [5, 5, 35, 35, 65, 65]
    assert {mark.box[0] for mark in marks[::2]} == {marks[0].box[0]}


def test_an_easy_picture_prints_plainly_and_old_fonts_print_only_what_they_have() -> None:
    assert choose_font(Chance(random.Random(1), 0.0), "any") == PLAIN_FONT
    hard = [choose_font(Chance(random.Random(seed)), "$5") for seed in range(300)]
    assert len(set(hard)) > 20
    assert not any(name.startswith("cm") for name in hard)
    assert set(hard) <= set(FONTS.seen)
    assert any(
        choose_font(Chance(random.Random(seed)), "5").startswith("cm") for seed in range(300)
    )


def test_a_missing_font_package_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fonts, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"font-caladea.*internvl35\[tiny\]"):
        font_file("font_caladea/Caladea-Bold")
