"""Rows of mixed lengths for the benchmark of fine-tuning: a drawn picture and an answer each."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from internvl35.data.synthetic import draw

MEDIAN_LENGTH, LONGEST, SPREAD = 300, 4000, 0.8
"""Of the answers, in characters; spread is the standard deviation of the logarithm."""
_VOCABULARY = (
    "red", "blue", "green", "circle", "square", "triangle", "left", "right", "image", "text",
    "word", "number", "three", "five", "what", "which", "is", "the", "in", "of", "A7", "42",
)  # fmt: skip


def write_rows(folder: Path, num_rows: int, seed: int) -> Path:
    """Write a data set in the announcement's form.

    Answers are words by chance, their lengths log-normal: many short ones and a few that are ten
    times as long, as in instruction data.

    Args:
        folder: where the file and the pictures go.
        num_rows: rows in all.
        seed: of everything.

    Returns:
        The JSONL file.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    index = 0
    while len(lines) < num_rows:
        drawing = draw("shapes", "train", index, 1.0)
        index += 1
        if not drawing.images:
            continue
        name = f"{len(lines)}.png"
        drawing.images[0].save(folder / name)
        row: dict[str, Any] = {
            "messages": [
                {"role": "user", "content": f"<image>{drawing.turns[0].question}"},
                {"role": "assistant", "content": _write_answer(rng)},
            ],
            "images": [name],
        }
        lines.append(json.dumps(row) + "\n")
    path = folder / "rows.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _write_answer(rng: random.Random) -> str:
    length = min(LONGEST, round(MEDIAN_LENGTH * rng.lognormvariate(0, SPREAD)))
    words: list[str] = []
    size = 0
    while size < length:
        words.append(rng.choice(_VOCABULARY))
        size += len(words[-1]) + 1
    return " ".join(words)
