"""The curve of a training run as a picture: losses and accuracies over samples.

Figures are read from the file that :mod:`internvl35.train.rounds` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from internvl35.errors import DataError

EVALUATED = "eval/"
"""What the names of an evaluation's figures begin with."""

SMOOTHING = 0.02
"""Share of a run over which the figures of single rounds are averaged."""


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
