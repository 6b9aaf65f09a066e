"""Drawings made larger."""

from __future__ import annotations

import numpy as np

from internvl35.data.synthetic import draw
from internvl35.data.synthetic.enlarging import enlarge


def test_pictures_and_marks_grow_alike_and_nothing_else_changes() -> None:
    small = draw("counting", "train", 3)
    large = enlarge(small, 2.0)
    (before,), (after,) = small.images, large.images
    assert after.size == (2 * before.width, 2 * before.height)
    assert large.turns == small.turns
    for old, new in zip(small.marks[0], large.marks[0], strict=True):
        assert new.label == old.label
        assert new.box == tuple(2 * edge for edge in old.box)
        x, y = (round((old.box[i] + old.box[i + 2]) / 2) for i in (0, 1))
        colours = np.asarray(before)[y, x].astype(int), np.asarray(after)[2 * y, 2 * x].astype(int)
        assert np.abs(colours[0] - colours[1]).max() < 12
