"""Drawn tasks as a data set: what a row holds, and what a kill leaves behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from internvl35.data.drawn_rows import FIRST_PLACE, ROWS_FILE, DrawnRows, write_rows
from internvl35.data.synthetic import draw
from internvl35.errors import DataError

FAMILIES = ("counting", "several", "motion", "arithmetic")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_hold_the_questions_and_pictures_of_their_drawings(tmp_path):
    seen = []
    path = write_rows(tmp_path / "a", DrawnRows(8, FAMILIES), lambda: seen.append(1))
    rows = read(path)
    assert len(rows) == len(seen) == 8
    assert [row["family"] for row in rows] == [*FAMILIES, *FAMILIES]
    for number, row in enumerate(rows):
        drawing = draw(row["family"], "train", FIRST_PLACE + number // len(FAMILIES))
        said = [message["content"] for message in row["messages"]]
        assert said[1::2] == [turn.answer for turn in drawing.turns][: len(said) // 2]
        assert said[0].endswith(drawing.turns[0].question)
        assert said[0].count("<image>") == len(drawing.images) == len(row.get("images", ()))
        for name, image in zip(row.get("images", ()), drawing.images, strict=True):
            stored = np.asarray(Image.open(path.parent / name).convert("RGB"))
            assert np.array_equal(stored, np.asarray(image))


def test_a_factor_of_the_given_ones_is_drawn_for_every_row():
    rows, plain = DrawnRows(40, ("counting",), (1.0, 3.0)), DrawnRows(40, ("counting",))
    factors = [
        rows.drawing(number).images[0].width / plain.drawing(number).images[0].width
        for number in range(40)
    ]
    assert set(factors) == {1.0, 3.0}


def test_the_same_rows_are_drawn_every_time_and_another_seed_gives_others(tmp_path):
    texts = [
        write_rows(tmp_path / name, DrawnRows(4, ("counting",), seed=seed)).read_text()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_long_answers_end_a_row_but_never_the_first():
    rows = DrawnRows(1, ("counting",), max_answer_letters=1)
    drawing = draw("counting", "train", 3)
    assert len(drawing.turns) > 1
    assert rows.turns(drawing) == [drawing.turns[0]]
    assert DrawnRows(1, ("counting",), max_answer_letters=10**6).turns(drawing) == [*drawing.turns]


def test_a_killed_run_leaves_no_data_set_and_a_finished_one_is_not_overwritten(tmp_path):
    def die():
        raise KeyboardInterrupt

    rows = DrawnRows(2, ("counting",))
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path, rows, die)
    assert not (tmp_path / ROWS_FILE).exists()
    write_rows(tmp_path, rows)
    assert len(read(tmp_path / ROWS_FILE)) == 2
    with pytest.raises(DataError, match="is there already; remove it"):
        write_rows(tmp_path, rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"families": ("cats",)}, "families cats cannot be drawn; there are reading"),
        ({"families": ()}, "families none cannot be drawn"),
        ({"num_rows": 0}, "needed: at least 1, 1 and 0"),
        ({"factors": (0.0,)}, r"factors are \(0.0,\); needed: numbers from 0.1 to 20"),
        ({"split": "all"}, "split 'all' is unknown"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, said):
    with pytest.raises(DataError, match=said):
        DrawnRows(**changes)
