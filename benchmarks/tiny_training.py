"""The training run of the embedded checkpoint: how much it saw, and its curve.

Reads the ``metrics.jsonl`` of a run folder and writes ``results/tiny_training.json`` and
``results/tiny_training.png``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from benchmarks.record import RESULTS, write_result
from internvl35.train.plots import plot_curve
from internvl35.train.rounds import METRICS_FILE

CURVE_POINTS = 40
NAMES = ("samples", "loss", "answer_loss", "patch_loss", "patch_accuracy")


def main() -> None:
    """Keep the curve of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="run folder of internvl35 train tiny")
    arguments = parser.parse_args()
    text = (arguments.folder / METRICS_FILE).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    width = max(1, len(lines) // CURVE_POINTS)
    curve = [average(lines[start : start + width]) for start in range(0, len(lines), width)]
    last = lines[-1]
    figures = {"rounds": last["round"], "samples": last["samples"], "curve": curve}
    plot_curve(arguments.folder / METRICS_FILE, RESULTS / "tiny_training.png")
    Console().print(write_result("tiny_training", figures))


def average(lines: list[dict[str, float]]) -> dict[str, float]:
    """Average the figures of neighbouring rounds; the count of samples is the last one's."""
    point = {"samples": lines[-1]["samples"]}
    for name in NAMES[1:]:
        values = [line[name] for line in lines if name in line]
        if values:
            point[name] = round(sum(values) / len(values), 4)
    return point


if __name__ == "__main__":
    main()
