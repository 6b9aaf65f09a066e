"""The training run of the embedded checkpoint: how much it saw, how fast, and its curve.

Reads the stages of a run folder and writes ``results/tiny_training.json`` and
``results/tiny_training.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.record import RESULTS, write_result
from internvl35.commands.recipe import RECIPE_FILE, read_recipe
from internvl35.train.plots import plot_curve
from internvl35.train.tiny.recipe import STAGES, TinyRecipe
from internvl35.train.tiny.run import read_curve

CURVE_POINTS = 40
"""Points of the curve that are kept."""

NAMES = ("loss", "token_acc", "patch_loss", "patch_acc")
"""Figures whose means are kept."""


def main() -> None:
    """Keep the curve of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="run folder of internvl35 train tiny")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.folder / RECIPE_FILE, TinyRecipe)
    lines = read_curve(arguments.folder, recipe)
    plot_curve(lines, RESULTS / "tiny_training.png")
    figures = {
        "samples": lines[-1]["samples"],
        "stages": {
            name: describe_stage([line for line in lines if line["stage"] == name], recipe)
            for name in STAGES
            if any(line["stage"] == name for line in lines)
        },
        "curve": shorten([line for line in lines if "loss" in line]),
    }
    Console().print(write_result("tiny_training", figures))


def describe_stage(lines: Sequence[Mapping[str, Any]], recipe: TinyRecipe) -> dict[str, Any]:
    """Sum one stage up: drawings seen, and what the last lines came to."""
    last = [line for line in lines if "loss" in line][-5:]
    told = {"samples": max(line["step"] for line in lines) * recipe.samples_per_step}
    return told | _means(last)


def shorten(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average the figures of neighbouring lines; the count of samples is the last one's."""
    width = max(1, len(lines) // CURVE_POINTS)
    parts = [lines[start : start + width] for start in range(0, len(lines), width)]
    return [{"samples": part[-1]["samples"]} | _means(part) for part in parts]


def _means(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {name: [line[name] for line in lines if name in line] for name in NAMES}
    return {k: round(sum(values) / len(values), 4) for k, values in found.items() if values}


if __name__ == "__main__":
    main()
