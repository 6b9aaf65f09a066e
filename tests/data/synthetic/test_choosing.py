"""Which of the possible questions are asked."""

from __future__ import annotations

from collections import Counter
from random import Random

from internvl35.data.synthetic.choosing import Asking, ask_some
from internvl35.data.synthetic.drawing import Chance, wordings

ASKED = wordings(*(f"{number} {{name}}?" for number in range(8)))
MANY = [Asking(ASKED, str(place), "many", {"name": f"a{place}"}) for place in range(6)]
FEW = [Asking(ASKED, "one", "few", {"name": "b"})]


def test_a_rare_kind_is_asked_as_often_as_a_frequent_one():
    chance = Chance(Random(0))
    kinds: Counter[str] = Counter()
    for _ in range(400):
        (turn,) = ask_some(chance, MANY + FEW, 1)
        kinds[turn.kind] += 1
    assert 160 < kinds["few"] < 240


def test_nothing_is_asked_twice_and_every_kind_comes_before_a_second_of_one():
    for seed in range(50):
        turns = ask_some(Chance(Random(seed)), MANY + FEW, 4)
        assert len({turn.answer for turn in turns}) == len(turns) == 4
        assert [turn.kind for turn in turns].count("few") == 1


def test_any_question_may_be_the_first():
    firsts = {ask_some(Chance(Random(seed)), MANY + FEW, 3)[0].answer for seed in range(200)}
    assert firsts == {"0", "1", "2", "3", "4", "5", "one"}


def test_all_is_asked_where_there_is_little_and_nothing_where_there_is_none():
    assert len(ask_some(Chance(Random(0)), FEW, 5)) == 1
    assert ask_some(Chance(Random(0)), [], 5) == ()
