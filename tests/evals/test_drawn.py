"""Counting right answers on drawn tasks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from internvl35.data.synthetic import draw
from internvl35.evals.drawn import BATCH_SIZE, FamilyResult, answer_drawings, measure


@dataclass
class _Reply:
    text: str


class _KnowsTheFirst:
    """Answers the first ``known`` test pictures of a family right and all others wrongly."""

    def __init__(self, family: str, known: int) -> None:
        self._answers = iter(
            draw(family, "test", index).turns[0].answer if index < known else "no idea"
            for index in range(1000)
        )
        self.sizes: list[int] = []

    def ask_batch(self, questions, sampling):
        self.sizes.append(len(questions))
        return [_Reply(next(self._answers)) for _ in questions]


@pytest.mark.parametrize("family", ["counting", "shapes", "reading", "talk"])
def test_right_answers_are_counted_family_by_family(family):
    results = measure(_KnowsTheFirst(family, 9), [family], 20, "test")
    assert (results[family].num_right, results[family].num_pictures) == (9, 20)
    assert results[family].accuracy == pytest.approx(0.45)


def test_pictures_are_asked_in_batches_and_in_the_order_of_the_stream():
    chat = _KnowsTheFirst("shapes", 5)
    done = []
    answered = answer_drawings(chat, "shapes", BATCH_SIZE + 3, "test", done.append)
    assert chat.sizes == done == [BATCH_SIZE, 3]
    assert [entry.is_right for entry in answered[:6]] == [True] * 5 + [False]
    questions = [entry.drawing.turns[0].question for entry in answered]
    assert questions == [draw("shapes", "test", i).turns[0].question for i in range(len(answered))]


def test_the_interval_is_wilsons():
    low, high = FamilyResult(45, 50).interval  # statsmodels: 0.7864, 0.9565
    assert (low, high) == (pytest.approx(0.7864, abs=1e-4), pytest.approx(0.9565, abs=1e-4))
