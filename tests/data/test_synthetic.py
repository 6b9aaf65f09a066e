import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from internvl35.config import TileSettings
from internvl35.data.synthetic import (
    FAMILIES,
    MARK_LABELS,
    Drawing,
    contact_sheet,
    counting,
    draw,
    draw_page,
    greeting,
    reading,
    shapes,
)
from internvl35.data.synthetic.scene import COLOURS, SHAPES
from internvl35.data.synthetic.words import WORDS
from internvl35.data.tiles import choose_grid
from internvl35.errors import DataError

PICTURES = ("counting", "shapes", "reading")
TINY_TILES = TileSettings(tile_size=112, max_tiles=4)


def _drawings(family: str, num: int, level: float = 1.0) -> Iterator[Drawing]:
    return (draw(family, "validation", index, level) for index in range(num))


def _pixels(drawing: Drawing) -> NDArray[np.int16]:
    assert drawing.image is not None
    return np.asarray(drawing.image).astype(np.int16)


def _ink(drawing: Drawing) -> NDArray[np.bool_]:
    """Pixels that are clearly not background; the corner is always background."""
    pixels = _pixels(drawing)
    return np.abs(pixels - pixels[0, 0]).max(axis=2) > 40


# --- streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_place_in_a_stream_gives_the_same_drawing(family: str) -> None:
    for index in range(20):
        one, two = draw(family, "train", index, 0.7), draw(family, "train", index, 0.7)
        assert one.turns == two.turns
        assert one.marks == two.marks
        assert (one.image and one.image.tobytes()) == (two.image and two.image.tobytes())


def test_another_process_draws_the_same() -> None:
    script = (
        "import hashlib\n"
        "from internvl35.data.synthetic import draw\n"
        "made = [draw(f, 'test', i) for f in ('counting', 'shapes', 'reading') for i in range(5)]\n"
        "said = repr([(d.turns, d.marks) for d in made]).encode()\n"
        "print(hashlib.sha256(said + b''.join(d.image.tobytes() for d in made)).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("family", PICTURES)
def test_no_picture_of_one_split_comes_back_in_another(family: str) -> None:
    seen = {
        split: {_pixels(draw(family, split, index)).tobytes() for index in range(300)}
        for split in ("train", "validation", "test")
    }
    assert all(len(pictures) == 300 for pictures in seen.values())
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_an_unknown_family_and_an_impossible_level_are_refused() -> None:
    with pytest.raises(DataError, match="'chess' is unknown; there are counting"):
        draw("chess", "train", 0)
    with pytest.raises(DataError, match="level is 1\\.5"):
        draw("counting", "train", 0, 1.5)


# --- questions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wordings",
    [
        counting.WORDINGS,
        shapes.COLOUR_WORDINGS,
        shapes.SHAPE_WORDINGS,
        shapes.WHOLE_WORDINGS,
        reading.WORDINGS,
        reading.WORD_WORDINGS,
        reading.NUMBER_WORDINGS,
        reading.FIRST_WORDINGS,
        reading.LAST_WORDINGS,
        reading.LENGTH_WORDINGS,
        *(questions for _, questions in greeting.TOPICS),
    ],
)
def test_every_question_has_at_least_eight_wordings(wordings: tuple[str, ...]) -> None:
    assert len(set(wordings)) == len(wordings) >= 8


@pytest.mark.parametrize("family", FAMILIES)
def test_a_drawing_asks_one_to_three_different_questions(family: str) -> None:
    lengths: Counter[int] = Counter()
    for drawing in _drawings(family, 400):
        questions = [turn.question for turn in drawing.turns]
        lengths[len(questions)] += 1
        assert len(set(questions)) == len(questions)
        for question in questions:
            assert question[0].isupper()
            assert not re.search(r"[A-Z]", question[1:])
        assert all(turn.answer for turn in drawing.turns)
        assert all(FAMILIES[family].is_right(turn.answer, turn.answer) for turn in drawing.turns)
    assert set(lengths) == {1, 2, 3}


def test_a_picture_is_asked_about_in_the_family_of_the_drawing() -> None:
    assert all(draw(family, "test", 0).family == family for family in FAMILIES)
    assert all(drawing.image is None for drawing in _drawings("greeting", 20))


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PICTURES)
def test_six_pictures_in_ten_fill_one_tile_and_every_other_grid_occurs(family: str) -> None:
    grids: Counter[tuple[int, int]] = Counter()
    for drawing in _drawings(family, 1000):
        assert drawing.image is not None
        assert drawing.image.mode == "RGB"
        grids[tuple(choose_grid(*drawing.image.size, TINY_TILES))] += 1
    assert set(grids) == {(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2)}
    assert 0.55 < grids[1, 1] / 1000 < 0.70
    assert min(grids.values()) >= 15


@pytest.mark.parametrize("family", PICTURES)
def test_the_lowest_level_draws_one_tile_without_resizing(family: str) -> None:
    for drawing in _drawings(family, 200, level=0.0):
        assert drawing.image is not None
        assert drawing.image.size == (112, 112)
        assert drawing.image.getpixel((0, 0)) == (255, 255, 255)


# --- marks -----------------------------------------------------------------------------------


def _check_marks(drawing: Drawing) -> None:
    ink = _ink(drawing)
    height, width = ink.shape
    outside = ink.copy()
    for mark in drawing.marks:
        assert mark.label in MARK_LABELS
        left, top, right, bottom = mark.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        rows, columns = slice(int(top), int(bottom)), slice(int(left), int(right))
        part = ink[rows, columns]
        assert part.mean() > 0.1
        outside[rows, columns] = False
        # The box is tight: print or shape reaches within two pixels of each of its sides.
        across, down = part.any(axis=0), part.any(axis=1)
        assert across[:3].any()
        assert across[-3:].any()
        assert down[:3].any()
        assert down[-3:].any()
    assert not outside.any()


@pytest.mark.parametrize("family", PICTURES)
def test_marks_enclose_all_that_is_drawn_and_no_more(family: str) -> None:
    for drawing in _drawings(family, 400):
        _check_marks(drawing)


def test_labels_are_36_glyphs_then_colours_then_shapes() -> None:
    assert len(set(MARK_LABELS)) == len(MARK_LABELS) == 36 + len(COLOURS) + len(SHAPES)
    assert MARK_LABELS[:11] == (*(f"glyph:{digit}" for digit in range(10)), "glyph:A")
    assert MARK_LABELS[36] == "colour:red"
    assert MARK_LABELS[-1] == f"shape:{SHAPES[-1]}"


# --- a second pair of eyes: what the pixels say ------------------------------------------------


def _components(ink: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Each group of pixels that touch, corners included, found by flooding with labels."""
    labels = np.where(ink, np.arange(1, ink.size + 1).reshape(ink.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.max(
            [padded[y : y + len(ink), x : x + len(ink[0])] for y in range(3) for x in range(3)],
            axis=0,
        )
        spread[~ink] = 0
        if np.array_equal(spread, labels):
            break
        labels = spread
    for label in np.unique(labels[labels > 0]):
        yield labels == label


def _name_shape(group: NDArray[np.bool_]) -> str:
    rows, columns = np.flatnonzero(group.any(axis=1)), np.flatnonzero(group.any(axis=0))
    part = group[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    share = part.mean()
    if share > 0.93:
        return "square"
    if share > 0.68:
        return "circle"
    height, width = part.shape
    if not part[round(0.92 * height) - 1, width // 2]:  # between the feet
        return "star"
    top, bottom = part[: height // 4].sum(), part[-(height // 4) :].sum()
    return "triangle" if bottom > 2 * top else "diamond"


def _see(drawing: Drawing) -> list[tuple[str, str]]:
    pixels = _pixels(drawing)
    seen = []
    for group in _components(_ink(drawing)):
        shade = np.median(pixels[group], axis=0)
        colour = min(COLOURS, key=lambda name: np.abs(shade - COLOURS[name]).sum())
        seen.append((colour, _name_shape(group)))
    return seen


def _count(question: str, things: list[tuple[str, str]]) -> int:
    words = set(re.findall(r"[a-z]+", question))
    colour = next((name for name in COLOURS if name in words), None)
    shape = next((name for name in SHAPES if f"{name}s" in words), None)
    return sum(colour in (None, thing[0]) and shape in (None, thing[1]) for thing in things)


def test_counting_what_the_pixels_show_gives_the_answer() -> None:
    for drawing in _drawings("counting", 120):
        things = _see(drawing)
        assert 1 <= len(things) <= 5
        for turn in drawing.turns:
            assert turn.answer == str(_count(turn.question, things))


def test_counting_the_marks_gives_the_answer() -> None:
    answers: Counter[str] = Counter()
    for drawing in _drawings("counting", 1500):
        labels = [mark.label.split(":")[1] for mark in drawing.marks]
        things = list(zip(labels[::2], labels[1::2], strict=True))
        for turn in drawing.turns:
            assert turn.answer == str(_count(turn.question, things))
        answers[drawing.turns[0].answer] += 1
    assert set(answers) == set("012345")
    assert max(answers.values()) / 1500 < 0.30  # guessing one number must not pay
    assert answers["0"] / 1500 < 0.07


def test_naming_what_the_pixels_show_gives_the_answer() -> None:
    for drawing in _drawings("shapes", 120):
        things = _see(drawing)
        colours, names = dict(things), {shape: colour for colour, shape in things}
        assert len(colours) == len(names) == len(things) <= 3
        for turn in drawing.turns:
            words = turn.answer.split()
            if len(words) == 3:
                assert things == [(words[1], words[2])]
                assert words[0] == ("an" if words[1] == "orange" else "a")
                continue
            asked = set(re.findall(r"[a-z]+", turn.question)) & {*COLOURS, *SHAPES}
            if not asked:
                assert len(things) == 1
                assert turn.answer in things[0]
            else:
                (known,) = asked
                assert turn.answer == (colours | names)[known]


def test_what_is_drawn_stays_apart_when_shrunk_to_a_thumbnail() -> None:
    for drawing in _drawings("counting", 400):
        assert drawing.image is not None
        across, down = 112 / drawing.image.width, 112 / drawing.image.height
        boxes = [mark.box for mark in drawing.marks[::2]]
        for place, (left, top, right, bottom) in enumerate(boxes):
            assert (right - left) * across >= 7.5
            assert (bottom - top) * down >= 7.5
            for other in boxes[:place]:
                gap_x = max(left - other[2], other[0] - right) * across
                gap_y = max(top - other[3], other[1] - bottom) * down
                assert max(gap_x, gap_y) > 1.4


# --- reading ---------------------------------------------------------------------------------


def test_glyphs_from_left_to_right_spell_the_answer() -> None:
    for drawing in _drawings("reading", 800):
        text = drawing.turns[0].answer
        assert [mark.label for mark in drawing.marks] == [f"glyph:{glyph}" for glyph in text]
        middles = [(mark.box[0] + mark.box[2]) / 2 for mark in drawing.marks]
        assert middles == sorted(middles)
        for turn in drawing.turns[1:]:
            kind = {"first": text[0], "last": text[-1], "length": str(len(text))}
            wordings = {
                "first": reading.FIRST_WORDINGS,
                "last": reading.LAST_WORDINGS,
                "length": reading.LENGTH_WORDINGS,
            }
            (name,) = (name for name, known in wordings.items() if turn.question in known)
            assert turn.answer == kind[name]
        if drawing.turns[0].question in reading.NUMBER_WORDINGS:
            assert text.isdigit()
        if drawing.turns[0].question in reading.WORD_WORDINGS:
            assert text.isalpha()


def test_text_has_mostly_one_to_four_capitals_and_digits() -> None:
    texts = [drawing.turns[0].answer for drawing in _drawings("reading", 2000)]
    lengths = Counter(map(len, texts))
    assert set(lengths) == {1, 2, 3, 4, 5, 6}
    assert 0.87 < sum(lengths[num] for num in (1, 2, 3, 4)) / 2000 < 0.94
    assert all(re.fullmatch("[0-9A-Z]+", text) for text in texts)
    assert set("".join(texts)) == set(reading.GLYPHS)
    assert not {"O", "0", "OO", "00"} & set(texts)  # no one could tell which of the two it is
    assert sum(text.isdigit() for text in texts) / 2000 > 0.25
    assert sum(text in WORDS for text in texts) / 2000 > 0.12


def test_text_stays_legible_when_shrunk_to_a_thumbnail() -> None:
    for drawing in _drawings("reading", 2000):
        assert drawing.image is not None
        across, down = 112 / drawing.image.width, 112 / drawing.image.height
        boxes = [mark.box for mark in drawing.marks]
        assert max(bottom - top for _, top, _, bottom in boxes) * down >= reading.MIN_CAP_HEIGHT - 1
        if len(boxes) > 1:  # ink is narrower than the advance
            width = (boxes[-1][2] - boxes[0][0]) / len(boxes)
            assert width * across >= reading.MIN_ADVANCE - 2


def test_print_stands_out_from_its_paper() -> None:
    weights = np.array([0.299, 0.587, 0.114])
    for drawing in _drawings("reading", 400):
        brightness = _pixels(drawing) @ weights
        assert np.abs(brightness - brightness[0, 0]).max() > 60


def test_the_lowest_level_prints_one_or_two_large_characters_in_the_middle() -> None:
    for drawing in _drawings("reading", 200, level=0.0):
        assert len(drawing.turns[0].answer) <= 2
        left, right = drawing.marks[0].box[0], drawing.marks[-1].box[2]
        assert abs((left + right) / 2 - 56) < 5
        assert max(mark.box[3] - mark.box[1] for mark in drawing.marks) >= 24


def test_fonts_of_the_drawings_tell_all_glyphs_apart() -> None:
    for font in reading.FONTS:
        masks = {
            reading._glyph(font, 24, glyph).mask.tobytes()
            + bytes([reading._glyph(font, 24, glyph).mask.width])
            for glyph in reading.GLYPHS
        }
        assert len(masks) == len(reading.GLYPHS), font


def test_every_word_to_print_is_in_capitals_and_listed_once() -> None:
    assert len(set(WORDS)) == len(WORDS) > 500
    assert all(re.fullmatch("[A-Z]{2,6}", word) for word in WORDS)
    assert set("".join(WORDS)) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


# --- pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_page_is_one_dense_tile_with_a_mark_for_every_glyph(level: float) -> None:
    seen: Counter[str] = Counter()
    for seed in range(150):
        drawing = draw_page(Random(seed), level)
        assert drawing.image is not None
        assert drawing.image.size == (112, 112)
        assert not drawing.turns
        assert len(drawing.marks) >= 8
        _check_marks(drawing)
        seen.update(mark.label for mark in drawing.marks)
    assert len(seen) == 36
    assert max(seen.values()) < 3 * min(seen.values())


# --- scoring ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected", "answer", "is_right"),
    [
        ("counting", "3", "There are three.", True),
        ("counting", "3", "3", True),
        ("counting", "3", "3 or 4", False),
        ("counting", "3", "", False),
        ("shapes", "red", "Red.", True),
        ("shapes", "a red circle", "red circle", True),
        ("shapes", "red", "blue", False),
        ("reading", "TIGER", "TIGER", True),
        ("reading", "TIGER", "Tiger", False),
        ("reading", "007", "7", False),
        ("greeting", "You are welcome.", "You are welcome.", True),
        ("greeting", "You are welcome.", "no", False),
    ],
)
def test_a_family_scores_answers_by_its_own_rule(
    family: str, expected: str, answer: str, is_right: bool
) -> None:
    assert FAMILIES[family].is_right(expected, answer) is is_right


# --- contact sheet ---------------------------------------------------------------------------


def test_a_contact_sheet_has_a_cell_for_every_drawing() -> None:
    drawings = [draw(family, "test", index) for family in FAMILIES for index in range(2)]
    sheet = contact_sheet(drawings, columns=3, cell=100, is_thumbnail=True, with_boxes=True)
    assert sheet.mode == "RGB"
    assert sheet.size == (3 * 106 + 6, 3 * 134 + 6)
