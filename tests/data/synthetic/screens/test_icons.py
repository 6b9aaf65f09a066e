from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from internvl35.data.synthetic.labels import ICONS
from internvl35.data.synthetic.screens.icons import (
    ICON_NAMES,
    ICON_STYLES,
    IconStyle,
    draw_icon,
    icon_mask,
)
from internvl35.data.synthetic.screens.screen_words import APP_LABELS, ICON_USES

STYLES = (*ICON_STYLES.seen, *ICON_STYLES.kept)


def _ink(name: str, style: IconStyle, size: int) -> NDArray[np.float64]:
    return np.asarray(icon_mask(name, style, size)) / 255


def test_every_icon_with_a_label_can_be_drawn_and_has_a_use() -> None:
    assert set(ICON_NAMES) == set(ICONS) == set(ICON_USES)
    assert set(APP_LABELS) <= set(ICONS)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_no_two_icons_look_alike_even_when_small(style: IconStyle) -> None:
    for one, other in combinations(ICON_NAMES, 2):
        first, second = _ink(one, style, 16), _ink(other, style, 16)
        assert np.abs(first - second).sum() > 0.15 * (first.sum() + second.sum()), (one, other)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
@pytest.mark.parametrize("name", ICON_NAMES)
def test_an_icon_fills_its_square_in_one_direction_at_least(name: str, style: IconStyle) -> None:
    rows, columns = np.nonzero(_ink(name, style, 32) > 0.3)
    assert max(np.ptp(rows), np.ptp(columns)) >= 20
    assert 0.05 < _ink(name, style, 32).mean() < 0.9


def test_styles_differ_in_ink() -> None:
    amounts = {
        style.name: np.mean([_ink(name, style, 24).mean() for name in ICON_NAMES])
        for style in STYLES
    }
    assert amounts["outline"] < amounts["thick"] < amounts["filled"]
    assert amounts["outline"] < amounts["duotone"] < amounts["filled"]


def test_an_arrow_turned_by_a_quarter_is_the_next_arrow() -> None:
    for style in STYLES:
        right = _ink("arrow right", style, 24)
        assert np.abs(np.rot90(right) - _ink("arrow up", style, 24)).mean() < 0.08
        assert np.abs(right - _ink("arrow left", style, 24)).mean() > 0.08


def test_marks_of_an_icon_enclose_its_ink() -> None:
    for name in ICON_NAMES:
        image = Image.new("RGB", (60, 50), (255, 255, 255))
        marks = draw_icon(image, name, STYLES[0], 22, (17, 9), (0, 0, 0))
        assert [mark.label for mark in marks] == ["part:icon", f"icon:{name}"]
        rows, columns = np.nonzero(np.asarray(image.convert("L")) < 200)
        left, top, right, bottom = marks[1].box
        assert (left, top, right, bottom) == (17, 9, 39, 31)
        assert left <= columns.min() <= columns.max() < right
        assert top <= rows.min() <= rows.max() < bottom


def test_every_use_belongs_to_one_icon_only() -> None:
    uses = [use for uses in ICON_USES.values() for use in uses]
    assert len(set(uses)) == len(uses)
    assert len(set(APP_LABELS.values())) == len(APP_LABELS)
