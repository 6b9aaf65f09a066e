import re
from collections import Counter

import pytest

from internvl35.data.synthetic import FAMILIES, draw
from internvl35.data.synthetic.drawing import Pool, Turn
from internvl35.data.synthetic.sums.arithmetic import (
    GAIN_WORDINGS,
    GROUP_WORDINGS,
    LOSS_WORDINGS,
    explain_difference,
    explain_sum,
)

ARITHMETIC = FAMILIES["arithmetic"]


def _turns(num: int, split: str = "test", level: float = 1.0) -> list[Turn]:
    return [turn for index in range(num) for turn in draw("arithmetic", split, index, level).turns]


def _check_steps(steps: str, result: int) -> None:
    """Every step must hold, begin with the result before it, and the last give the result."""
    before = None
    for step in steps.split("; "):
        left, sign, right, end = re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)", step).groups()
        assert before in (None, left)
        a, b = int(left), int(right)
        assert int(end) == {"+": a + b, "-": a - b, "*": a * b}[sign]
        before = end
    assert before == str(result)


def _is_of(question: str, pool: Pool[str]) -> bool:
    return any(
        re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(wording)), question)
        for wording in (*pool.seen, *pool.kept)
    )


def test_sums_over_tens_are_explained_in_steps_that_hold() -> None:
    for a in range(100):
        for b in range(10):
            _check_steps(explain_sum(a, b), a + b)
            if b <= a:
                _check_steps(explain_difference(a, b), a - b)
    assert explain_sum(27, 5) == "27 + 3 = 30; 30 + 2 = 32"
    assert explain_difference(32, 5) == "32 - 2 = 30; 30 - 3 = 27"


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_reckoning_from_the_question_gives_the_answer(level: float) -> None:
    for turn in _turns(600, level=level):
        numbers = [int(number) for number in re.findall(r"\d+", turn.question)]
        assert len(numbers) == 2
        high, low = max(numbers), min(numbers)
        if turn.kind == "word problem":
            kind = [_is_of(turn.question, p) for p in (GAIN_WORDINGS, LOSS_WORDINGS)]
            kind.append(_is_of(turn.question, GROUP_WORDINGS))
            assert sum(kind) == 1
            expected = (high + low, high - low, high * low)[kind.index(True)]
        else:
            expected = {"plus": high + low, "minus": high - low, "times": high * low}[turn.kind]
        assert turn.answer == str(expected)
        _check_steps(turn.reasoning, expected)


def test_all_kinds_occur_and_answers_are_spread() -> None:
    answers: dict[str, Counter[str]] = {}
    for turn in _turns(1500):
        answers.setdefault(turn.kind, Counter())[turn.answer] += 1
    assert set(answers) == {"plus", "minus", "times", "word problem"}
    for counts in answers.values():
        assert counts.most_common(1)[0][1] / counts.total() < 0.12
        assert min(map(int, counts)) >= 0


def test_the_times_table_is_asked_to_nine_times_nine() -> None:
    asked = {
        tuple(map(int, re.findall(r"\d+", turn.question)))
        for turn in _turns(4000, "train")
        if turn.kind == "times"
    }
    assert asked == {(a, b) for a in range(1, 10) for b in range(1, 10)}


def test_a_low_level_has_small_numbers() -> None:
    easy, hard = (
        max(int(turn.answer) for turn in _turns(200, level=level)) for level in (0.0, 1.0)
    )
    assert easy <= 16 < hard


def test_a_number_in_words_is_right_and_two_numbers_are_not() -> None:
    turn = Turn("3 + 4 = ?", "7", "plus")
    for right in ("7", "seven", "It is 7.", "7.0"):
        assert ARITHMETIC.score(turn, right) == {"right": 1.0}
    for wrong in ("", "8", "7 or 8", "seventy", "nan", "1e999", "9" * 5000):
        assert ARITHMETIC.score(turn, wrong) == {"right": 0.0}
