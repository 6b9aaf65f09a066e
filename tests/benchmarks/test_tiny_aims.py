"""Aims of the embedded checkpoint against what was measured."""

from __future__ import annotations

import pytest
from benchmarks.tiny_aims import AIMS, Aim, judge

from internvl35.data.synthetic import FAMILIES
from internvl35.evals.drawn import Answered
from internvl35.evals.drawn_figures import answer_figures


def answers(*found):
    return answer_figures(
        [
            Answered("any", 0, kind, "x", {"right": right, "iou": 0.5}, frozenset(unseen), 1)
            for kind, right, unseen in found
        ]
    )


MEASURED = {
    "any": {
        "direct": answers(
            ("point text", 1, ()), ("point text", 1, ()), ("point icon", 0, ["font"]),
            ("count", 0, ["font"]),
        ),
        "thinking": answers(("count", 1, ())),
    }
}  # fmt: skip


@pytest.mark.parametrize(
    ("aim", "value"),
    [
        (Aim("any", 0.5), 0.5),
        (Aim("any", 0.5, figure="iou"), 0.5),
        (Aim("any", 0.5, kind="point"), 2 / 3),
        (Aim("any", 0.5, kind="point icon"), 0),
        (Aim("any", 0.5, unseen="font"), 0),
        (Aim("any", 0.5, unseen="icon"), None),
        (Aim("any", 0.5, mode="thinking"), 1),
        (Aim("any", 0.5, mode="either"), 1),
        (Aim("any", 0.5, figure="valid"), None),
        (Aim("other", 0.5), None),
    ],
)
def test_an_aim_finds_its_figure(aim, value):
    (verdict,) = judge(MEASURED, (aim,))
    assert verdict.value == (None if value is None else pytest.approx(value))
    assert verdict.is_reached == (value is not None and value >= 0.5)


def test_an_aim_says_what_is_meant():
    assert str(Aim("reading", 0.8, unseen="font")) == "reading unseen font right"
    assert str(Aim("sums", 0.8, mode="either")) == "sums (either) right"


@pytest.mark.parametrize("aim", AIMS, ids=str)
def test_every_aim_is_about_something_that_is_drawn(aim):
    assert aim.family in FAMILIES
