"""Packing against padding, and this package's trainer against TRL's, on the same rows and model.

Every training is a process of its own; all kinds are run in turn, so that a slow minute of the
machine meets all of them, and medians are kept. Equal for all: rows in the order of the file, the
embedded checkpoint in float32, LoRA of one rank on the same layers, AdamW, batches prepared by the
training process itself, fused attention, gradient checkpointing. Different: TRL lets the line break
behind ``<|im_end|>`` carry loss too, opens pictures by stock transformers' processor, and counts
entropy and token accuracy of every step. Needs ``pip install trl peft datasets``. Writes
``results/finetune.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.finetune_job import Job, Measured
from benchmarks.finetune_rows import LONGEST, MEDIAN_LENGTH, SPREAD, write_rows
from benchmarks.record import write_result

NEEDED = ("trl", "peft", "datasets")


def main() -> None:
    """Run everything, print rates, write ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12, help="padded batches of a training")
    parser.add_argument("--warmup-steps", type=int, default=2, help="first ones, not timed")
    parser.add_argument("--batch-size", type=int, default=8, help="rows of a padded batch")
    parser.add_argument("--pack-tokens", type=int, default=2048, help="tokens of a pack")
    parser.add_argument("--repetitions", type=int, default=5, help="trainings of each kind")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows")
    arguments = parser.parse_args()
    console = Console()
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        sys.exit(f"{', '.join(missing)} not installed; needed: pip install {' '.join(NEEDED)}")
    with tempfile.TemporaryDirectory() as folder:
        num_rows = arguments.steps * arguments.batch_size
        path = write_rows(Path(folder) / "rows", num_rows, arguments.seed)
        padded = Job(
            trainer="ours", rows=str(path), num_rows=num_rows, warmup_steps=arguments.warmup_steps,
            batch_size=arguments.batch_size, threads=arguments.threads, gradient_checkpointing=True,
        )  # fmt: skip
        jobs = {
            "trl": replace(padded, trainer="trl"),
            "padded": padded,
            "grouped": replace(padded, is_grouped=True),
            "packed": replace(padded, pack_tokens=arguments.pack_tokens),
        }
        runs: dict[str, list[Measured]] = {name: [] for name in jobs}
        for repetition in range(arguments.repetitions):
            for name, job in jobs.items():
                console.print(f"repetition {repetition + 1} of {arguments.repetitions}: {name}")
                runs[name].append(run_job(job, Path(folder)))
    figures = compare(runs)
    _print(console, runs, figures)
    about = {
        "settings": vars(arguments),
        "answer_characters": {"median": MEDIAN_LENGTH, "longest": LONGEST, "log_spread": SPREAD},
        "trainer_versions": {name: version(name) for name in NEEDED},
    }
    console.print(write_result("finetune", about | figures))


def run_job(job: Job, folder: Path) -> Measured:
    """Train in a process of its own.

    Args:
        job: what is trained.
        folder: for files.

    Returns:
        What was measured.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "job.json"
        path.write_text(json.dumps(asdict(job)), encoding="utf-8")
        threads = {"OMP_NUM_THREADS": str(job.threads), "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.finetune_job", str(path)],
            env=os.environ | threads, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"the training {job} failed:\n{done.stderr}")
        found = json.loads(path.with_suffix(".measured").read_text(encoding="utf-8"))
    if not found["samples"]:
        sys.exit(f"no step was left to time in {job}; raise --steps or lower --pack-tokens")
    return Measured(**found)


def compare(runs: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """Turn measurements into ratios of medians.

    Args:
        runs: measurements of ``trl``, ``padded``, ``grouped`` and ``packed``.

    Returns:
        Figures for the result file.
    """

    def median(name: str, rate: str) -> float:
        return statistics.median(_rates(run)[rate] for run in runs[name])

    def ratio(rate: str, one: str, other: str) -> float:
        return round(median(one, rate) / median(other, rate), 2)

    first = {name: measured[0] for name, measured in runs.items()}
    return {
        "packing_speedup": ratio("tokens_per_s", "packed", "padded"),
        "packing_speedup_over_grouped": ratio("tokens_per_s", "packed", "grouped"),
        "vs_trl": ratio("samples_per_s", "padded", "trl"),
        # Behind the warm-up, packs hold other rows: tokens are compared, not the number of rows.
        "packed_vs_trl": round(
            median("packed", "tokens_per_s")
            / median("padded", "tokens_per_s")
            * median("padded", "samples_per_s")
            / median("trl", "samples_per_s"),
            2,
        ),
        "peak_memory_vs_trl": ratio("peak_memory_mib", "padded", "trl"),
        "packed_peak_memory_vs_trl": ratio("peak_memory_mib", "packed", "trl"),
        "training_memory_vs_trl": ratio("training_memory_mib", "padded", "trl"),
        "spread": {
            name: {
                rate: [round(min(values), 2), round(max(values), 2)]
                for rate in ("samples_per_s", "peak_memory_mib")
                if (values := [_rates(run)[rate] for run in measured])
            }
            for name, measured in runs.items()
        },
        "padding_share": {
            name: round(1 - first[name].tokens / first[name].padded_tokens, 3)
            for name in ("padded", "grouped", "packed")
        },
        "mean_loss": {name: round(measured.mean_loss, 3) for name, measured in first.items()},
        "num_trainable": {name: measured.num_trainable for name, measured in first.items()},
    }


def _rates(run: Measured) -> dict[str, float]:
    return {
        "samples_per_s": run.samples / run.seconds,
        "tokens_per_s": run.tokens / run.seconds,
        "peak_memory_mib": run.peak_memory_mib,
        "training_memory_mib": run.peak_memory_mib - run.memory_before_mib,
    }


def _print(
    console: Console, runs: Mapping[str, Sequence[Measured]], figures: Mapping[str, Any]
) -> None:
    table = Table("training", "rows/s", "tokens/s", "peak MiB")
    for name, measured in runs.items():
        values = [statistics.median(_rates(run)[rate] for run in measured) for rate in (
            "samples_per_s", "tokens_per_s", "peak_memory_mib"
        )]  # fmt: skip
        tokens = f"{values[1]:,.0f}" if values[1] else "not told"
        table.add_row(name, f"{values[0]:.2f}", tokens, f"{values[2]:,.0f}")
    console.print(table)
    console.print({name: value for name, value in figures.items() if isinstance(value, float)})


if __name__ == "__main__":
    main()
