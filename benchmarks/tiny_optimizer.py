"""What the tower of the embedded checkpoint learns in its first steps under Muon and under AdamW.

All see the same drawings in the same order, one seed each, so a small difference says nothing.
Writes ``results/tiny_optimizer.json``: share of patches named right after as many drawings.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from benchmarks.record import write_result
from internvl35.train.tiny.recipe import TinyRecipe
from internvl35.train.tiny.run import TinyRun, read_curve

RUNS: tuple[tuple[str, Literal["adamw", "muon"], float], ...] = (
    ("AdamW 1e-3", "adamw", 1e-3),
    ("AdamW 2e-3", "adamw", 2e-3),
    ("Muon 2e-3", "muon", 2e-3),
    ("Muon 4e-3", "muon", 4e-3),
)


def main() -> None:
    """Train each for a few steps and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="steps of 48 drawings")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shares: dict[str, float] = {}
    for name, optimizer, rate in RUNS:
        recipe = TinyRecipe(optimizer=optimizer)
        stage = replace(
            recipe.tower, num_steps=arguments.steps, learning_rate=rate, decay_share=0.2
        )
        recipe = replace(recipe, tower=stage)
        with tempfile.TemporaryDirectory() as folder:
            TinyRun(Path(folder), recipe).execute("tower")
            last = [line["patch_acc"] for line in read_curve(Path(folder), recipe)][-3:]
        shares[name] = round(sum(last) / len(last), 4)
        Console().print(f"{name}: {shares[name]:.1%}")
    num_drawings = arguments.steps * TinyRecipe().samples_per_step
    figures = {"drawings": num_drawings, "patches_right": shares}
    Console().print(write_result("tiny_optimizer", figures))


if __name__ == "__main__":
    main()
