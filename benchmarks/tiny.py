"""What a checkpoint answers to fresh pictures of every drawn family, in figures with intervals.

Every first question is asked greedily; where it comes with reasoning, in thinking mode too. To some
of them several answers are drawn at temperature 1. Writes ``results/tiny.json`` and the sheet
``results/tiny_answers.png``; a run that is killed goes on behind the last family that it finished.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import record
from benchmarks.kept_answers import KeptAnswers, hash_weights
from benchmarks.tiny_aims import Verdict, judge
from benchmarks.tiny_answers import FamilyAnswers, Measurement, keep_answers
from benchmarks.tiny_sheet import answer_sheet, write_sheet
from benchmarks.tiny_speed import measure_speed
from internvl35.chat import Chat, load
from internvl35.commands.terminal import silence_libraries
from internvl35.config import TINY
from internvl35.data.synthetic import FAMILIES
from internvl35.evals.drawn import AskSettings, Examiner, Pace, Sampled, with_thinking
from internvl35.evals.drawn_figures import (
    answer_figures,
    calibration_figures,
    mean_right,
    pace_figures,
    sampled_figures,
    score_figures,
)

SHEET_FILE = "tiny_answers.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the results.

    Args:
        argv: arguments of the command line; those of this process by default.

    Returns:
        Exit status: 1 if ``--check`` found an aim that is not reached.
    """
    arguments = parse(argv)
    silence_libraries()
    chat = load(arguments.model)
    measurement = Measurement(
        model=str(arguments.model),
        families=tuple(arguments.families or FAMILIES),
        num_pictures=arguments.pictures,
        num_sampled=min(arguments.sampled_pictures, arguments.pictures),
        asking=AskSettings(
            max_questions=arguments.batch_size, max_tiles=2 * arguments.batch_size
        ),
    )  # fmt: skip
    partial = keep_answers(record.RESULTS, measurement)
    answers = ask_families(chat, with_thinking(chat), measurement, partial)
    families = {family: summarise(found) for family, found in answers.items()}
    console = Console()
    console.print(make_table(families))
    verdicts = [v for v in judge(families) if v.aim.family in measurement.families]
    for verdict in verdicts:
        console.print(describe_verdict(verdict))
    if not arguments.no_write:
        figures = describe(measurement, chat, answers) | {"families": families}
        if not arguments.no_speed:
            figures["speed"] = measure_speed(chat, measurement.model)
        sheet = answer_sheet([entry for found in answers.values() for entry in found.direct])
        write_sheet(sheet, record.RESULTS / SHEET_FILE)
        console.print(record.write_result("tiny", figures))
    partial.remove()
    is_missed = not all(verdict.is_reached for verdict in verdicts)
    return int(arguments.check and is_missed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv: arguments; those of this process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=TINY, help="checkpoint to measure")
    parser.add_argument(
        "--families", nargs="+", metavar="NAME", choices=list(FAMILIES),
        help=f"only these of {', '.join(FAMILIES)}",
    )  # fmt: skip
    parser.add_argument("--pictures", type=int, default=500, help="fresh pictures a family")
    parser.add_argument(
        "--sampled-pictures", type=int, default=100, help="of them, those with 8 drawn answers"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="questions asked at once")
    parser.add_argument("--no-write", action="store_true", help="print figures only")
    parser.add_argument("--no-speed", action="store_true", help="leave speed out")
    parser.add_argument("--check", action="store_true", help="fail if an aim is not reached")
    arguments = parser.parse_args(argv)
    if arguments.pictures < 1 or arguments.batch_size < 1 or arguments.sampled_pictures < 0:
        parser.error(
            "--pictures and --batch-size must be at least 1, --sampled-pictures at least 0"
        )
    return arguments


def ask_families(
    chat: Chat, thinking: Chat, measurement: Measurement, partial: KeptAnswers[FamilyAnswers]
) -> dict[str, FamilyAnswers]:
    """Ask about every family that is not done yet.

    Args:
        chat: the model.
        thinking: the same under the thinking system prompt.
        measurement: how much is asked.
        partial: what is done; every family is added as soon as it is finished.

    Returns:
        All families in the order of the measurement.
    """
    a_family = measurement.num_pictures + measurement.num_sampled * measurement.num_samples
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr)) as progress:
        task = progress.add_task("answers", total=a_family * len(measurement.families))
        for family in measurement.families:
            progress.update(task, description=family)
            if family in partial.done:
                progress.advance(task, a_family)
                continue
            found = ask_family(
                chat, thinking, family, measurement,
                on_answered=lambda num: progress.advance(task, num),
            )  # fmt: skip
            partial.keep(family, found)
    return {family: partial.done[family] for family in measurement.families}


def ask_family(
    chat: Chat,
    thinking: Chat,
    family: str,
    measurement: Measurement,
    on_answered: Callable[[int], None] | None = None,
) -> FamilyAnswers:
    """Ask about one family in every mode.

    Args:
        chat: the model.
        thinking: the same under the thinking system prompt.
        family: its name.
        measurement: how much is asked.
        on_answered: called with the number answered after every batch, but not in thinking mode,
            where nobody knows beforehand how many there are.
    """
    direct = Examiner(chat, measurement.asking, on_answered=on_answered)
    answers = direct.answer(family, range(measurement.num_pictures), "test")
    pace = direct.pace
    first = range(measurement.num_sampled)
    sampled: dict[str, list[Sampled]] = {}
    if measurement.num_sampled:
        sampled["direct"] = direct.sample(family, first, "test", measurement.num_samples)
    reasoned = [entry.index for entry in answers if entry.has_reasoning]
    thinker = Examiner(thinking, measurement.asking, is_thinking=True)
    thought = thinker.answer(family, reasoned, "test") if reasoned else []
    if some := [index for index in reasoned if index in first]:
        sampled["thinking"] = thinker.sample(family, some, "test", measurement.num_samples)
    return FamilyAnswers(answers, thought, sampled, pace)


def summarise(answers: FamilyAnswers) -> dict[str, Any]:
    """Turn the answers of a family into figures.

    Args:
        answers: in all modes.

    Returns:
        ``direct`` and, where there is reasoning, ``thinking``, each with figures by kind and by
        what was never seen, and with calibration; ``without_thinking``: direct figures of the
        questions that come with reasoning; ``sampled`` by mode.
    """
    figures: dict[str, Any] = {
        "direct": answer_figures(answers.direct)
        | {"calibration": calibration_figures(answers.direct)}
    }
    if answers.thinking:
        figures["thinking"] = answer_figures(answers.thinking) | {
            "calibration": calibration_figures(answers.thinking)
        }
        same = [entry for entry in answers.direct if entry.has_reasoning]
        figures["without_thinking"] = score_figures(same)
    if answers.sampled:
        figures["sampled"] = {
            mode: sampled_figures(entries) for mode, entries in answers.sampled.items()
        }
    return figures


def describe(
    measurement: Measurement, chat: Chat, answers: dict[str, FamilyAnswers]
) -> dict[str, Any]:
    """Say what was measured, and the figures of all families together.

    Args:
        measurement: what was asked.
        chat: the model.
        answers: of all families.

    Returns:
        What stands in front of the families in ``results/tiny.json``.
    """
    pooled = [entry for found in answers.values() for entry in found.direct]
    is_gpu = chat.model.device.type == "cuda"
    pace = sum((found.pace for found in answers.values()), Pace())
    figures: dict[str, Any] = {
        "model": measurement.model,
        "weights": hash_weights(measurement.model),
        "pictures": measurement.num_pictures,
        "sampled_pictures": measurement.num_sampled,
        "samples": measurement.num_samples,
        "device": _device_name(chat),
        "mean_right": mean_right(answer_figures(found.direct) for found in answers.values()),
        "calibration": calibration_figures(pooled, with_bins=True),
    }
    return figures | ({"pace": pace_figures(pace)} if is_gpu else {})


def _device_name(chat: Chat) -> str:
    if chat.model.device.type != "cuda":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(chat.model.device)


def make_table(families: dict[str, Any]) -> Table:
    """Make a line a family for the terminal.

    Args:
        families: figures of each.
    """
    table = Table("family", "right", "95 % interval", "pictures", "other", "pass@8")
    for family, figures in families.items():
        found = figures["direct"]["figures"]
        right = found["right"]
        others = [f"{name} {f['value']:.1%}" for name, f in found.items() if name != "right"]
        if "thinking" in figures:
            others.append(f"thinking {figures['thinking']['figures']['right']['value']:.1%}")
        sampled = figures.get("sampled", {}).get("direct", {}).get("pass@8")
        table.add_row(
            family, f"{right['value']:.1%}", f"{right['low']:.1%} to {right['high']:.1%}",
            str(right["n"]), ", ".join(others), f"{sampled['value']:.1%}" if sampled else "",
        )  # fmt: skip
    return table


def describe_verdict(verdict: Verdict) -> str:
    """Put an aim and what was found into a line.

    Args:
        verdict: of :func:`benchmarks.tiny_aims.judge`.
    """
    found = "not measured" if verdict.value is None else f"{verdict.value:.1%}"
    word = "reached" if verdict.is_reached else "missed"
    return f"{word}: {verdict.aim} {found}, aim {verdict.aim.value:.0%}"


if __name__ == "__main__":
    sys.exit(main())
