"""The worked example on formulas: what is read from docstrings, and what rows it becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.dataset_settings import DatasetSettings
from internvl35.data.mixture import select_records
from internvl35.data.tiles import count_tiles

EXAMPLE = Path(__file__).parents[2] / "examples" / "latex_ocr"
NAMES = ("formulas", "latex", "pictures", "make_data", "compare")

SOURCE = '''
"""The :math:`\\\\sigma` of $x$ costs $5 and $6.

.. math::

    y &= x ^ {2} \\\\\\\\
    z &= \\\\dfrac 1 2 ,

That is all.
"""
'''


@pytest.fixture(scope="module")
def example() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        modules: dict[str, ModuleType] = {name: import_module(name) for name in NAMES}
        yield SimpleNamespace(**modules)


def canonical(example, text):
    return example.latex.write_formula(example.latex.read_formula(text))


@pytest.mark.parametrize(
    ("found", "written"),
    [
        (r"x ^ { 2 } _ i", "x_i^2"),
        (r"\left( \dfrac 1 2 \right) \, x", r"(\frac{1}{2})x"),
        (r"a \le b,", r"a\leq b"),
        (r"f''^{ab}", r"f''^{ab}"),
        (r"{x}_{ij}", "x_{ij}"),
        (r"{\left(a + b\right)}^2", "{(a+b)}^2"),
        (r"\sqrt x + \hat{\beta}", r"\sqrt{x}+\hat{\beta}"),
    ],
)
def test_spellings_of_one_picture_become_one(example, found, written):
    assert canonical(example, found) == written


@pytest.mark.parametrize("text", ["x^", "{x", "x}", "_2", "a^b^c", r"\begin{x}", r"\sqrt[3]{x}"])
def test_what_is_no_formula_is_refused(example, text):
    with pytest.raises(example.latex.LatexError):
        example.latex.read_formula(text)


_LEAVES = st.sampled_from(["x", "2", r"\alpha", r"\infty", "+", "(", ")", "'"])
_TEXTS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"{{{pair[0]}}}_{{{pair[1]}}}"),
        st.tuples(inner, inner).map(lambda pair: f"x^{{{pair[0]}}}{pair[1]}"),
        st.tuples(inner, inner).map(lambda pair: f"\\frac{{{pair[0]}}}{{{pair[1]}}}"),
        inner.map(lambda text: f"\\sqrt{{{text}}} "),
    ),
    max_leaves=8,
)


@given(text=_TEXTS)
def test_the_canonical_form_is_its_own_canonical_form(example, text):
    try:
        written = canonical(example, text.replace(r"\alphax", r"\alpha x"))
    except example.latex.LatexError:
        return
    assert canonical(example, written) == written


def test_parts_are_balanced_and_end_where_a_term_ends(example):
    tree = example.latex.read_formula(r"f(x)=10+\frac{a}{b}")
    parts = {example.latex.write_formula(part) for part in example.latex.list_parts(tree, 10)}
    assert {"f(x)", "f(x)=10", "10", "(x)", "x", "a", "b", r"10+\frac{a}{b}"} <= parts
    assert not parts & {"f(", "x)", "=10", "1", "0", "f(x)=", "f(x)=1"}


def test_formulas_are_found_in_texts_of_python_files(example, tmp_path):
    file = tmp_path / "module.py"
    file.write_text(SOURCE, encoding="utf-8")
    found = list(example.formulas.find_formulas("sympy", file))
    assert [canonical(example, text) for text in found if text] == [
        r"\sigma", "x", "y=x^2", r"z=\frac{1}{2}",
    ]  # fmt: skip
    file.write_text("no python :math:`x`", encoding="utf-8")
    assert list(example.formulas.find_formulas("sympy", file)) == []


def test_words_and_code_are_left_out(example):
    kept = example.make_data.collect(["x+1", "some words", "x_{long}", "ab"])
    assert {formula.text for formula in kept if formula.kind == "whole"} == {"x+1", "ab"}


def test_no_formula_is_in_two_splits_and_the_seed_does_not_move_one(example):
    formulas = [example.make_data.Formula(f"x_{{{n}}}", "part") for n in range(3000)]
    splits = example.make_data.assign_splits(formulas, 1)
    texts = {name: {formula.text for formula in members} for name, members in splits.items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 3000
    assert 0.03 < len(texts["test"]) / 3000 < 0.05
    others = example.make_data.assign_splits(formulas[:100], 2)
    assert all(formula.text in texts[name] for name in others for formula in others[name])


def test_rows_are_read_as_a_data_set_and_their_pictures_show_the_formula(example, tmp_path):
    settings = example.make_data.DataSettings(tmp_path, min_size=18.0, max_size=18.0, max_columns=2)
    (tmp_path / "images" / "train").mkdir(parents=True)
    texts = ["x", r"\frac{a}{b}", "a+b=c+d+e+f+g", r"\unknown", "a=" * 60 + "a"]
    formulas = [example.make_data.Formula(text, "whole") for text in texts]
    rows = [example.make_data.draw_row(formula, "train", settings) for formula in formulas]
    assert rows[3:] == [None, None]
    example.make_data._write_rows(tmp_path / "train.jsonl", rows[:3])
    records, _ = select_records(
        DatasetSettings(dataset=(str(tmp_path / "train.jsonl"),), dataset_shuffle=False)
    )
    assert [record.messages[-1].text for record in records] == texts[:3]
    tiles = TileSettings(tile_size=112, max_tiles=4)  # of the embedded checkpoint
    for record, row in zip(records, rows, strict=False):
        with Image.open(record.images[0]) as image:
            levels = np.asarray(image.convert("L"), dtype=int)
        assert levels.max() - levels.min() > 60
        assert levels.shape == (112, 112 * row["tiles"])
        assert count_tiles(levels.shape[1], levels.shape[0], tiles) == (1, 3)[row["tiles"] - 1]


def test_the_same_formula_and_seed_give_the_same_picture(example, tmp_path):
    names = set()
    for folder in ("one", "two"):
        (tmp_path / folder / "images" / "val").mkdir(parents=True)
        settings = example.make_data.DataSettings(tmp_path / folder)
        row = example.make_data.draw_row(example.make_data.Formula("x^2", "part"), "val", settings)
        names.add((row["images"][0], (tmp_path / folder / row["images"][0]).read_bytes()))
    assert len(names) == 1


def test_answers_before_and_after_are_paired_by_their_picture(example, tmp_path):
    Image.new("L", (112, 112), 255).save(tmp_path / "x.png")
    files = {}
    for name, response in (("before", "STOP"), ("after", "x^2")):
        files[name] = tmp_path / f"{name}.jsonl"
        line = {"response": response, "labels": "x^2", "images": ["x.png"]}
        files[name].write_text(json.dumps(line) + "\n", encoding="utf-8")
    rows = example.compare.pair(*(example.compare.read_answers(file) for file in files.values()))
    assert rows == [("x.png", "x^2", "STOP", "x^2")]
    table = np.asarray(example.compare.draw_table(rows, tmp_path)).astype(int)
    is_green = (table[..., 1] - table[..., 0] > 60).any(axis=0)
    is_red = (table[..., 0] - table[..., 1] > 60).any(axis=0)
    width = table.shape[1] // 4
    assert is_green[3 * width :].any()
    assert not is_green[: 3 * width].any()
    assert is_red[2 * width : 3 * width].any()
    assert not is_red[3 * width :].any()
