"""Figures that pages name with their place in a file of results are those of the file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIGURE = re.compile(r"(-?[\d.]+)<!-- ([\w.]+\.json): (.+?) -->")
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if FIGURE.search(page.read_text(encoding="utf-8"))
]


def look_up(found: object, path: str) -> float:
    for step in path.split(" > "):
        assert isinstance(found, dict | list), path
        found = found[int(step)] if isinstance(found, list) else found[step]
    assert isinstance(found, int | float), path
    return float(found)


def test_the_page_on_the_engine_is_among_them():
    engine = ROOT / "docs" / "explain" / "engine.md"
    assert engine in PAGES
    assert len(FIGURE.findall(engine.read_text(encoding="utf-8"))) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_figures_are_those_of_the_files(page):
    for told, file, path in FIGURE.findall(page.read_text(encoding="utf-8")):
        content = json.loads((ROOT / "benchmarks" / "results" / file).read_text(encoding="utf-8"))
        assert float(told) == look_up(content, path), path
