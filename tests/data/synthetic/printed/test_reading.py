import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from internvl35.data.synthetic import FAMILIES, Drawing, Mark, Split, Turn, draw, start_chance
from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.colours import COLOURS
from internvl35.data.synthetic.printed import reading, words

READ = ("word", "number")
SPLITS: tuple[Split, Split] = ("train", "test")


NUM = 800


@cache
def _drawn(split: Split, level: float) -> tuple[Drawing, ...]:
    num = NUM if (split, level) == ("test", 1.0) else NUM // 4
    return tuple(draw("reading", split, index, level) for index in range(num))


def _drawings(num: int, level: float = 1.0, split: Split = "test") -> Iterable[Drawing]:
    return _drawn(split, level)[:num]


def _pixels(drawing: Drawing) -> NDArray[np.float64]:
    return np.asarray(drawing.images[0]).astype(np.float64)


def _alone(num: int) -> Iterator[tuple[Drawing, str]]:
    """Drawings of one text with what their marks spell from left to right."""
    for drawing in _drawings(num):
        if not any(turn.kind.startswith(("which", "word colour")) for turn in drawing.turns):
            yield drawing, _spell(drawing.marks[0])


def _spell(marks: tuple[Mark, ...]) -> str:
    glyphs = sorted(marks, key=lambda mark: mark.box[0] + mark.box[2])
    return "".join(mark.label.removeprefix("glyph:") for mark in glyphs)


def _several(num: int) -> Iterator[tuple[Drawing, list[tuple[str, str, tuple[float, ...]]]]]:
    """Drawings of several texts, each as its colour, its spelling and its box."""
    for drawing in _drawings(num):
        marks = drawing.marks[0]
        found = []
        for colour in (mark for mark in marks if mark.label.startswith("colour:")):
            inside = tuple(
                mark
                for mark in marks
                if mark is not colour
                and colour.box[0] <= mark.box[0] <= mark.box[2] <= colour.box[2]
                and colour.box[1] <= mark.box[1] <= mark.box[3] <= colour.box[3]
            )
            found.append((colour.label.removeprefix("colour:"), _spell(inside), colour.box))
        if found:
            yield drawing, found


def test_marks_from_left_to_right_spell_the_answer() -> None:
    kinds: Counter[str] = Counter()
    for drawing, text in _alone(500):
        for turn in drawing.turns:
            kinds[turn.kind] += 1
            expected = {"first": text[0], "last": text[-1], "length": str(len(text))}
            assert turn.answer == expected.get(turn.kind, text)
    assert set(kinds) == {*READ, "first", "last", "length"}


def test_the_question_names_what_is_printed() -> None:
    for drawing, text in _alone(500):
        for turn in drawing.turns:
            if re.search(r"\bnumber\b(?! of)", turn.question) and turn.kind in READ:
                assert re.fullmatch(r"[-$]?[\d.,]+%?", text)
            if turn.kind in READ and re.search(r"\bword\b", turn.question):
                assert text.isalpha()


def test_the_print_of_one_of_several_texts_has_the_colour_that_is_asked_for() -> None:
    num_asked = 0
    for drawing, found in _several(400):
        pixels = _pixels(drawing)
        paper = pixels[0, 0]
        seen = []
        for _, text, (left, top, right, bottom) in found:
            part = pixels[int(top) : int(bottom), int(left) : int(right)].reshape(-1, 3)
            ink = part[np.abs(part - paper).sum(axis=1).argmax()]
            near = min(COLOURS, key=lambda name: np.abs(ink - COLOURS[name]).sum())
            seen.append((near, text))
        assert [colour for colour, _ in seen] == [colour for colour, _, _ in found]
        assert len({colour for colour, _ in seen}) == len({text for _, text in seen}) == len(seen)
        for turn in drawing.turns:
            asked = set(re.findall(r"[a-z]+", turn.question)) & set(COLOURS)
            if turn.kind == "which word" and asked:
                num_asked += 1
                assert (asked.pop(), turn.answer) in seen
            if turn.kind == "word colour":
                assert turn.answer in {
                    colour for colour, text in seen if _names(turn.question, text)
                }
    assert num_asked > 100


def _names(question: str, text: str) -> bool:
    return re.search(rf"(?<![\w$.,-]){re.escape(text)}(?![\w%])(?![.,]\d)", question) is not None


def test_the_text_at_a_side_lies_beyond_all_others() -> None:
    sides = {"top": (1, -1), "bottom": (3, 1), "left": (0, -1), "right": (2, 1)}
    counts: Counter[str] = Counter()
    for drawing, found in _several(500):
        for turn in drawing.turns:
            side = re.search(r"(?:at the|on the) (top|bottom|left|right)", turn.question)
            if turn.kind == "which word" and side is not None:
                counts[side[1]] += 1
                edge, sign = sides[side[1]]
                boxes = {text: box for _, text, box in found}
                reach = {text: sign * box[edge] for text, box in boxes.items()}
                assert max(reach, key=reach.__getitem__) == turn.answer
                others = [box for text, box in boxes.items() if text != turn.answer]
                inner = sign * boxes[turn.answer][(edge + 2) % 4]
                assert all(inner >= sign * box[edge] for box in others)
    assert min(counts.values()) > 0.1 * counts.total()


def test_no_question_for_the_largest_print_may_mean_the_greatest_number() -> None:
    pool = reading.LARGEST_WORDINGS
    for text in (*pool.seen, *pool.kept):
        assert re.search("print|set|characters", text), text
        assert not re.search(r"(largest|biggest) \{noun\}", text)


def test_the_largest_print_is_much_larger_than_the_others() -> None:
    num = 0
    for drawing, found in _several(500):
        for turn in drawing.turns:
            if re.search("larg|bigg", turn.question):
                num += 1
                width = {text: (box[2] - box[0]) / len(text) for _, text, box in found}
                height = {text: box[3] - box[1] for _, text, box in found}
                # Letters differ in width and in height, but not both by that much.
                assert all(
                    height[turn.answer] > 0.95 * height[other]
                    or width[turn.answer] > 0.95 * width[other]
                    for other in height
                )
    assert num > 30


def test_texts_have_one_to_eight_characters_of_every_kind() -> None:
    texts = [text for _, text in _alone(NUM)]
    lengths = Counter(map(len, texts))
    assert set(lengths) == set(range(1, 9))
    assert min(lengths.values()) > 0.02 * len(texts)
    cased = [text for text in texts if text.isalpha() and len(text) > 1]
    assert 0.40 < sum(text.isupper() for text in cased) / len(cased) < 0.60
    assert sum(text.islower() for text in cased) / len(cased) > 0.15
    assert sum(text.istitle() for text in cased) / len(cased) > 0.15
    numbers = [text for text in texts if re.search(r"\d", text) and not re.search("[A-Z]", text)]
    assert 0.28 < len(numbers) / len(texts) < 0.45
    for sign in "-.$%,":
        assert any(sign in text for text in numbers), sign
    assert all(re.fullmatch(r"\$?-?\d[\d.,]*%?", text) for text in numbers)


def test_no_text_could_be_another_one_in_some_font() -> None:
    for _, text in _alone(NUM):
        letters, digits = set(text) - set("0123456789"), set(text) & set("0123456789")
        if text.isalpha():
            # In one case only some letters tell that case; a capital I is never beside small ones.
            assert text.istitle() or not set("COSUVWXZcosuvwxz").issuperset(text) or len(text) == 1
            assert text.isupper() or "I" not in text
        elif any(letter.isalpha() for letter in letters):
            assert not set(text) & set("O0I1l")
        else:
            assert digits - set("01")
    singles = {text for _, text in _alone(NUM) if len(text) == 1}
    assert len(singles) > 8
    assert not singles & set("O0o1lIcCsSuUvVwWxXzZkKpPyYjJi")


def test_words_kept_for_the_test_are_never_spelled_elsewhere() -> None:
    kept = {word for pool in words.WORDS.values() for word in pool.kept}
    asked = {*READ, "which word"}
    trained, tested = (
        [
            turn.answer.lower()
            for drawing in _drawings(NUM // 4, split=split)
            for turn in drawing.turns
            if turn.kind in asked
        ]
        for split in SPLITS
    )
    assert not kept & set(trained)
    assert sum(text in kept for text in tested) > 30


def test_there_are_many_words_of_each_length_listed_once() -> None:
    for length, pool in words.WORDS.items():
        listed = [*pool.seen, *pool.kept]
        assert len(set(listed)) == len(listed) >= (20 if length == 2 else 150)
        assert all(re.fullmatch(f"[a-z]{{{length}}}", word) for word in listed)
    assert set(words.WORDS) == set(range(2, 9))


def test_print_stays_legible_when_the_picture_is_pressed_into_one_tile() -> None:
    for drawing, text in _alone(NUM):
        width, height = drawing.images[0].size
        boxes = [mark.box for mark in drawing.marks[0]]
        if re.search("[A-Z2-9]", text):
            tallest = max(bottom - top for _, top, _, bottom in boxes)
            assert tallest * TILE_SIZE / height >= reading.ALONE.cap_height - 1
        if len(boxes) > 3:
            advance = (boxes[-1][2] - boxes[0][0]) / len(boxes)
            assert advance * TILE_SIZE / width >= reading.ALONE.advance - 1.5


def test_print_stands_out_from_its_paper() -> None:
    weights = np.array([0.299, 0.587, 0.114])
    for drawing in _drawings(300):
        brightness = _pixels(drawing) @ weights
        assert np.abs(brightness - brightness[0, 0]).max() > 45


def test_marks_enclose_all_ink_and_little_else() -> None:
    for drawing in _drawings(200):
        pixels = _pixels(drawing)
        ink = np.abs(pixels - pixels[0, 0]).max(axis=2) > 30
        for mark in drawing.marks[0]:
            left, top, right, bottom = (int(edge) for edge in mark.box)
            assert ink[top:bottom, left:right].mean() > 0.05
        for mark in drawing.marks[0]:
            left, top, right, bottom = (int(edge) for edge in mark.box)
            ink[top:bottom, left:right] = False
        assert not ink.any()


def test_the_lowest_level_prints_one_short_text_large_in_the_middle_of_white() -> None:
    for drawing in _drawings(150, level=0.0):
        assert drawing.images[0].size == (TILE_SIZE, TILE_SIZE)
        assert drawing.images[0].getpixel((0, 0)) == (255, 255, 255)
        assert 1 <= len(drawing.marks[0]) <= 3
        left = min(mark.box[0] for mark in drawing.marks[0])
        right = max(mark.box[2] for mark in drawing.marks[0])
        assert abs((left + right) / 2 - TILE_SIZE / 2) < 3
        assert drawing.unseen <= {"word"}


def test_every_kind_of_question_is_asked_first() -> None:
    kinds = Counter(drawing.turns[0].kind for drawing in _drawings(600))
    assert set(kinds) == {*READ, "first", "last", "length", "which word", "word colour"}
    assert kinds["word"] + kinds["number"] > 0.35 * 600


@pytest.mark.parametrize(
    ("expected", "answer", "is_right"),
    [
        ("Tiger", "Tiger", True),
        ("Tiger", " Tiger.\n", True),
        ("Tiger", "TIGER", False),
        ("Tiger", "The word is Tiger", False),
        ("-42", "-42", True),
        ("-42", "42", False),
        ("3.50", "3.5", False),
        ("007", "7", False),
    ],
)
def test_every_character_counts(expected: str, answer: str, is_right: bool) -> None:
    turn = Turn("Read the text.", expected, "word")
    assert FAMILIES["reading"].score(turn, answer)["right"] == is_right


def test_a_row_of_texts_with_one_as_narrow_as_li_is_printed_in_the_end() -> None:
    chance = start_chance("reading", "train", 2_000_088_321, 0.8133333333333335)
    drawing = FAMILIES["reading"].draw(chance)
    glyphs = [m.label.removeprefix("glyph:") for m in drawing.marks[0] if ":" in m.label]
    assert sorted(g for g in glyphs if len(g) == 1) == sorted("liDCPW")
