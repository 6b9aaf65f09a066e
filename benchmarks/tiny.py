"""Accuracy of a checkpoint on fresh pictures of every drawn family, with 95 % intervals.

Writes ``results/tiny.json`` and prints the table.
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.record import write_result
from internvl35.chat import Chat, load
from internvl35.config import TINY
from internvl35.data.synthetic import FAMILIES
from internvl35.evals.drawn import Answered, FamilyResult, answer_drawings


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=TINY, help="checkpoint to measure")
    parser.add_argument("--pictures", type=int, default=500, help="fresh pictures a family")
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    chat = load(arguments.model)
    answered = ask(chat, arguments.pictures)
    results = {name: summarise(entries) for name, entries in answered.items()}
    short = [entry for entry in answered["reading"] if len(entry.drawing.turns[0].answer) <= 4]
    results["reading, up to 4 characters"] = summarise(short)
    print_table(results)
    if not arguments.no_write:
        figures = {name: as_figures(result) for name, result in results.items()}
        model = str(arguments.model)
        Console().print(write_result("tiny", {"model": model, "families": figures}))


def ask(chat: Chat, num_pictures: int) -> dict[str, list[Answered]]:
    """Ask about the test pictures of every family."""
    with Progress() as progress:
        task = progress.add_task("pictures", total=num_pictures * len(FAMILIES))
        return {
            family: answer_drawings(
                chat, family, num_pictures, "test", lambda done: progress.advance(task, done)
            )
            for family in FAMILIES
        }


def summarise(entries: list[Answered]) -> FamilyResult:
    """Count the right answers."""
    return FamilyResult(sum(entry.is_right for entry in entries), len(entries))


def as_figures(result: FamilyResult) -> dict[str, float | int]:
    """Turn a result into the figures that are kept."""
    low, high = result.interval
    return {
        "accuracy": round(result.accuracy, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": result.num_pictures,
    }


def print_table(results: dict[str, FamilyResult]) -> None:
    """Print a line a family."""
    table = Table("family", "right", "95 % interval", "pictures")
    for name, result in results.items():
        low, high = result.interval
        table.add_row(
            name, f"{result.accuracy:.1%}", f"{low:.1%} to {high:.1%}", str(result.num_pictures)
        )
    Console().print(table)


if __name__ == "__main__":
    main()
