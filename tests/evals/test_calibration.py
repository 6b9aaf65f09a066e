"""Probabilities of answers against their being right, on numbers worked out by hand."""

from __future__ import annotations

import random
from itertools import product

import pytest

from internvl35.evals.calibration import auroc, expected_calibration_error, reliability


def test_answers_fall_into_bins_of_equal_width():
    bins = reliability([0.05, 0.15, 0.19, 0.999, 1.0, 0.2], [False, True, False, True, True, True])
    assert [held.num_answers for held in bins] == [1, 2, 1, 0, 0, 0, 0, 0, 0, 2]
    assert bins[1].confidence == pytest.approx(0.17)
    assert [held.accuracy for held in bins[:3]] == [0, 0.5, 1]
    assert (bins[3].low, bins[3].high, bins[3].accuracy) == (0.3, 0.4, 0)


def test_the_calibration_error_is_the_weighted_gap():
    # three answers at 0.9 of which two are right, one at 0.3 that is wrong
    bins = reliability([0.9, 0.9, 0.9, 0.3], [True, True, False, False])
    assert expected_calibration_error(bins) == pytest.approx(
        3 / 4 * (0.9 - 2 / 3) + 1 / 4 * (0.3 - 0)
    )


def test_probabilities_that_mean_what_they_say_have_no_error():
    bins = reliability([0.75] * 4 + [0.5] * 2, [True, True, True, False, True, False])
    assert expected_calibration_error(bins) == pytest.approx(0)


def test_an_error_needs_answers():
    with pytest.raises(ValueError, match="at least one"):
        expected_calibration_error(reliability([], []))


@pytest.mark.parametrize(
    ("probabilities", "is_right", "expected"),
    [
        ([0.9, 0.8, 0.2], [True, True, False], 1.0),
        ([0.1, 0.8], [True, False], 0.0),
        ([0.5, 0.5, 0.5], [True, False, True], 0.5),
        # pairs (right, wrong): .9>.7, .9>.1, .7=.7, .7>.1, .3<.7, .3>.1 -> 4.5 of 6
        ([0.9, 0.7, 0.7, 0.3, 0.1], [True, True, False, True, False], 4.5 / 6),
        ([0.2, 0.3], [True, True], None),
        ([0.2, 0.3], [False, False], None),
    ],
)
def test_low_probabilities_give_wrong_answers_away(probabilities, is_right, expected):
    assert auroc(probabilities, is_right) == (None if expected is None else pytest.approx(expected))


def test_the_area_is_the_share_of_pairs_in_order():
    rng = random.Random(0)
    probabilities = [round(rng.random(), 1) for _ in range(80)]
    is_right = [rng.random() < p for p in probabilities]
    pairs = list(
        product(
            [p for p, r in zip(probabilities, is_right, strict=True) if r],
            [p for p, r in zip(probabilities, is_right, strict=True) if not r],
        )
    )
    share = sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
    assert auroc(probabilities, is_right) == pytest.approx(share)


@pytest.mark.parametrize("function", [reliability, auroc])
def test_what_is_no_probability_is_refused(function):
    with pytest.raises(ValueError, match="outside"):
        function([1.2], [True])
    with pytest.raises(ValueError, match="2 probabilities but 1"):
        function([0.2, 0.3], [True])
