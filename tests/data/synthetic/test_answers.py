"""How short answers count."""

import pytest

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.drawing import Turn


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("3", "3", 1),
        ("3", "There are 3.", 1),
        ("3", "3.0", 1),
        ("3", "30", 0),
        ("3", "3 or 4", 0),
        ("3", "", 0),
        ("the red star", "Red star", 1),
        ("the red star", "the red stars", 0),
        ("yes", "Yes.", 1),
        ("yes", "yes or no", 0),
    ],
)
def test_numbers_count_by_value_and_names_by_their_words(
    expected: str, answer: str, right: int
) -> None:
    assert score_short(Turn("", expected, ""), answer) == {"right": right}
