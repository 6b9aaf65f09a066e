"""``internvl35 recipes``: the list, one recipe, and JSON."""

from __future__ import annotations

import json

from internvl35.config import PRESETS
from internvl35.train.arguments import build_settings, flatten_settings
from internvl35.train.recipes import find_recipe, list_recipes


def test_the_list_has_a_line_a_recipe_within_80_columns(run):
    code, out, _ = run("recipes")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    for recipe in list_recipes():
        assert sum(line.split()[:1] == [recipe.name] for line in lines) == 1
    row = next(line.split() for line in lines if line.startswith("8B-sft"))
    assert row == ["8B-sft", "sft", "8e-05", "8000", "512", "0.1", "134B"]
    row = next(line.split() for line in lines if line.startswith("8B-lora"))
    assert row == ["8B-lora", "sft", "1e-04", "-", "16", "0.0", "-"]


def test_one_recipe_shows_every_setting_and_marks_its_own(run):
    code, out, _ = run("recipes", "8B-sft")
    assert code == 0
    recipe = find_recipe("8B-sft")
    rows = [line.split(maxsplit=2) for line in out.splitlines()]
    marked = {row[1] for row in rows if row and row[0] == "*" and row[1] != "set"}
    assert marked == set(recipe.settings)
    for name in flatten_settings(recipe.build()):
        assert any(name in line.split()[:2] for line in out.splitlines()), name
    assert "* learning_rate                  8e-05" in out


def test_json_holds_settings_that_can_be_used(run):
    code, out, _ = run("recipes", "--json")
    assert code == 0
    rows = json.loads(out)
    assert len(rows) == 3 * len(PRESETS) + 1
    for row in rows:
        assert build_settings(row["settings"]) == find_recipe(row["name"]).build()
    code, out, _ = run("recipes", "1B-lora", "--json")
    assert json.loads(out)["name"] == "1B-lora"


def test_an_unknown_recipe_exits_2(run):
    code, out, err = run("recipes", "8B-stf")
    assert (code, out) == (2, "")
    assert "did you mean 8B-sft?" in err
