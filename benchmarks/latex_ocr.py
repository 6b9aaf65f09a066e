"""What fine-tuning gave on printed formulas: the worked example's answers before and after.

Scores two files of answers that ``internvl35 infer`` wrote on the test rows, and keeps the
curve of the run between them. Writes ``results/latex_ocr.json`` and ``results/latex_ocr.png``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.record import RESULTS, write_result
from internvl35.evals.result_file import score_file
from internvl35.scoring import Metric
from internvl35.train.run_folder import LOG_FILE, read_arguments, read_log, step_of

METRICS: tuple[Metric, ...] = ("exact_match", "edit_distance", "rouge")
LAST_LINES = 10
"""Lines of figures whose mean stands for the end of training."""

KEPT = (
    "model", "tuner_type", "lora_rank", "lora_alpha", "lora_dropout", "modules_to_save",
    "freeze_vit", "freeze_aligner", "learning_rate", "warmup_ratio", "weight_decay",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "torch_dtype",
    "attn_impl",
)  # fmt: skip


def main() -> None:
    """Read two files of answers and a run folder; write figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="answers of the base, JSONL")
    parser.add_argument("after", type=Path, help="answers of the fine-tuned checkpoint, JSONL")
    parser.add_argument("run_folder", type=Path, help="of internvl35 sft")
    parser.add_argument("data", type=Path, help="folder that make_data.py filled")
    arguments = parser.parse_args()
    settings = read_arguments(arguments.run_folder)
    lines = read_log(arguments.run_folder / LOG_FILE)
    trained = [line["token_acc"] for line in lines if "token_acc" in line][-LAST_LINES:]
    curve = [
        {"step": step_of(line), "eval_loss": line["eval_loss"],
         "eval_token_acc": line["eval_token_acc"]}
        for line in lines
        if "eval_loss" in line
    ]  # fmt: skip
    figures = {
        "before": read_scores(arguments.before),
        "after": read_scores(arguments.after),
        "data": json.loads((arguments.data / "about.json").read_text(encoding="utf-8")),
        "settings": {name: settings[name] for name in KEPT},
        "token_acc_at_the_end": {
            "training_rows": round(sum(trained) / len(trained), 4),
            "validation_rows": round(curve[-1]["eval_token_acc"], 4),
        },
        "curve": curve,
    }
    shutil.copyfile(
        arguments.run_folder / "images" / "eval_token_acc.png", RESULTS / "latex_ocr.png"
    )
    Console().print(write_result("latex_ocr", figures))


def read_scores(path: Path) -> dict[str, Any]:
    """Score a file of answers.

    Args:
        path: as ``internvl35 infer`` writes it.

    Returns:
        Mean of each metric, with the 95 percent interval where it is a rate, and the rows.
    """
    scores, counts = score_file(path, METRICS)
    found: dict[str, Any] = {"rows": counts["num_rows"]}
    for name, score in scores.items():
        found[name] = round(score.mean, 4)
        if score.interval is not None:
            found[f"{name}_interval_95"] = [round(end, 4) for end in score.interval]
    return found


if __name__ == "__main__":
    main()
