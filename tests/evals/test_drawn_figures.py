"""From answers to published figures."""

from __future__ import annotations

import json
import math
import random

import pytest

from internvl35.evals.drawn import Answered, Pace, Sampled
from internvl35.evals.drawn_figures import (
    answer_figures,
    calibration_figures,
    figure,
    mean_right,
    pace_figures,
    sampled_figures,
)


def answered(right, kind="count", unseen=(), probability=0.5, num_tokens=2, **scores):
    return Answered(
        "any", 0, kind, "x", {"right": float(right), **scores}, frozenset(unseen), num_tokens,
        math.log(probability),
    )  # fmt: skip


def test_a_share_has_wilsons_interval():
    # as statsmodels has it for 45 of 50
    assert figure([1.0] * 45 + [0.0] * 5) == {
        "value": 0.9, "low": 0.7864, "high": 0.9565, "n": 50,
    }  # fmt: skip


def test_a_mean_has_a_bootstrap_interval_about_as_wide_as_the_normal_one():
    rng = random.Random(0)
    values = [rng.random() for _ in range(400)]
    found = figure(values)
    half = 1.96 * (1 / 12 / 400) ** 0.5
    assert found["value"] == pytest.approx(0.5, abs=0.05)
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.15)
    assert found == figure(values)


def test_answers_are_taken_apart_by_kind_and_by_what_training_never_used():
    figures = answer_figures(
        [
            answered(1, "count"),
            answered(0, "count", ["font"]),
            answered(1, "colour", ["font", "wording"], iou=0.25),
            answered(1, "colour", ["wording"], iou=0.75),
        ]
    )
    assert figures["figures"]["right"]["value"] == 0.75
    assert (figures["figures"]["iou"]["value"], figures["figures"]["iou"]["n"]) == (0.5, 2)
    assert {k: v["right"]["value"] for k, v in figures["kinds"].items()} == {
        "colour": 1,
        "count": 0.5,
    }
    shares = {
        name: {part: (found["value"], found["n"]) for part, found in parts.items()}
        for name, parts in figures["unseen"].items()
    }
    assert shares == {
        "font": {"seen": (1, 2), "unseen": (0.5, 2)},
        "wording": {"seen": (0.5, 2), "unseen": (1, 2)},
    }
    json.dumps(figures, allow_nan=False)


def test_what_is_always_unseen_has_no_seen_part():
    assert set(answer_figures([answered(1, unseen=["icon"])])["unseen"]["icon"]) == {"unseen"}


def test_calibration_is_that_of_the_whole_answer():
    answers = [answered(1, probability=0.9), answered(0, probability=0.25)]
    figures = calibration_figures(answers, with_bins=True)
    assert figures["calibration_error"] == pytest.approx((0.1 + 0.25) / 2)
    assert (figures["auroc"], figures["token_auroc"]) == (1, 1)
    assert [held["n"] for held in figures["bins"]] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    json.dumps(figures, allow_nan=False)


def test_a_long_right_answer_is_less_probable_though_its_tokens_are_not():
    answers = [
        answered(1, probability=0.9**20, num_tokens=20),
        answered(0, probability=0.6, num_tokens=1),
    ]
    figures = calibration_figures(answers)
    assert (figures["auroc"], figures["token_auroc"]) == (0, 1)


def test_calibration_of_right_answers_alone_has_no_area():
    figures = calibration_figures([answered(1), answered(1, probability=1.0000001)])
    assert figures["auroc"] is None


def test_drawn_answers_tell_where_learning_has_room():
    figures = sampled_figures([Sampled("x", 8, 8), Sampled("x", 0, 8), Sampled("x", 2, 8)])
    values = {name: round(found["value"], 3) for name, found in figures.items()}
    assert values == {"pass@1": 0.417, "pass@8": 0.667, "mixed": 0.333}


def test_pace_and_means():
    assert pace_figures(Pace(10, 50, 2.0)) == {"pictures_per_s": 5, "tokens_per_s": 25}
    assert mean_right([answer_figures([answered(1)]), answer_figures([answered(0)])]) == 0.5
