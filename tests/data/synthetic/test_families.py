"""What holds for every family of drawn tasks; what a family alone promises is tested beside it."""

import hashlib
import importlib
import math
import pkgutil
import random
import re
import string
import subprocess
import sys
import time
from collections import Counter, defaultdict
from functools import cache

import pytest
from seen_print import read_print

import internvl35.data.synthetic
from internvl35.data.synthetic import FAMILIES, Drawing, draw
from internvl35.data.synthetic.drawing import Pool, Split
from internvl35.data.synthetic.printed.words import WORDS
from internvl35.data.synthetic.talk.talk import TOPICS
from internvl35.errors import DataError

NUM = 30
FIXED_REPLIES = {"honesty"}
"""Families that may say the same each time."""
ODD_ANSWERS = (
    "",
    " ",
    "\n",
    "no idea",
    "yes or no",
    "3 or 4",
    "-",
    ".",
    "()",
    "1e999",
    "nan",
    "inf",
    "1/0",
    "__import__('os')",
    "<svg",
    "<svg><path d='M 0 0 L 1e9 1e9'/></svg>",
    "<svg>" * 200,
    "(" * 3000,
    "9" * 5000,
    "[[0, 0, 1000, 1000]]",
    "click(x=0.5, y=0.5)",
    '{"a": [1, 2',
    "\\frac{1}{0}",
    "\x00\ud83d",
    "\u0663",
    "\u00b2",
    "a b c " * 1000,
)
"""Answers that a model might give; none of them may stop a scorer."""


@cache
def _drawings(family: str, split: Split, level: float = 1.0) -> tuple[Drawing, ...]:
    return tuple(draw(family, split, index, level) for index in range(NUM))


def _print_of(drawing: Drawing) -> list[str]:
    return [line.text for marks in drawing.marks for line in read_print(marks, blank=0.25)]


def _pixels(drawing: Drawing) -> bytes:
    return b"".join(image.tobytes() for image in drawing.images)


NOT_OF_FAMILIES = (".patch_labels", ".pages", ".listing")
"""The first alone needs torch; what the others ask, a test never does."""


def _wording_pools() -> dict[str, list[Pool[str]]]:
    """The wordings of each question; those of a dictionary belong to one question."""
    found: dict[int, tuple[str, list[Pool[str]]]] = {}
    package = internvl35.data.synthetic
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.endswith(NOT_OF_FAMILIES):
            continue
        for name, value in sorted(vars(importlib.import_module(module.name)).items()):
            pools = list(value.values()) if isinstance(value, dict) else [value]
            if all(isinstance(pool, Pool) and pool.name == "wording" for pool in pools) and pools:
                found.setdefault(id(value), (f"{module.name.rpartition('.')[2]}.{name}", pools))
    found |= {id(topic): (f"talk.{topic.answer}", [topic.asked]) for topic in TOPICS}
    return dict(found.values())


WORDING_POOLS = _wording_pools()


# --- streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_place_in_a_stream_gives_the_same_drawing(family: str) -> None:
    state = random.getstate()
    for index in range(12):
        one, two = draw(family, "test", index, 0.7), draw(family, "test", index, 0.7)
        assert one.turns == two.turns
        assert one.marks == two.marks
        assert one.unseen == two.unseen
        assert _pixels(one) == _pixels(two)
    assert random.getstate() == state  # nobody draws from the chance that all share


def test_another_process_draws_the_same_and_does_without_torch() -> None:
    script = (
        "import hashlib, sys\n"
        "from internvl35.data.synthetic import FAMILIES, draw\n"
        "made = [draw(f, 'test', i) for f in FAMILIES for i in range(4)]\n"
        "said = repr([(d.turns, d.marks, sorted(d.unseen)) for d in made]).encode()\n"
        "said += b''.join(image.tobytes() for d in made for image in d.images)\n"
        "print(hashlib.sha256(said).hexdigest(), 'torch' in sys.modules)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "2"},
        capture_output=True,
        check=True,
        text=True,
    )
    made = [drawing for family in FAMILIES for drawing in _drawings(family, "test")[:4]]
    said = repr([(one.turns, one.marks, sorted(one.unseen)) for one in made]).encode()
    digest = hashlib.sha256(said + b"".join(_pixels(one) for one in made)).hexdigest()
    assert process.stdout.split() == [digest, "False"]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_picture_of_one_split_comes_back_in_another(family: str) -> None:
    splits: tuple[Split, ...] = ("train", "validation", "test")
    seen = {split: {_pixels(drawing) for drawing in _drawings(family, split)} for split in splits}
    for pictures in seen.values():
        pictures.discard(b"")  # pure text
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_test_shows_and_asks_what_training_never_does(family: str) -> None:
    for split in ("train", "validation"):
        for drawing in _drawings(family, split):
            assert not drawing.unseen
            assert not any(turn.is_unseen for turn in drawing.turns)
    turns = [turn for drawing in _drawings(family, "test") for turn in drawing.turns]
    assert 0.2 < sum(turn.is_unseen for turn in turns) / len(turns) < 0.8


def test_an_unknown_family_and_an_impossible_level_are_refused() -> None:
    with pytest.raises(DataError, match="'chess' is unknown; there are "):
        draw("chess", "train", 0)
    with pytest.raises(DataError, match="level is 1\\.5"):
        draw("counting", "train", 0, 1.5)


# --- questions and answers -------------------------------------------------------------------


@pytest.mark.parametrize("pools", WORDING_POOLS.values(), ids=WORDING_POOLS)
def test_every_question_has_twelve_wordings_a_fourth_of_them_kept(pools: list[Pool[str]]) -> None:
    seen = [text for pool in pools for text in pool.seen]
    kept = [text for pool in pools for text in pool.kept]
    assert len(seen) + len(kept) >= 12
    assert len(kept) >= 3
    for pool in pools:
        texts = (*pool.seen, *pool.kept)
        assert len(set(texts)) == len(texts)
        assert pool.kept
        assert all(text == text.strip() != "" for text in texts)
        fields = {field for text in texts for _, field, _, _ in string.Formatter().parse(text)}
        assert all(field is None or field.isidentifier() for field in fields)


def test_no_wording_is_kept_for_one_question_and_seen_in_another() -> None:
    def bare(text: str) -> str:
        return re.sub(r"\{\w+\}", "{}", text).lower()

    assert len(WORDING_POOLS) > 100
    every = [pool for pools in WORDING_POOLS.values() for pool in pools]
    seen = {bare(text) for pool in every for text in pool.seen}
    assert not seen & {bare(text) for pool in every for text in pool.kept}


@pytest.mark.parametrize(
    "family", ["bars", "pies", "curves", "receipts", "sums", "rooms", "screens"]
)
def test_words_kept_for_the_test_are_printed_by_no_family_in_training(family: str) -> None:
    kept = {word for pool in WORDS.values() for word in pool.kept}
    lines = [line for drawing in _drawings(family, "train") for line in _print_of(drawing)]
    printed = {word for line in lines for word in re.findall("[a-z]+", line.lower())}
    assert len(printed) > 10
    assert not kept & printed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_drawing_asks_one_to_six_different_questions(family: str, level: float) -> None:
    for drawing in _drawings(family, "test", level):
        assert drawing.family == family
        questions = [turn.question for turn in drawing.turns]
        assert 1 <= len(questions) <= 6
        assert len(set(questions)) == len(questions)
        for turn in drawing.turns:
            assert turn.question == turn.question.strip() != ""
            assert turn.answer == turn.answer.strip() != ""
            assert len(turn.answer) <= 400
            assert turn.kind
            assert not set("{}") & set(turn.question) or "{" in turn.answer
            if turn.box is not None:
                left, top, right, bottom = turn.box
                assert 0 <= left < right <= 1
                assert 0 <= top < bottom <= 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_the_right_answer_scores_right(family: str, level: float) -> None:
    for drawing in _drawings(family, "test", level):
        for turn in drawing.turns:
            scores = FAMILIES[family].score(turn, turn.answer)
            assert scores["right"] == 1.0, turn
            assert all(0 <= value <= 1 for value in scores.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_stops_the_scorer_and_an_empty_one_is_wrong(family: str) -> None:
    started = time.process_time()
    kinds = {turn.kind: turn for drawing in _drawings(family, "test") for turn in drawing.turns}
    for turn in kinds.values():
        for answer in ODD_ANSWERS:
            scores = FAMILIES[family].score(turn, answer)
            assert all(0 <= value <= 1 for value in scores.values()), (turn, answer)
            assert not any(math.isnan(value) for value in scores.values())
            assert scores["right"] in (0.0, 1.0)
        assert FAMILIES[family].score(turn, "")["right"] == 0.0
    assert time.process_time() - started < 0.25 * len(kinds) + 0.5


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - FIXED_REPLIES))
def test_no_answer_can_be_guessed_from_the_kind_of_question(family: str) -> None:
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for split in ("train", "validation", "test"):
        for drawing in _drawings(family, split):
            if drawing.images:
                for turn in drawing.turns:
                    answers[turn.kind][turn.answer] += 1
    for kind, counts in answers.items():
        num, commonest = counts.total(), counts.most_common(1)[0]
        # Half for yes and no, with three standard deviations for chance.
        assert commonest[1] <= 0.5 * num + 1.5 * num**0.5 + 1, (kind, commonest, num)


# --- pictures and marks ------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_pictures_are_small_and_every_mark_lies_inside_its_picture(
    family: str, level: float
) -> None:
    for drawing in _drawings(family, "test", level):
        assert not drawing.marks or len(drawing.marks) == len(drawing.images)
        for image in drawing.images:
            assert image.mode == "RGB"
            assert 64 <= min(image.size) <= max(image.size) <= 900
        for image, marks in zip(drawing.images, drawing.marks, strict=False):
            for mark in marks:
                left, top, right, bottom = mark.box
                assert 0 <= left < right <= image.width, mark
                assert 0 <= top < bottom <= image.height, mark


@pytest.mark.parametrize(
    ("family", "split", "index", "level"),
    [
        ("bars", "train", 50000, 0.8),  # half of a number left of the axis
        ("bars", "test", 50041, 1.0),
        ("bars", "test", 50099, 1.0),  # a letter that goes below the line
        ("curves", "train", 50100, 1.0),
        ("curves", "test", 50010, 1.0),
    ],
)
def test_charts_that_were_cut_at_the_rim_are_whole(
    family: str, split: Split, index: int, level: float
) -> None:
    drawing = draw(family, split, index, level)
    (image,), (marks,) = drawing.images, drawing.marks
    for mark in marks:
        left, top, right, bottom = mark.box
        assert 0 <= left < right <= image.width, mark
        assert 0 <= top < bottom <= image.height, mark


@pytest.mark.parametrize("family", FAMILIES)
def test_nearly_all_pictures_are_marked(family: str) -> None:
    images = [image for drawing in _drawings(family, "train") for image in drawing.images]
    marked = [marks for drawing in _drawings(family, "train") for marks in drawing.marks if marks]
    assert len(marked) >= 0.9 * len(images)
