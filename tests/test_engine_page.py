"""The page on the engine: its line counts are those of the files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "explain" / "engine.md").read_text(encoding="utf-8")
ROOM = ROOT / "src" / "internvl35" / "generate"
LINE_COUNT = re.compile(r"^\| `(\w+\.py)` \| ([\d,]+) \|", re.MULTILINE)


def count_lines(name: str) -> int:
    return len((ROOM / name).read_text(encoding="utf-8").splitlines())


def test_line_counts_are_right_to_a_tenth():
    told = {name: int(count.replace(",", "")) for name, count in LINE_COUNT.findall(PAGE)}
    assert len(told) > 15
    for name, count in told.items():
        assert count == pytest.approx(count_lines(name), rel=0.1, abs=10), name


def test_the_sum_is_that_of_the_files():
    names = [name for name, _ in LINE_COUNT.findall(PAGE)]
    (told,) = re.findall(r"\| together \| ([\d,]+) \|", PAGE)
    assert int(told.replace(",", "")) == pytest.approx(sum(map(count_lines, names)), rel=0.05)
