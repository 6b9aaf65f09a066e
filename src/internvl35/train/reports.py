"""What a run tells while it goes: a bar or lines, ``logging.jsonl``, TensorBoard, curves.

Only the main process has a report. The figures themselves are counted by
:mod:`internvl35.train.figures`, curves are drawn by :mod:`internvl35.train.plots`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from internvl35.errors import DataError
from internvl35.train.packages import need_package
from internvl35.train.plots import plot_figures
from internvl35.train.run_folder import STEP_KEY, LogFile, RunFolder

EVALUATED = "eval_"
"""What the names of an evaluation's figures begin with."""

_SHOWN = {
    "loss": ("loss", "{:.4f}"),
    "eval_loss": ("eval_loss", "{:.4f}"),
    "token_acc": ("acc", "{:.1%}"),
    "patch_acc": ("patches", "{:.1%}"),
    "tile_acc": ("tiles", "{:.1%}"),
    "compress_share": ("compress", "{:.1%}"),
    "tau": ("tau", "{:.4f}"),
    "compressed_share": ("compressed", "{:.1%}"),
    "eval_token_acc": ("eval_acc", "{:.1%}"),
    "eval_tile_acc": ("eval_tiles", "{:.1%}"),
    "grad_norm": ("norm", "{:.2f}"),
    "learning_rate": ("lr", "{:.2e}"),
    "tokens_per_s": ("tokens/s", "{:,.0f}"),
    "tiles_per_s": ("tiles/s", "{:,.1f}"),
    "memory(GiB)": ("GiB", "{:.1f}"),
}
"""Figures that are shown beside the step: what they are called there, and in which form."""


class CountingBar:
    """Shows how far something is that is counted; used with ``with``, which ends it.

    Args:
        is_shown: whether anything is shown at all.
        console: where, by default stderr; without a terminal there is a line a count and no bar.
    """

    def __init__(self, *, is_shown: bool = True, console: Console | None = None) -> None:
        """Show nothing yet."""
        self._is_shown = is_shown
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
            TimeRemainingColumn(), console=self._console, transient=True,
            disable=not (is_shown and self._console.is_terminal),
        )  # fmt: skip

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    def count(self, name: str, total: int) -> Callable[[int], None]:
        """Begin with a count.

        Args:
            name: of what is counted.
            total: how many there are; for none, nothing is shown.

        Returns:
            To be called with how many are done.
        """
        if self._is_shown and total and not self._console.is_terminal:
            self._console.print(f"measuring {total:,} rows ({name})", highlight=False)
        task = self._bar.add_task(f"measuring rows ({name})", total=total, visible=total > 0)
        return lambda done: self._bar.update(task, completed=done)


class TrainingReport:
    """Figures of a run, wherever they are wanted; used with ``with``, which ends the bar.

    Args:
        folder: of the run.
        num_steps: of the whole run.
        epoch_at: from a number of steps to the passes over the data that they are.
        first_step: steps done before, in a run that is resumed; later lines are dropped.
        seconds_before: how long those took.
        report_to: ``tensorboard``, or none.
        console: where it is shown, by default stderr.
        clock: seconds that only grow.

    Raises:
        ConfigError: if TensorBoard is asked for and not installed.
        DataError: if nothing can be written to the folder.
    """

    def __init__(
        self,
        folder: RunFolder,
        num_steps: int,
        *,
        epoch_at: Callable[[int], float],
        first_step: int = 0,
        seconds_before: float = 0.0,
        report_to: Sequence[str] = (),
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the files and show the bar."""
        self.folder = folder
        self.num_steps = num_steps
        self.epoch_at = epoch_at
        self.first_step = first_step
        self.seconds_before = seconds_before
        self._clock = clock
        self._started = clock()
        self._events = (
            _open_events(folder.events, first_step) if "tensorboard" in report_to else None
        )
        self._latest: dict[str, float] = {}
        self._log = LogFile(folder.log_file, first_step)
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("step"), BarColumn(bar_width=20), MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"), console=self._console,
            disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=num_steps, completed=first_step, figures="")
        self._bar.start()

    def __enter__(self) -> Self:
        """Nothing that was not done before."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the bar and draw the curves, of an interrupted run too."""
        self.close()

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines so far, those from before a resume among them."""
        return self._log.lines

    @property
    def seconds(self) -> float:
        """How long the run has taken, what came before a resume included."""
        return self.seconds_before + self._clock() - self._started

    def advance(self, step: int, figures: Mapping[str, float]) -> None:
        """Move the bar.

        Args:
            step: steps done.
            figures: of that step; beside them stand those of the last line.
        """
        known = describe_figures(self._latest | dict(figures))
        shown = f"{known}  left {describe_time(self._seconds_left(step))}"
        self._bar.update(self._task, completed=step, figures=shown)

    def log_step(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a line of figures.

        Args:
            step: steps done.
            figures: of the steps since the last line, under the names of ``logging.jsonl``.

        Raises:
            DataError: if the disk does not take it.
        """
        self._latest = dict(figures)
        self._write(step, figures, "train")

    def log_eval(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a line of an evaluation's figures.

        Args:
            step: steps done.
            figures: such as loss and token_acc; their names get ``eval_`` put in front.

        Raises:
            DataError: if the disk does not take it.
        """
        named = {
            name if name.startswith(EVALUATED) else f"{EVALUATED}{name}": value
            for name, value in figures.items()
        }
        self._write(step, named, "eval")

    def finish(self, step: int, summary: Mapping[str, Any]) -> None:
        """Write the last line, which sums up the run.

        Args:
            step: steps done.
            summary: such as ``model_parameter_info``, ``last_model_checkpoint``,
                ``best_model_checkpoint``, ``best_metric`` and ``memory``; plain values.

        Raises:
            DataError: if the disk does not take it.
        """
        facts = {
            "global_step": step,
            "elapsed_time": describe_time(self.seconds),
            "log_history": self.history,
        }
        self._log.append(dict(summary) | facts)

    def tell(self, text: str) -> None:
        """Say something that is no figure, above the bar.

        Args:
            text: one line.
        """
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """End the bar, write what TensorBoard still holds back, and draw the curves."""
        self._bar.stop()
        if self._events is not None:
            with suppress(OSError):
                self._events.close()
            self._events = None
        self.draw()

    def draw(self) -> None:
        """Draw the curves up to here."""
        if not self.history:
            return
        try:
            plot_figures(self.history, self.folder.images)
        except DataError as error:  # a run is worth more than its curves
            self.tell(f"no curves: {error}")

    def _add_events(self, figures: Mapping[str, float], step: int, part: str) -> None:
        if self._events is None:
            return
        try:
            for name, value in figures.items():
                self._events.add_scalar(f"{part}/{name.removeprefix(EVALUATED)}", value, step)
        except OSError as error:  # a run is worth more than TensorBoard's copy of its figures
            self._events = None
            self.tell(f"no more events for TensorBoard: {error}")

    def _write(self, step: int, figures: Mapping[str, float], part: str) -> None:
        line: dict[str, Any] = {
            name: _rounded(value) if isinstance(value, float) else value
            for name, value in figures.items()
        }
        line |= {
            "epoch": _rounded(self.epoch_at(step)),
            STEP_KEY: f"{step}/{self.num_steps}",
            "elapsed_time": describe_time(self.seconds),
            "remaining_time": describe_time(self._seconds_left(step)),
        }
        self._log.append(line)
        self._add_events(figures, step, part)
        if not self._console.is_terminal or part == "eval":
            rest = f"left {line['remaining_time']}"
            shown = [f"step {step}/{self.num_steps}", describe_figures(figures), rest]
            self.tell("  ".join(shown))

    def _seconds_left(self, step: int) -> float:
        done = step - self.first_step
        passed = self._clock() - self._started
        return passed / done * (self.num_steps - step) if done > 0 else float("inf")


def _open_events(folder: Path, first_step: int) -> Any:
    need_package("tensorboard", "report_to tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    # what TensorBoard was told of later steps is undone in a run that is resumed
    return SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)


def _rounded(value: float) -> float:
    """Eight digits, so that a line can be read."""
    return float(f"{value:.8g}")


def describe_figures(figures: Mapping[str, float]) -> str:
    """Put figures into a line.

    Args:
        figures: under the names of ``logging.jsonl``; others are left out.

    Returns:
        Those that are shown beside a step.
    """
    return "  ".join(
        f"{label} {form.format(figures[name])}"
        for name, (label, form) in _SHOWN.items()
        if name in figures
    )


def describe_time(seconds: float) -> str:
    """Put a time into words.

    Args:
        seconds: how long; infinite where it is not known.

    Returns:
        Such as ``2h 5m 7s``; a question mark where it is not known.
    """
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m {rest}s"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
