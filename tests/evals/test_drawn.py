"""Asking a model about drawn tasks and counting its right answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from PIL import Image

from internvl35.chat import load
from internvl35.config import TileSettings
from internvl35.data.synthetic import FAMILIES, Drawing, Turn, draw
from internvl35.evals.drawn import (
    Answered,
    AskSettings,
    Examiner,
    FamilyResult,
    measure,
    with_thinking,
)
from internvl35.generate.sampling import SamplingSettings


@dataclass
class _Reply:
    text: str
    num_new_tokens: int = 3
    logprobs: tuple[float, ...] | None = None


class _KnowsTheFirst:
    """Answers the first ``known`` test pictures of a family right and all others wrongly."""

    tiles = TileSettings(tile_size=192, max_tiles=4)

    def __init__(self, family: str, known: int) -> None:
        self._answers = iter(
            draw(family, "test", index).turns[0].answer if index < known else "no idea"
            for index in range(1000)
        )
        self.sizes: list[int] = []
        self.questions = []

    def ask_batch(self, questions, sampling, *, has_logprobs=False):
        self.sizes.append(len(questions))
        self.questions += questions
        logprobs = (math.log(0.5), math.log(0.8), 0.0) if has_logprobs else None
        return [_Reply(next(self._answers), logprobs=logprobs) for _ in questions]


class _Invents(_KnowsTheFirst):
    """Answers by what is drawn by chance: the seed says which samples are right."""

    def __init__(self, rights: list[bool], answer: str) -> None:
        self.sizes, self.settings = [], []
        self._answers = iter(answer if is_right else "no idea" for is_right in rights)
        self.questions = []

    def ask_batch(self, questions, sampling, *, has_logprobs=False):
        self.settings.append(sampling)
        return super().ask_batch(questions, sampling, has_logprobs=has_logprobs)


class _Films:
    """A family of videos and pairs of pictures."""

    name = "films"

    def draw(self, chance):
        images = tuple(Image.new("RGB", (200, 200)) for _ in range(4))
        turn = Turn("What moves?", "nothing", "motion", is_unseen=True)
        return Drawing(
            self.name, images, (turn,), is_video=True, unseen=frozenset({"font", "icon"})
        )

    def score(self, turn, answer):
        return {"right": float(answer == turn.answer), "close": 0.5}


@pytest.mark.parametrize("family", ["counting", "shapes", "reading"])
def test_right_answers_are_counted_family_by_family(family):
    results = measure(_KnowsTheFirst(family, 9), [family], 20, "test")
    assert (results[family].num_right, results[family].num_pictures) == (9, 20)
    assert results[family].accuracy == pytest.approx(0.45)


def test_pictures_are_asked_in_batches_and_in_the_order_of_the_stream():
    chat = _KnowsTheFirst("shapes", 5)
    done = []
    examiner = Examiner(chat, AskSettings(max_questions=16), on_answered=done.append)
    answered = examiner.answer("shapes", range(35), "test")
    assert chat.sizes == done == [16, 16, 3]
    assert [entry.is_right for entry in answered[:6]] == [True] * 5 + [False]
    assert [entry.index for entry in answered] == list(range(35))
    expected = [f"<image>\n{draw('shapes', 'test', i).turns[0].question}" for i in range(35)]
    assert [question.text for question in chat.questions] == expected


def test_a_batch_is_bounded_by_its_tiles(monkeypatch):
    monkeypatch.setitem(FAMILIES, "films", _Films())
    chat = _KnowsTheFirst("films", 5)
    Examiner(chat, AskSettings(max_questions=8, max_tiles=12)).answer("films", range(7), "test")
    assert chat.sizes == [3, 3, 1]  # four frames of one tile each
    chat = _KnowsTheFirst("films", 5)
    Examiner(chat, AskSettings(max_tiles=2)).answer("films", range(2), "test")
    assert chat.sizes == [1, 1]  # a question with more tiles is asked alone


def test_frames_of_a_video_are_labelled(monkeypatch):
    monkeypatch.setitem(FAMILIES, "films", _Films())
    chat = _KnowsTheFirst("films", 1)
    (answered,) = Examiner(chat).answer("films", [0], "test")
    marks = "".join(f"Frame{number}: <image>\n" for number in range(1, 5))
    assert chat.questions[0].text == f"{marks}What moves?"
    assert len(chat.questions[0].images) == 4
    assert answered.scores == {"right": 1, "close": 0.5}
    assert answered.unseen == {"font", "icon", "wording"}


def test_an_answer_knows_its_probability():
    (answered,) = Examiner(_KnowsTheFirst("shapes", 1)).answer("shapes", [0], "test")
    assert answered.probability == pytest.approx(0.4)
    assert answered.token_probability == pytest.approx(0.4 ** (1 / 3))
    bare = Answered("shapes", 0, "colour", "red", {"right": 1.0}, frozenset(), 3)
    with pytest.raises(ValueError, match="has_logprobs"):
        _ = bare.probability


def test_several_answers_are_drawn_to_every_question():
    answer = draw("shapes", "test", 4).turns[0].answer
    chat = _Invents([True, False, True, False, False, False], answer)
    sampled = Examiner(chat, AskSettings(max_questions=4)).sample("shapes", [4, 4], "test", 3)
    assert [(entry.num_right, entry.num_samples) for entry in sampled] == [(2, 3), (0, 3)]
    assert chat.sizes == [4, 2]
    assert {sampling.temperature for sampling in chat.settings} == {1.0}
    assert len({sampling.seed for sampling in chat.settings}) == 2


def test_thinking_leaves_room_for_reasoning():
    settings = AskSettings(max_tokens=10, max_thinking_tokens=90)
    for is_thinking, room in ((False, 10), (True, 90)):
        chat = _Invents([True], "red")
        Examiner(chat, settings, is_thinking=is_thinking).answer("shapes", [0], "test")
        assert [sampling.max_tokens for sampling in chat.settings] == [room]


def test_time_and_tokens_are_kept():
    examiner = Examiner(_KnowsTheFirst("shapes", 1))
    examiner.answer("shapes", range(4), "test")
    examiner.answer("shapes", range(2), "test")
    assert (examiner.pace.num_pictures, examiner.pace.num_tokens) == (6, 18)
    assert examiner.pace.seconds > 0


def test_a_chat_that_thinks_is_the_same_model_under_another_system_prompt():
    chat = load("tiny")
    thinking = with_thinking(chat)
    assert thinking.model is chat.model
    assert not chat.builder.settings.is_thinking
    short = SamplingSettings(max_tokens=1)
    lengths = [c.ask("Hello", sampling=short).num_prompt_tokens for c in (chat, thinking)]
    assert lengths[1] > lengths[0]


def test_the_embedded_checkpoint_answers_drawn_questions_through_the_public_chat():
    examiner = Examiner(load("tiny"), AskSettings(max_tokens=8))
    answered = examiner.answer("shapes", range(4), "test")
    assert all(0 < entry.probability <= 1.0001 for entry in answered)
    again = examiner.answer("shapes", range(4), "test", has_logprobs=False)
    assert [entry.answer for entry in again] == [entry.answer for entry in answered]
    sampled = [examiner.sample("shapes", range(2), "test", 4) for _ in range(2)]
    assert sampled[0] == sampled[1]


def test_the_interval_is_wilsons():
    low, high = FamilyResult(45, 50).interval  # statsmodels: 0.7864, 0.9565
    assert (low, high) == (pytest.approx(0.7864, abs=1e-4), pytest.approx(0.9565, abs=1e-4))
