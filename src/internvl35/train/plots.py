"""Curves of training runs as pictures.

Figures of drawn rounds are read from the file that :mod:`internvl35.train.rounds` writes, those of
fine-tuning are given by :mod:`internvl35.train.reports`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from internvl35.errors import DataError
from internvl35.train.run_folder import step_of

EVALUATED = "eval/"
"""What the names of an evaluation's figures begin with."""

SMOOTHING = 0.02
"""Share of a run over which the figures of single rounds are averaged."""

MEMORY = 0.9
"""How much less a figure of a fine-tuning run weighs with every one that follows it."""

_NOT_DRAWN = {"epoch"}


def plot_curve(metrics: Path, target: Path) -> None:
    """Draw the curve of a run.

    Args:
        metrics: ``metrics.jsonl`` of the run folder.
        target: picture to write, its format by its suffix.

    Raises:
        DataError: if there are no figures.
    """
    lines = read_metrics(metrics)
    figure = Figure(figsize=(7, 7), layout="constrained")
    losses, accuracies = figure.subplots(2, 1, sharex=True)
    width = max(1, round(SMOOTHING * len(lines)))
    for name in sorted({name for line in lines for name in line if name.endswith("loss")}):
        _draw(losses, _series(lines, name), name.replace("_", " "), width)
    losses.set(ylabel="loss", yscale="log")
    _draw(accuracies, _series(lines, "patch_accuracy"), "patches", width)
    for name in sorted({name for line in lines for name in line if name.startswith(EVALUATED)}):
        _draw(accuracies, _series(lines, name), name.removeprefix(EVALUATED), 1, marker=".")
    accuracies.set(xlabel="samples", ylabel="share right", ylim=(0, 1))
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(target, dpi=120)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the figures of a run, round by round.

    Args:
        path: ``metrics.jsonl``; a last line that a kill cut short is left out.

    Returns:
        A dict a round.

    Raises:
        DataError: if there is none.
    """
    lines: list[dict[str, float]] = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not lines:
        raise DataError(f"{path} holds no figures; train at least one round")
    return lines


def _series(lines: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(line["samples"], line[name]) for line in lines if name in line]


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Average every value with those before it.

    Args:
        values: a series.
        width: values averaged, fewer at the beginning.

    Returns:
        As many values.
    """
    return [
        sum(values[max(0, end - width) : end]) / min(width, end)
        for end in range(1, len(values) + 1)
    ]


def _draw(
    axes: Axes, points: list[tuple[float, float]], label: str, width: int, marker: str = ""
) -> None:
    if points:
        samples, values = zip(*points, strict=True)
        axes.plot(samples, smooth(values, width), marker=marker, label=label)


def plot_figures(lines: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw one picture a figure of a fine-tuning run; those of training raw and smoothed.

    Args:
        lines: of ``logging.jsonl``; figures that begin with ``eval_`` are drawn apart.
        folder: made if missing; pictures are named after the figures, such as train_loss.png.

    Raises:
        DataError: if the disk does not take them.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        step = step_of(line)
        for name, value in line.items():
            is_number = isinstance(value, float | int) and not isinstance(value, bool)
            if step is not None and is_number and name not in _NOT_DRAWN:
                series.setdefault(name, []).append((step, value))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, points in series.items():
            prefix = "" if name.startswith("eval_") else "train_"
            stem = re.sub(r"\W+", "_", f"{prefix}{name}").strip("_")
            _plot_figure(name, points, folder / f"{stem}.png")
    except OSError as error:
        raise DataError(
            f"curves cannot be drawn in {folder}: {error}; free space or choose another output_dir"
        ) from error


def _plot_figure(name: str, points: Sequence[tuple[int, float]], target: Path) -> None:
    steps, values = zip(*points, strict=True)
    figure = Figure(figsize=(8, 5), dpi=100)  # a layout of its own would take half of the time
    axes = figure.subplots()
    if name.startswith("eval_"):  # few, and each of all rows: smoothing would only lag behind
        axes.plot(steps, values, color="tab:blue", marker="o")
    else:
        axes.plot(steps, values, color="tab:blue", alpha=0.35, marker="." if len(steps) < 2 else "")
        axes.plot(steps, smooth_exponentially(values, MEMORY), color="tab:blue", label="smoothed")
    axes.set(xlabel="step", title=name)
    axes.grid(alpha=0.3)
    figure.savefig(target, format="png")


def smooth_exponentially(values: Sequence[float], memory: float) -> list[float]:
    """Average every value with those before it, the older the less.

    Args:
        values: a series.
        memory: how much less a value weighs with every one that follows it, 0 to below 1.

    Returns:
        As many values; the first is as it was, since weights are divided by their sum.
    """
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = total * memory + value, weight * memory + 1.0
        smoothed.append(total / weight)
    return smoothed
