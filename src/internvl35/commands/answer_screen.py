"""What ``infer`` shows while it answers rows and at the end: questions, answers, a bar, figures.

Answering is left to :mod:`internvl35.evals.predictions`. No counterpart in the paper.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from internvl35.commands.terminal import AnswerWriter, printable

if TYPE_CHECKING:
    from internvl35.conversation import Piece
    from internvl35.data.records import Record
    from internvl35.evals.predictions import Prediction
    from internvl35.scoring import Score


class AnswerScreen:
    """Shows questions and answers on stdout, one row after another."""

    def __init__(self) -> None:
        """Look where stdout leads."""
        self._writer = AnswerWriter()

    def show_question(self, record: Record, expected: str | None) -> None:
        """Show what is asked and what is expected.

        Args:
            record: the row.
            expected: its own answer.
        """
        question = next(m.text for m in reversed(record.messages) if m.role != "assistant")
        self._say(f"[QUERY] {question}\n")
        if expected is not None:
            self._say(f"[LABELS] {expected}\n")
        self._say("[RESPONSE] ")

    def show_piece(self, piece: Piece) -> None:
        """Show a part of an answer.

        Args:
            piece: as it was written.
        """
        self._writer.write(piece.text, is_thinking=piece.is_thinking)

    def end_answer(self, prediction: Prediction) -> None:
        """Show that an answer has ended, or why a row could not be asked.

        Args:
            prediction: the whole.
        """
        if prediction.error is not None:
            self._say(f"[ERROR] {prediction.error}")
        self._say(f"\n{'-' * 40}\n")

    @staticmethod
    def _say(text: str) -> None:
        typer.echo(printable(text, sys.stdout.encoding), nl=False)


@contextmanager
def show_bar(total: int, done: int, *, is_shown: bool) -> Iterator[Callable[[], None]]:
    """Show on stderr how far a run is, if stderr is a terminal.

    Args:
        total: rows in all.
        done: rows answered before.
        is_shown: whether it is wanted.

    Yields:
        What is to be called after every row.
    """
    if not is_shown or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip
    task = bar.add_task("answer", total=total, completed=done)
    with bar:
        yield lambda: bar.advance(task)


def describe_scores(scores: Mapping[str, Score], counts: Mapping[str, int]) -> list[str]:
    """Put figures into lines.

    Args:
        scores: by name.
        counts: of rows.

    Returns:
        A line a score, then one on the rows.
    """
    lines = []
    for name, score in scores.items():
        interval = ""
        if score.interval is not None:
            low, high = score.interval
            interval = f" ({low:.1%} to {high:.1%})"
        lines.append(f"{name}: {score.mean:.1%}{interval}")
    rows = f"rows: {counts['num_rows']}"
    for key, text in (("num_errors", "left out"), ("num_cut", "cut at max_new_tokens")):
        if counts[key]:
            rows += f", {counts[key]} {text}"
    if counts["num_scored"] < counts["num_rows"] - counts["num_errors"]:
        rows += f", {counts['num_scored']} with an expected answer"
    return [*lines, rows]
