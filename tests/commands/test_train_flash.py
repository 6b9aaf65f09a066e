"""``internvl35 train flash``: what is typed becomes a recipe, and its page names what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.main import get_command

from internvl35 import cli
from internvl35.train import flash_recipe

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "train-flash.md"


def flags_of(*path):
    command = get_command(cli.app)
    for name in path:
        command = command.commands[name]
    return {flag for parameter in command.params for flag in parameter.opts}


def test_what_is_typed_becomes_the_recipe_of_the_run_folder(run, tmp_path, monkeypatch):
    seen = []

    def pretend(folder, recipe, on_row):
        seen.append((folder, recipe))
        on_row()
        return folder / "checkpoint"

    monkeypatch.setattr(flash_recipe, "make_flash", pretend)
    folder = tmp_path / "run"
    arguments = ["train", "flash", "--output-dir", folder]
    code, out, err = run(*arguments, "--model", "mine", "--set", "num_rows=7")
    assert code == 0, err
    assert out == f"checkpoint: {folder / 'checkpoint'}\n"
    assert seen == [(folder, flash_recipe.FlashRecipe(model="mine", num_rows=7))]
    assert json.loads((folder / "recipe.json").read_text())["model"] == "mine"
    code, _, err = run(*arguments)  # what the folder holds stands in for the defaults
    assert code == 0, err
    assert seen[0] == seen[1]
    code, _, err = run(*arguments, "--set", "num_rows=8")
    assert code == 2
    assert "num_rows is 8 but the run" in err


def test_its_page_names_only_options_that_there_are():
    named = set(re.findall(r"--[a-z][a-z0-9-]*", PAGE.read_text(encoding="utf-8")))
    benchmarks = {"--run"}
    assert flags_of("train", "flash") - {"--help", "-m"} <= named
    assert named <= flags_of("train", "flash") | flags_of("data", "draw") | benchmarks
