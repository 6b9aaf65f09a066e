import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from internvl35.data.synthetic import FAMILIES, Drawing, Mark, Split, Turn, draw
from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.printed.receipts import ITEMS, MAX_ITEMS

NUM = 300
NTHS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


@cache
def _drawn(split: Split = "test", level: float = 1.0, num: int = NUM) -> tuple[Drawing, ...]:
    return tuple(draw("receipts", split, index, level) for index in range(num))


def _rows(marks: Sequence[Mark]) -> list[tuple[str, str]]:
    """Names and prices from top to bottom, told apart by where ink is missing."""
    rows: list[list[Mark]] = [[]]
    for mark in marks:
        if rows[-1] and mark.box[0] < rows[-1][-1].box[0] - 8:
            rows.append([])
        rows[-1].append(mark)
    spelled = ["".join(mark.label.removeprefix("glyph:") for mark in row) for row in rows]
    parts = [re.fullmatch(r"(.*?)(\$?\d+\.\d\d)?", text) for text in spelled]
    return [(part[1], part[2] or "") for part in parts if part is not None]


def test_the_marks_hold_every_answer() -> None:
    kinds: Counter[str] = Counter()
    for drawing in _drawn():
        rows = _rows(drawing.marks[0])
        lines = [name + price for name, price in rows]
        items = [row for row in rows[:-1] if row[1]]
        by_name = {name.lower(): price for name, price in items}
        assert len(by_name) == len(items)
        for turn in drawing.turns:
            kinds[turn.kind] += 1
            said = turn.answer.replace(" ", "")
            if turn.kind == "receipt item":
                (name,) = set(re.findall("[a-z]+", turn.question)) & set(by_name)
                assert said == by_name[name]
            elif turn.kind == "receipt what":
                assert by_name[turn.answer.lower()] in turn.question
            elif turn.kind == "receipt total":
                assert said == rows[-1][1]
            elif turn.kind == "receipt count":
                assert said == str(len(items))
            elif turn.kind == "receipt line":
                nth = next((word for word in NTHS if f"{word} line" in turn.question), "last")
                assert said == lines[NTHS.index(nth) if nth in NTHS else -1]
            else:
                assert said.split("\n") == lines
    assert set(kinds) == {
        f"receipt {kind}" for kind in ("item", "what", "total", "count", "line", "all")
    }
    assert min(kinds.values()) > 20


def test_the_total_is_the_sum_and_no_two_items_cost_the_same() -> None:
    for drawing in _drawn():
        prices = [
            round(100 * float(price.lstrip("$"))) for _, price in _rows(drawing.marks[0]) if price
        ]
        assert sum(prices[:-1]) == prices[-1]
        assert len(set(prices)) == len(prices)


def test_receipts_have_two_to_five_items_about_equally_often() -> None:
    nums = Counter(
        sum(bool(price) for _, price in _rows(drawing.marks[0])) - 1 for drawing in _drawn()
    )
    assert set(nums) == set(range(2, MAX_ITEMS + 1))
    assert max(nums.values()) < 0.36 * NUM


def test_prices_end_at_one_edge_and_names_begin_at_another() -> None:
    for drawing in _drawn()[:100]:
        price_ends, name_starts = [], []
        row: list[Mark] = []
        for mark in (*drawing.marks[0], None):
            if row and (mark is None or mark.box[0] < row[-1].box[0] - 8):
                if row[-1].label[-1].isdigit():
                    price_ends.append(row[-1].box[2])
                    name_starts.append(row[0].box[0])
                row = []
            if mark is not None:
                row.append(mark)
        assert max(price_ends) - min(price_ends) <= 1
        assert max(name_starts) - min(name_starts) <= 6  # letters have bearings


def test_nothing_is_cut_off_and_all_is_legible_in_one_tile() -> None:
    for drawing in _drawn()[:150]:
        pixels = np.asarray(drawing.images[0]).astype(int)
        ink = np.abs(pixels - pixels[0, 0]).max(axis=2) > 30
        assert not np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]]).any()
        height = drawing.images[0].height
        for mark in drawing.marks[0]:
            if re.fullmatch("glyph:[A-Z]", mark.label):
                assert (mark.box[3] - mark.box[1]) * TILE_SIZE / height >= 8


def test_items_kept_for_the_test_are_bought_nowhere_else() -> None:
    for drawing in _drawn("train", num=100):
        names = {name.lower() for name, _ in _rows(drawing.marks[0])}
        assert not names & set(ITEMS.kept)
    shown = {name.lower() for drawing in _drawn() for name, _ in _rows(drawing.marks[0])}
    assert len(shown & set(ITEMS.kept)) > 10
    assert not set(ITEMS.seen) & set(ITEMS.kept)


def test_a_whole_receipt_is_read_only_when_it_is_short() -> None:
    whole = [turn.answer for d in _drawn() for turn in d.turns if turn.kind == "receipt all"]
    assert all(len(text.split("\n")) <= 4 for text in whole)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Milk 1.20\nTotal 1.20", 1.0), ("Milk 1.20 Total 1.20", 1.0), ("Milk 1.20", 0.0)],
)
def test_line_ends_count_as_blanks(answer: str, right: float) -> None:
    turn = Turn("Read all lines.", "Milk 1.20\nTotal 1.20", "receipt all")
    assert FAMILIES["receipts"].score(turn, answer)["right"] == right
