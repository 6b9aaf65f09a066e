import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.scoring import exact_match, extract_number, normalize_answer, wilson_interval


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  A red  circle. ", "red circle"),
        ("Three", "3"),
        ("the number twenty", "number 20"),
        ("RED", "red"),
        ("a", "a"),
        ("", ""),
    ],
)
def test_an_answer_is_reduced_to_what_matters(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@given(st.text(max_size=30))
def test_normalizing_twice_changes_nothing_for_words(text: str) -> None:
    words = " ".join(part for part in text.split() if part.isalnum())
    once = normalize_answer(words)
    assert normalize_answer(once) == once


@pytest.mark.parametrize(
    ("expected", "answer", "is_equal"),
    [
        ("a red circle", "A red circle.", True),
        ("a red circle", "red circle", True),
        ("a red circle", "a red square", False),
        ("3", "three", True),
        ("3", "3 circles", False),
    ],
)
def test_words_are_compared_without_case_and_articles(
    expected: str, answer: str, is_equal: bool
) -> None:
    assert exact_match(expected, answer) is is_equal


@pytest.mark.parametrize(
    ("expected", "answer", "is_equal"),
    [
        ("TIGER", " TIGER.\n", True),
        ("TIGER", "tiger", False),
        ("ONE", "1", False),
        ("A", "A", True),
        ("A", "THE", False),
        ("408", "0408", False),
    ],
)
def test_a_literal_comparison_forgives_only_space_and_a_full_stop(
    expected: str, answer: str, is_equal: bool
) -> None:
    assert exact_match(expected, answer, is_literal=True) is is_equal


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("There are three.", 3),
        ("Three circles, that is 3.", 3),
        ("-2.5 degrees", -2.5),
        ("2-3", None),
        ("3 or 4", None),
        ("none", None),
        ("B52", None),
        ("3.14b", None),
        ("someone", None),
        ("7.", 7),
    ],
)
def test_a_number_is_found_only_if_it_is_the_only_one(text: str, number: float | None) -> None:
    assert extract_number(text) == number


@pytest.mark.parametrize(
    ("num_right", "num_total", "low", "high"),
    [  # solutions of |p - rate| = z * sqrt(p * (1 - p) / n), the interval's definition, by hand
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (81, 263, 0.255288, 0.366216),
    ],
)
def test_wilson_interval_has_its_known_values(
    num_right: int, num_total: int, low: float, high: float
) -> None:
    assert wilson_interval(num_right, num_total) == pytest.approx((low, high), abs=2e-5)


@given(st.integers(1, 5000), st.data())
def test_both_ends_of_the_wilson_interval_solve_its_definition(
    num_total: int, data: st.DataObject
) -> None:
    num_right = data.draw(st.integers(0, num_total))
    rate = num_right / num_total
    low, high = wilson_interval(num_right, num_total, z=2.0)
    assert 0 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert (rate - end) ** 2 == pytest.approx(4 * end * (1 - end) / num_total, abs=1e-9)


@pytest.mark.parametrize(("num_right", "num_total"), [(0, 0), (3, 2), (-1, 5)])
def test_an_impossible_tally_is_refused(num_right: int, num_total: int) -> None:
    with pytest.raises(ValueError, match=f"{num_right} right of {num_total}"):
        wilson_interval(num_right, num_total)
