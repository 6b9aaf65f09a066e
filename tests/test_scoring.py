from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.errors import ConfigError
from internvl35.scoring import (
    METRICS,
    edit_distance,
    exact_match,
    extract_number,
    normalize_answer,
    pass_at_k,
    rouge_l,
    rouge_n,
    rouge_tokens,
    score_answers,
    wilson_interval,
)


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


WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat"]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The cat sat.", ["the", "cat", "sat", "."]),
        (r"\frac { x_1 } 2", ["\\", "frac", "{", "x", "_", "1", "}", "2"]),
        ("红色圆形 ok", ["红", "色", "圆", "形", "ok"]),
        ("  \n", []),
    ],
)
def test_words_chinese_characters_and_marks_are_tokens(text: str, tokens: list[str]) -> None:
    assert rouge_tokens(text) == tokens


@pytest.mark.parametrize(
    ("expected", "answer", "values"),
    [
        # 3 of 3 and 3 of 6 words; 2 of 2 and 2 of 5 pairs; the common subsequence has 3
        ("the cat sat on the mat", "the cat sat", (2 / 3, 4 / 7, 2 / 3)),
        # words agree, no pair does, and only one word is in order
        ("b a", "a b", (1.0, 0.0, 0.5)),
        # "the" counts once, as often as the shorter text has it
        ("the", "the the the", (0.5, 0.0, 0.5)),
        # 3 of 4 characters; 1 of 3 pairs; the subsequence has 3
        ("红色圆形", "红圆形", (6 / 7, 2 / 5, 6 / 7)),
        ("cat", "dog", (0.0, 0.0, 0.0)),
        ("", "", (1.0, 1.0, 1.0)),
        ("cat", "", (0.0, 0.0, 0.0)),
        ("Cat", "cat", (1.0, 1.0, 1.0)),
    ],
)
def test_rouge_equals_what_is_counted_by_hand(
    expected: str, answer: str, values: tuple[float, float, float]
) -> None:
    found = (rouge_n(expected, answer, 1), rouge_n(expected, answer, 2), rouge_l(expected, answer))
    assert found == pytest.approx(values)


def longest_common(first: Sequence[object], second: Sequence[object]) -> int:
    """The textbook table, row by row."""
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, left in enumerate(first, 1):
        for j, right in enumerate(second, 1):
            longest = max(table[i - 1, j], table[i, j - 1])
            table[i, j] = table[i - 1, j - 1] + 1 if left == right else longest
    return int(table[-1, -1])


def num_edits(first: str, second: str) -> int:
    """The textbook table, row by row."""
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    table[:, 0], table[0] = np.arange(len(first) + 1), np.arange(len(second) + 1)
    for i, left in enumerate(first, 1):
        for j, right in enumerate(second, 1):
            changed = table[i - 1, j - 1] + (left != right)
            table[i, j] = min(changed, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return int(table[-1, -1])


@given(WORDS, WORDS)
def test_rouge_l_equals_the_plain_table(expected: str, answer: str) -> None:
    wanted, found = expected.split(), answer.split()
    if not wanted or not found:
        value = float(wanted == found)
    else:
        common = longest_common(wanted, found)
        precision, recall = common / len(found), common / len(wanted)
        value = 2 * precision * recall / (precision + recall) if common else 0.0
    assert rouge_l(expected, answer) == pytest.approx(value)


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_the_edit_distance_equals_the_plain_table(expected: str, answer: str) -> None:
    longest = max(len(expected), len(answer), 1)
    assert edit_distance(expected, answer) == pytest.approx(num_edits(expected, answer) / longest)


def test_the_edit_distance_of_kitten_and_sitting() -> None:
    assert edit_distance("sitting", " kitten\n") == pytest.approx(3 / 7)


@given(WORDS, WORDS, st.integers(1, 3))
def test_rouge_is_a_share_that_does_not_depend_on_the_order(a: str, b: str, n: int) -> None:
    assert 0 <= rouge_n(a, b, n) <= 1
    assert rouge_n(a, b, n) == rouge_n(b, a, n)
    assert rouge_n(a, a, n) == 1


def test_answers_are_summed_up() -> None:
    scores = score_answers(["three", "cat", "A b"], ["3", "dog", "A b "], METRICS)
    assert scores["acc"].mean == pytest.approx(2 / 3)
    assert scores["acc"].interval == wilson_interval(2, 3)
    assert scores["exact_match"].mean == pytest.approx(1 / 3)
    assert scores["exact_match"].interval == wilson_interval(1, 3)
    assert scores["rouge-1"].mean == scores["rouge-l"].mean == pytest.approx(1 / 3)
    assert scores["rouge-1"].interval is None
    assert scores["edit_distance"].mean == pytest.approx(2 / 3)  # five of five, three of three, 0
    assert scores["edit_similarity"].mean == pytest.approx(1 / 3)
    assert {score.num_answers for score in scores.values()} == {3}
    assert list(score_answers(["a"], ["a"], ["acc"])) == ["acc"]
    assert score_answers([], [], METRICS) == {}


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric 'bleu' is unknown; known: acc, exact_match, rou"):
        score_answers(["a"], ["a"], ["bleu"])  # type: ignore[list-item]


def test_the_chance_that_one_of_k_answers_is_right():
    assert pass_at_k(8, 2, 1) == pytest.approx(2 / 8)
    assert pass_at_k(8, 2, 2) == pytest.approx(1 - 6 / 8 * 5 / 7)  # drawn without putting back
    assert (pass_at_k(8, 0, 8), pass_at_k(8, 1, 8), pass_at_k(8, 5, 4)) == (0, 1, 1)


@pytest.mark.parametrize(("n", "c", "k"), [(8, 9, 1), (8, -1, 1), (8, 1, 9), (8, 1, 0)])
def test_a_chance_of_impossible_counts_is_refused(n, c, k):
    with pytest.raises(ValueError, match="needed"):
        pass_at_k(n, c, k)
