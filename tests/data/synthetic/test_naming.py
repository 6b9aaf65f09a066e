"""Articles and plurals of all that is drawn."""

import pytest

from internvl35.data.synthetic.labels import SHAPES
from internvl35.data.synthetic.naming import plural, with_article


@pytest.mark.parametrize(
    ("name", "named"),
    [("orange star", "an orange star"), ("arrow up icon", "an arrow up icon"), ("cup", "a cup")],
)
def test_a_vowel_follows_an_and_everything_else_a(name: str, named: str) -> None:
    assert with_article(name) == named


def test_plurals_are_those_of_a_dictionary() -> None:
    assert [plural(shape) for shape in SHAPES] == [
        "circles", "squares", "triangles", "stars", "diamonds", "crosses", "rectangles", "hearts",
    ]  # fmt: skip
    assert [plural(name) for name in ("checkbox", "radio button")] == [
        "checkboxes",
        "radio buttons",
    ]
