"""How long the first answer takes from a cold start, against what importing the libraries takes.

Runs whole processes in turns: ``internvl35 chat`` with a picture and a question, and a bare import
of torch and transformers' model code. Writes ``results/cold_start.json`` with the ratio; seconds,
which depend on the machine and on what else it does, are only printed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.record import write_result

PICTURE = Path(__file__).parents[1] / "examples" / "shapes.png"
COMMANDS = {
    "chat": ["-m", "internvl35.cli", "chat", "--image", str(PICTURE), "How many shapes?"],
    "import": ["-c", "import torch, transformers.modeling_utils"],
}


def main() -> None:
    """Run both in turns and print the medians' ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(arguments.runs + 1):
        for name, command in COMMANDS.items():
            spent = run(command)
            if number:  # the first run fills the disk cache
                seconds[name].append(spent)
    ratio = statistics.median(
        chat / bare for chat, bare in zip(seconds["chat"], seconds["import"], strict=True)
    )
    figures = {"chat_over_import": round(ratio, 2), "runs": arguments.runs}
    Console().print(figures, {name: round(statistics.median(v), 2) for name, v in seconds.items()})
    Console().print(write_result("cold_start", figures))


def run(arguments: list[str]) -> float:
    """Run Python with these arguments; return the seconds it took.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
