"""Curves of training runs as pictures.

Figures are given by whoever logs them: :mod:`internvl35.train.reports` and
:mod:`internvl35.train.tiny.run`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from internvl35.errors import DataError
from internvl35.train.run_folder import step_of

EVALUATED = "eval_"
"""What the names of an evaluation's figures begin with."""

SMOOTHING = 0.02
"""Share of a run over which the figures of single lines are averaged."""

MEMORY = 0.9
"""How much less a figure of a fine-tuning run weighs with every one that follows it."""

_NOT_DRAWN = {"epoch"}


def plot_curve(lines: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Draw the losses and the shares right of a run over the samples that it saw.

    Args:
        lines: figures, each with ``samples``; names that end in ``loss`` are losses, those that end
            in ``acc`` or begin with ``eval_`` are shares.
        target: picture to write, its format by its suffix.

    Raises:
        DataError: if there are no figures, or the disk does not take the picture.
    """
    if not lines:
        raise DataError(f"no figures for {target}; train at least one step")
    names = sorted({name for line in lines for name in line})
    figure = Figure(figsize=(7, 8), layout="constrained")
    losses, accuracies = figure.subplots(2, 1, sharex=True)
    width = max(1, round(SMOOTHING * len(lines)))
    for name in names:
        if name.endswith("loss"):
            _draw(losses, _series(lines, name), name.replace("_", " "), width)
        elif name.endswith("acc"):
            _draw(accuracies, _series(lines, name), name.replace("_", " "), width)
        elif name.startswith(EVALUATED):
            label = name.removeprefix(EVALUATED)
            _draw(accuracies, _series(lines, name), label, 1, marker=".")
    losses.set(ylabel="loss", yscale="log")
    accuracies.set(xlabel="samples", ylabel="share right", ylim=(0, 1))
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small", ncols=2)
    try:
        figure.savefig(target, dpi=120)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error}; free space or move") from error


def _series(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
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
