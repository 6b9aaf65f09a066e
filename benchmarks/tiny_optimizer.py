"""What the tower of the embedded checkpoint learns in its first rounds under Muon and under AdamW.

Both see the same pages in the same order, one seed each, so a small difference says nothing. Writes
``results/tiny_optimizer.json``: share of patches named right after the same number of pictures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.record import write_result
from internvl35.train.rounds import METRICS_FILE, RoundSettings
from internvl35.train.tiny import TinyRecipe, train_tiny

RUNS: dict[str, tuple[str, float]] = {
    "AdamW 1e-3": ("adamw", 1e-3),
    "AdamW 2e-3": ("adamw", 2e-3),
    "Muon 2e-3": ("muon", 2e-3),
    "Muon 4e-3": ("muon", 4e-3),
}


def main() -> None:
    """Train each for a few rounds and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of 240 pictures")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    accuracies: dict[str, float] = {}
    for name, (optimizer, rate) in RUNS.items():
        loop = RoundSettings(
            num_rounds=arguments.rounds, learning_rate=rate, decay_share=0.2,
            optimizer="muon" if optimizer == "muon" else "adamw", evaluate_every=0,
        )  # fmt: skip
        recipe = replace(TinyRecipe(), loop=loop, warmup_rounds=arguments.rounds)
        with tempfile.TemporaryDirectory() as folder:
            train_tiny(Path(folder), recipe)
            lines = (Path(folder) / METRICS_FILE).read_text(encoding="utf-8").splitlines()
        last = [json.loads(line)["patch_accuracy"] for line in lines[-5:]]
        accuracies[name] = round(sum(last) / len(last), 4)
        Console().print(f"{name}: {accuracies[name]:.1%}")
    num_pictures = arguments.rounds * TinyRecipe().samples_per_round
    figures = {"pictures": num_pictures, "patch_accuracy": accuracies}
    Console().print(write_result("tiny_optimizer", figures))


if __name__ == "__main__":
    main()
